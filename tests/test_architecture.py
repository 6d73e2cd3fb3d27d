"""Depths and widths, and the network built of them."""

from __future__ import annotations

import numpy as np
import pytest

from model.architecture import FULL, HEADS, SMALL, Architecture, check_side
from model.training_network import decay_groups
from model.yolo import YoloV3

TINY = {
    "backbone_shape": [8, 8, 16, 32, 64],
    "res2net_block": [1, 2, 1, 1],
    "res2net_in_channels": [16, 16, 32, 48],
    "res2net_out_channels": [16, 32, 48, 64],
    "num_classes": 2,
}


def test_defaults_are_the_originals() -> None:
    """The full network predicts 255 channels from anchors sorted by head."""
    assert FULL.out_channel == 255
    assert FULL.head_anchors("s")[0] == (10, 13)
    assert FULL.head_anchors("l")[-1] == (373, 326)
    assert FULL.head_widths == {"l": 1024, "m": 512, "s": 256}


def test_lists_become_tuples() -> None:
    """Values as a configuration file gives them make a hashable architecture."""
    architecture = Architecture(**TINY, anchors=[list(pair) for pair in FULL.anchors])
    assert hash(architecture) == hash(Architecture(**TINY))
    assert architecture.anchors == FULL.anchors


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_classes", 0),
        ("scale", 1),
        ("base_width", 0),
        ("ignore_threshold", 0.0),
        ("backbone_bn", "sync"),
        ("backbone_shape", (1, 2, 3)),
        ("backbone_shape", (8, 8, 16, 32, 63)),
        ("backbone_shape", (8, 8, 15, 32, 64)),
        ("res2net_block", (1, 0, 1, 1)),
        ("res2net_in_channels", (16, 16, 32, 40)),
        ("res2net_in_channels", (15, 16, 32, 48)),
        ("anchors", ((1, 2),)),
        ("anchors", tuple((0, i + 1) for i in range(9))),
    ],
)
def test_contradictions_are_refused_by_name(field: str, value: object) -> None:
    """What cannot be built is a ValueError that starts with the field and shows the value."""
    with pytest.raises(ValueError, match=f"^{field}: "):
        Architecture(**{**TINY, field: value})


def test_too_narrow_stages_are_refused() -> None:
    """A stage whose groups would have no channel is refused."""
    narrow = {"res2net_in_channels": (4, 4, 32, 48), "res2net_out_channels": (4, 32, 48, 64)}
    with pytest.raises(ValueError, match="base_width 26"):
        Architecture(**{**TINY, **narrow})


@pytest.mark.parametrize("side", [31, 0, -32])
def test_sides_are_multiples_of_the_coarsest_stride(side: int) -> None:
    """32 must divide the input's side."""
    assert check_side(416) == 416
    with pytest.raises(ValueError, match="multiple of 32"):
        check_side(side)


def test_learning_from_scratch_trains_everything() -> None:
    """Without a frozen backbone only moving statistics do not learn."""
    scratch = YoloV3(Architecture(**TINY, freeze_backbone=False, backbone_bn="batch"))
    fixed = [p.name for p in scratch.get_parameters() if not p.requires_grad]
    assert fixed
    assert all(".moving_" in name for name in fixed)


def test_a_frozen_backbone_keeps_stem_and_first_stage() -> None:
    """The original's default: stem (but for two normalisations) and first stage do not learn."""
    frozen = YoloV3(Architecture(**TINY))
    learned = [p.name for p in frozen.trainable_params() if ".backbone." in p.name]
    stem = [name.split("backbone.")[1] for name in learned if ".layer" not in name]
    assert stem == ["bn1_0.gamma", "bn1_0.beta", "bn1_1.gamma", "bn1_1.beta"]
    assert not [name for name in learned if ".layer1." in name]
    assert [name for name in learned if ".layer2.1.convs.2.weight" in name]


def test_initial_weights_depend_on_seed_and_name_only() -> None:
    """The same seed gives the same weights, in another network too; another seed, others."""
    first, again, other = (
        {p.name: p.asnumpy() for p in YoloV3(architecture, seed).get_parameters()}
        for architecture, seed in (
            (Architecture(**TINY), 3),
            (Architecture(**{**TINY, "num_classes": 7}), 3),
            (Architecture(**TINY), 4),
        )
    )
    name = "feature_map.backbone.conv1_0.weight"
    assert np.array_equal(first[name], again[name])
    assert not np.array_equal(first[name], other[name])


def test_initial_weights_are_uniform_within_the_fan_in_bound() -> None:
    """Convolutions and biases fill +-1 / sqrt(fan in); normalisation starts as the identity."""
    for parameter in YoloV3(SMALL).get_parameters():
        values = parameter.asnumpy()
        if values.ndim == 4:
            bound = np.prod(values.shape[1:]) ** -0.5
            assert np.abs(values).max() <= bound
            if values.size > 1000:
                assert values.std() == pytest.approx(bound / 3**0.5, rel=0.05)
        elif parameter.name.endswith(("gamma", "variance")):
            assert (values == 1).all()
        elif not parameter.name.endswith("bias"):
            assert not values.any()


def test_weight_decay_spares_biases_and_normalisation() -> None:
    """Every trainable parameter is in one group, convolutions in the one that decays."""
    network = YoloV3(Architecture(**TINY))
    free, decayed = decay_groups(network)
    assert all(p.name.endswith(".weight") for p in decayed)
    assert not any(p.name.endswith(".weight") for p in free)
    assert len(free) + len(decayed) == len(network.trainable_params())
    assert len(HEADS) == sum(p.name.endswith("conv6.bias") for p in free)
