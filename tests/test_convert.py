"""From a classifier to a backbone: every tensor accounted for, everything or nothing written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Parameter, Tensor
from safetensors.numpy import save_file

from model import donors
from model.architecture import FULL, Architecture
from model.convert import convert, main, wanted_shapes
from model.donor_account import account_of
from model.donors import MODELZOO, TIMM, Layout, Shape
from model.restore import load_backbone
from model.yolo import YoloV3

GOLDEN = Path(__file__).parent / "golden_data" / "network.json"
TINY = Architecture(
    backbone_shape=(8, 8, 8, 16, 32),
    res2net_block=(1, 2, 1, 1),
    res2net_in_channels=(16, 16, 16, 32),
    res2net_out_channels=(16, 16, 32, 32),
)
TINY_ARGUMENTS = [
    "--backbone_shape=8,8,8,16,32",
    "--res2net_block=1,2,1,1",
    "--res2net_in_channels=16,16,16,32",
    "--res2net_out_channels=16,16,32,32",
]
NORMS = {
    TIMM.name: ("weight", "bias", "running_mean", "running_var"),
    MODELZOO.name: ("gamma", "beta", "moving_mean", "moving_variance"),
}
STEMS = {
    TIMM.name: ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6"),
    MODELZOO.name: ("conv1_0", "bn1_0", "conv1_1", "bn1_1", "conv1_2"),
}


def classifier(
    layout: Layout, a: Architecture, *, pool: bool = True, stem: int = 3
) -> dict[str, Shape]:
    """Names and shapes of a whole classifier built like `a`, the last layer included.

    `pool`: shortcuts that halve begin with a pool (timm's d variants: all shortcuts do).
    """

    def norm(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
        yield from ((f"{name}.{leaf}", (channels,)) for leaf in NORMS[layout.name])
        if layout is TIMM:
            yield f"{name}.num_batches_tracked", ()

    def rows() -> Iterator[tuple[str, Shape]]:
        wide = a.res2net_in_channels[0]
        if stem == 3:
            c0, n0, c1, n1, c2 = STEMS[layout.name]
            yield f"{c0}.weight", (wide // 2, 3, 3, 3)
            yield from norm(n0, wide // 2)
            yield f"{c1}.weight", (wide // 2, wide // 2, 3, 3)
            yield from norm(n1, wide // 2)
            yield f"{c2}.weight", (wide, wide // 2, 3, 3)
        else:
            yield "conv1.weight", (wide, 3, stem, stem)
        yield from norm("bn1", wide)
        for stage, blocks in enumerate(a.res2net_block):
            inputs, outputs = a.res2net_in_channels[stage], a.res2net_out_channels[stage]
            for i in range(blocks):
                source = outputs if i else inputs
                yield from block(f"layer{stage + 1}.{i}", source, outputs, halves=stage > 0 == i)
        last = "fc" if layout is TIMM else "end_point"
        yield f"{last}.weight", (1000, a.res2net_out_channels[-1])
        yield f"{last}.bias", (1000,)

    def block(name: str, inputs: int, outputs: int, *, halves: bool) -> Iterator[tuple[str, Shape]]:
        width = a.split_width(outputs)
        yield f"{name}.conv1.weight", (width * a.scale, inputs, 1, 1)
        yield from norm(f"{name}.bn1", width * a.scale)
        for i in range(a.scale - 1):
            yield f"{name}.convs.{i}.weight", (width, width, 3, 3)
            yield from norm(f"{name}.bns.{i}", width)
        yield f"{name}.conv3.weight", (outputs, width * a.scale, 1, 1)
        yield from norm(f"{name}.bn3", outputs)
        if halves or inputs != outputs:
            first = int(pool and (halves or layout is TIMM))
            shortcut = f"{name}.{'downsample' if layout is TIMM else 'down_sample_layer'}"
            yield f"{shortcut}.{first}.weight", (outputs, inputs, 1, 1)
            yield from norm(f"{shortcut}.{first + 1}", outputs)

    return dict(rows())


def filled(shapes: Mapping[str, Shape], kind: type = np.float32) -> dict[str, np.ndarray]:
    """Positive random values for every tensor."""
    draw = np.random.default_rng(3)
    counters = {name for name in shapes if name.endswith("num_batches_tracked")}
    return {
        name: np.array(7) if name in counters else draw.random(shape).astype(kind)
        for name, shape in shapes.items()
    }


def save(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    """Write a state dict or a MindSpore checkpoint, by the suffix."""
    if path.suffix == ".safetensors":
        save_file(dict(tensors), str(path))
    else:
        rows = [Parameter(Tensor(values), name=name) for name, values in tensors.items()]
        ms.save_checkpoint([{"name": row.name, "data": row} for row in rows], str(path))
    return path


def command(source: Path, output: Path, *more: str) -> int:
    """Run the command for the tiny backbone; returns its exit code."""
    return main([f"--input_file={source}", f"--output_file={output}", *TINY_ARGUMENTS, *more])


@pytest.fixture(scope="module")
def wanted() -> dict[str, Shape]:
    """The full backbone's tensors."""
    return wanted_shapes(FULL)


@pytest.mark.parametrize(
    ("layout", "pool"), [(MODELZOO, True), (TIMM, True), (TIMM, False)],
    ids=["modelzoo", "averaged", "strided"],
)  # fmt: skip
def test_a_whole_classifier_fills_the_whole_backbone(
    wanted: dict[str, Shape], layout: Layout, pool: bool
) -> None:
    """Each of the 435 tensors gets exactly one of the same shape; the rest is told with reasons."""
    account = account_of(classifier(layout, FULL, pool=pool), wanted)
    assert account.problems() == []
    assert {ours: shape for _, ours, shape in account.mapped} == wanted
    assert len(account.mapped) == len(wanted) == 435
    reasons = {reason for _, reason in account.ignored}
    assert reasons == {"the classifier's last layer"} | (
        {"a counter that nothing reads"} if layout is TIMM else set()
    )
    assert (donors.AVERAGED_SHORTCUT in account.differences) == (layout is TIMM and pool)
    assert (donors.STRIDED_SHORTCUT in account.differences) == (layout is TIMM and not pool)


def test_names_are_those_of_the_original_converter() -> None:
    """A ModelZoo classifier of the recorded network's build gives its names and shapes."""
    recorded = {
        name.removeprefix("feature_map.backbone."): tuple(shape)
        for name, shape, _ in json.loads(GOLDEN.read_text())["small"]["params"]
        if "backbone." in name
    }
    small = Architecture(
        backbone_shape=(32, 64, 128, 256, 512),
        res2net_block=(1, 1, 1, 1),
        res2net_in_channels=(64, 64, 128, 256),
        res2net_out_channels=(64, 128, 256, 512),
    )
    account = account_of(classifier(MODELZOO, small), recorded)
    assert {ours: shape for _, ours, shape in account.mapped} == recorded


@pytest.mark.parametrize(
    ("layout", "theirs", "ours"),
    [
        (TIMM, "conv1.4.running_var", "bn1_1.moving_variance"),
        (TIMM, "conv1.6.weight", "conv1_2.weight"),
        (TIMM, "bn1.weight", "bn1.gamma"),
        (TIMM, "layer3.5.bns.2.bias", "layer3.5.bns.2.beta"),
        (TIMM, "layer2.0.downsample.1.weight", "layer2.0.conv_down_sample.weight"),
        (TIMM, "layer1.0.downsample.2.running_mean", "layer1.0.bn_down_sample.moving_mean"),
        (MODELZOO, "layer1.0.down_sample_layer.0.weight", "layer1.0.conv_down_sample.weight"),
        (MODELZOO, "layer4.0.down_sample_layer.2.gamma", "layer4.0.bn_down_sample.gamma"),
    ],
)
def test_single_names(layout: Layout, theirs: str, ours: str) -> None:
    """Some pairs written out by hand."""
    assert donors.mapping(classifier(layout, FULL), layout)[theirs] == ours


PART = st.sampled_from(
    ["conv1", "bn1", "conv3", "bn3", "convs.0", "convs.10", "convs.010", "bns.2", "se", ""]
    + [f"{word}.{i}" for word in ("downsample", "down_sample_layer") for i in ("0", "1", "2", "02")]
)
BLOCK = st.sampled_from(["0", "1", "01"])
STEM = st.sampled_from(["conv1.0", "conv1.1", "conv1_0", "bn1", "fc"])
LEAF = st.sampled_from(["weight", "bias", "gamma", "running_mean", "moving_mean", "x"])
NAME = st.one_of(
    st.builds("layer{}.{}.{}.{}".format, st.integers(0, 5), BLOCK, PART, LEAF),
    st.builds("{}.{}".format, STEM, LEAF),
    st.text(max_size=8),
    st.sampled_from(sorted({**classifier(TIMM, FULL), **classifier(MODELZOO, FULL)})),
)


@given(names=st.lists(NAME, unique=True, max_size=60), layout=st.sampled_from([TIMM, MODELZOO]))
def test_no_two_tensors_get_one_place(names: list[str], layout: Layout) -> None:
    """Whatever the names: none is claimed twice, and their order does not matter."""
    found = donors.mapping(names, layout)
    assert found.keys() <= set(names)
    assert len(set(found.values())) == len(found)
    assert donors.mapping(reversed(names), layout) == found


@given(names=st.lists(NAME, unique=True, max_size=60))
def test_every_tensor_is_accounted_for_once(names: list[str]) -> None:
    """Mapped, mismatched, ignored and unknown are all of the donor; the places are all of ours."""
    wanted = {"bn1.gamma": (4,), "layer1.0.conv1.weight": (1,), "conv1_0.weight": (2,)}
    account = account_of(dict.fromkeys(names, (4,)), wanted)
    rows = [*account.mapped, *account.mismatched, *account.ignored]
    assert sorted([row[0] for row in rows] + [*account.unknown]) == sorted(names)
    taken = [row[1] for row in (*account.mapped, *account.mismatched)]
    assert sorted([*taken, *(name for name, _ in account.missing)]) == sorted(wanted)


@pytest.mark.parametrize(
    ("layout", "suffix", "kind"),
    [(TIMM, ".safetensors", np.float16), (MODELZOO, ".ckpt", np.float32)],
)
def test_a_converted_backbone_loads_with_the_donors_values(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    layout: Layout,
    suffix: str,
    kind: type,
) -> None:
    """What is written is what `--pretrained_backbone` takes, value for value, in float32."""
    tensors = filled(classifier(layout, TINY), kind)
    source, output = save(tmp_path / f"donor{suffix}", tensors), tmp_path / "backbone.ckpt"
    assert command(source, output, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["written"] and not document["refused"]
    assert sorted(os.listdir(tmp_path)) == sorted([output.name, source.name])
    network = YoloV3(TINY)
    load_backbone(output, network)
    loaded = {row.name: row.asnumpy() for row in network.get_parameters()}
    backbone = {name for name in loaded if name.startswith("feature_map.backbone.")}
    assert {row["to"] for row in document["mapped"]} == backbone
    for row in document["mapped"]:
        np.testing.assert_array_equal(loaded[row["to"]], tensors[row["from"]].astype(np.float32))


def with_tensor(name: str, values: object) -> Callable[[dict[str, np.ndarray]], None]:
    """A change: one tensor is added or replaced."""
    return lambda tensors: tensors.update({name: np.asarray(values)})


def without(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    """A change: one tensor is missing."""
    return lambda tensors: tensors.pop(name) is not None and None


BROKEN = {
    "missing statistic": (without("layer1.0.bn3.running_var"), "layer1.0.bn3.moving_variance"),
    "missing stem": (without("conv1.3.weight"), "tensors that are missing: 1: conv1_1.weight"),
    "another shape": (with_tensor("bn1.bias", np.zeros(3, np.float32)), "bn1.beta is (3,), wanted"),
    "no number": (
        with_tensor("bn1.bias", np.full(16, np.nan, np.float32)),
        "bn1.bias holds values that are not finite",
    ),
    "too large": (with_tensor("bn1.bias", np.full(16, 1e300)), "not finite in float32"),
    "negative": (
        with_tensor("bn1.running_var", np.full(16, -1, np.float32)),
        "bn1.running_var holds negative variances",
    ),
    "integers": (with_tensor("bn1.bias", np.zeros(16, np.int64)), "bn1.bias is I64"),
    "squeeze": (
        with_tensor("layer2.1.se.fc1.weight", np.zeros(3, np.float32)),
        "squeeze-and-excitation",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Exit code 65, the tensor is named, and an earlier output is left as it was."""
    change, message = BROKEN[name]
    tensors = filled(classifier(TIMM, TINY))
    change(tensors)
    source, output = save(tmp_path / "donor.safetensors", tensors), tmp_path / "backbone.ckpt"
    output.write_text("as before")
    assert command(source, output) == 65
    assert message in capsys.readouterr().err
    assert output.read_text() == "as before"
    assert sorted(os.listdir(tmp_path)) == ["backbone.ckpt", "donor.safetensors"]


def described(**changes: object) -> Architecture:
    """The full backbone with some changes."""
    return Architecture(**{**FULL.__dict__, **changes})


@pytest.mark.parametrize(
    ("donor", "message"),
    [
        (classifier(TIMM, FULL, pool=False, stem=7), "its stem is one 7x7 convolution"),
        (
            classifier(TIMM, described(res2net_block=(3, 4, 23, 3))),
            "blocks a stage: 3, 4, 23, 3 there, 3, 4, 6, 3 here (res2net_block)",
        ),
        (classifier(MODELZOO, described(scale=8, base_width=14)), "8 there, 4 here (scale)"),
        (classifier(TIMM, described(scale=8, base_width=14)), "14 there, 26 here (base_width)"),
        ({"feature_map.backbone.bn1.moving_mean": (64,)}, "give it to --pretrained_backbone"),
        ({"weight": (3,)}, "no trained classifier"),
        ({}, "no trained classifier"),
    ],
)
def test_a_donor_of_another_design_is_refused_in_its_terms(
    wanted: dict[str, Shape], donor: dict[str, Shape], message: str
) -> None:
    """The first reasons tell the design and the setting, not three hundred names."""
    problems = account_of(donor, wanted).problems()
    assert message in "\n".join(problems)
    assert len(problems) <= 7


def test_tensors_are_left_out_only_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--allow` leaves out what nothing takes; a pattern that matches nothing is a mistake."""
    tensors = filled({**classifier(TIMM, TINY), "layer2.1.se.fc1.weight": (3,)})
    source, output = save(tmp_path / "donor.safetensors", tensors), tmp_path / "backbone.ckpt"
    assert command(source, output, "--allow=layer?.*.se.*", "--allow=head.*") == 64
    assert "--allow=head.*: no tensor" in capsys.readouterr().err
    assert not output.exists()
    assert command(source, output, "--allow=layer?.*.se.*") == 0
    shown = capsys.readouterr().out
    assert "ignored     layer2.1.se.fc1.weight: --allow=layer?.*.se.*" in shown
    assert output.exists()


def test_a_full_disk_leaves_the_earlier_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails leaves no half and no litter."""
    source = save(tmp_path / "donor.safetensors", filled(classifier(TIMM, TINY)))
    output = tmp_path / "backbone.ckpt"
    output.write_text("as before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        convert(source, output, TINY)
    assert command(source, output) == 1
    assert output.read_text() == "as before"
    assert sorted(os.listdir(tmp_path)) == ["backbone.ckpt", "donor.safetensors"]


def test_wrong_places_and_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arguments end with 64, an unreadable input with 66, one of the wrong kind with 65."""
    torch, text, other = (tmp_path / f"donor.{end}" for end in ("pth", "safetensors", "ckpt"))
    torch.write_bytes(b"PK\x03\x04rest")
    for file in (text, other):
        file.write_text("nothing of the kind")
    good = tmp_path / "out.ckpt"
    for source, output, code, message in (
        (text, tmp_path / "out.bin", 64, "end in .ckpt"),
        (text, tmp_path / "none" / "out.ckpt", 64, "there is no folder"),
        (tmp_path / "none", good, 66, "no such file"),
        (torch, good, 65, "PyTorch pickle"),
        (text, good, 65, "not a safetensors file"),
        (other, good, 65, "not a MindSpore checkpoint"),
    ):
        assert command(source, output) == code
        assert message in capsys.readouterr().err
    assert main([]) == 64
    assert main(["--input_fil=x"]) == 64
    assert "did you mean --input_file?" in capsys.readouterr().err
    assert not good.exists()
