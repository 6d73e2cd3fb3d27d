"""Which tensor of a Res2Net classifier becomes which of the backbone: pure functions of names.

Two ways of naming are known: the ModelZoo classifier's (MindSpore) and timm's (PyTorch), which
the authors' v1b models share. Ours is the ModelZoo detector's. No MindSpore here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """One way of naming a classifier's tensors.

    `stem` is theirs → ours; `statistics` the last part of a normalisation's names, theirs → ours;
    `shortcut` what a block calls its projection; `differences` how a network of that origin
    computes otherwise than this backbone, whatever its weights.
    """

    name: str
    stem: Mapping[str, str]
    shortcut: str
    statistics: Mapping[str, str]
    differences: tuple[str, ...]


_BATCH_STEM = (
    "the first two normalisations go by each batch here (the ModelZoo detector's way), "
    "by stored statistics there"
)

MODELZOO = Layout(
    name="ModelZoo classifier",
    stem={name: name for name in ("conv1_0", "bn1_0", "conv1_1", "bn1_1", "conv1_2", "bn1")},
    shortcut="down_sample_layer",
    statistics={name: name for name in ("gamma", "beta", "moving_mean", "moving_variance")},
    differences=(
        _BATCH_STEM,
        "normalisation adds 1e-5 to a variance here, 1e-4 there",
        "3x3 convolutions of stride 2 in the stages pad one pixel on every side here, "
        "right and bottom only there",
    ),
)

TIMM = Layout(
    name="timm or Res2Net v1b",
    stem={
        "conv1.0": "conv1_0",
        "conv1.1": "bn1_0",
        "conv1.3": "conv1_1",
        "conv1.4": "bn1_1",
        "conv1.6": "conv1_2",
        "bn1": "bn1",
    },
    shortcut="downsample",
    statistics={
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
    differences=(
        _BATCH_STEM,
        "the first convolution and the max pool behind the stem pad right and bottom only here, "
        "one pixel on every side there",
        "average pools in the first block of a stage leave the padding out of the mean here, "
        "count it as zeros there; with stride 2 they also pad right and bottom only here",
    ),
)

AVERAGED_SHORTCUT = (
    "shortcuts of stages 2 to 4 take the largest of 2x2 pixels here, their average there"
)
STRIDED_SHORTCUT = (
    "shortcuts of stages 2 to 4 take the largest of 2x2 pixels here, the first of them there"
)

_BLOCK = re.compile(r"(layer[1-4]\.(?:0|[1-9][0-9]*))\.(.+)")
_PLAIN = re.compile(r"conv1|bn1|conv3|bn3|(?:convs|bns)\.(?:0|[1-9][0-9]*)")
_INDEX = re.compile(r"0|[1-9][0-9]*")
_NORM = re.compile(r"(?:^|\.)bn")
_SHORTCUT = ("conv_down_sample", "bn_down_sample")

_NOT_WANTED = (
    (re.compile(r"(?:fc|end_point)\.(?:weight|bias)"), "the classifier's last layer"),
    (re.compile(r".+\.num_batches_tracked"), "a counter that nothing reads"),
    (
        re.compile(
            r"(?:moments|moment1|moment2|accum)\..+|global_step|learning_rate|momentum|"
            r"epoch_num|step_num|scale_sense|(?:current|last_overflow)_iterator_step"
        ),
        "state of the optimizer",
    ),
)


def layout_of(names: Iterable[str]) -> Layout | None:
    """How `names` are made, judged by what they call a running mean; None: neither way."""
    endings = {name.rpartition(".")[2] for name in names}
    for layout, mean in ((MODELZOO, "moving_mean"), (TIMM, "running_mean")):
        if mean in endings:
            return layout
    return None


def mapping(names: Iterable[str], layout: Layout) -> dict[str, str]:
    """Their name → ours, for those of `names` that the backbone has a place for.

    Ours are without the prefix `feature_map.backbone.`. No two names get the same place.
    """
    names = list(names)
    first = shortcut_indices(names, layout)
    found = ((name, _target(name, layout, first)) for name in names)
    return {name: target for name, target in found if target is not None}


def shortcut_indices(names: Iterable[str], layout: Layout) -> dict[str, int]:
    """Block → index of its shortcut's convolution: 1 behind a pool, else 0.

    The shortcut is a sequence of an optional pool, a convolution and its normalisation; a pool
    has no tensors, so the convolution is the first that has.
    """
    first: dict[str, int] = {}
    for name in names:
        part = _shortcut_part(name.rpartition(".")[0], layout)
        if part is not None:
            block, index = part
            first[block] = min(index, first.get(block, index))
    return first


def ignored_because(name: str) -> str:
    """Why a tensor is rightly left out; empty if it is not known to be."""
    return next((why for pattern, why in _NOT_WANTED if pattern.fullmatch(name)), "")


def allowed_by(name: str, patterns: Iterable[str]) -> str:
    """The first of the shell patterns that matches `name`; empty if none does."""
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), "")


def differences(names: Iterable[str], layout: Layout) -> tuple[str, ...]:
    """How the donor's function differs from the backbone's although every tensor fits."""
    if layout is not TIMM:
        return layout.differences
    behind_pool = 1 in shortcut_indices(names, layout).values()
    return (*layout.differences, AVERAGED_SHORTCUT if behind_pool else STRIDED_SHORTCUT)


def misfits(donor: Mapping[str, Shape], wanted: Mapping[str, Shape], layout: Layout) -> list[str]:
    """What in the donor's build keeps it from fitting, in terms of its design; may be empty."""
    theirs = {ours: donor[name] for name, ours in mapping(donor, layout).items()}
    found = []
    stem = donor.get("conv1.weight", ())
    if len(stem) == 4:
        found.append(
            f"its stem is one {stem[2]}x{stem[3]} convolution, this backbone's is three of 3x3 "
            "(as in timm's res2net50d and Res2Net v1b)"
        )
    for what, knob, measure in (
        ("blocks a stage", "res2net_block", _blocks),
        ("groups a block", "scale", _scale),
        ("channels a group in the first block", "base_width", _width),
    ):
        its, here = measure(theirs), measure(wanted)
        if its != here:
            found.append(f"{what}: {its} there, {here} here ({knob})")
    if any(".se." in name or ".se_dense_" in name for name in donor):
        found.append("it has squeeze-and-excitation, which this backbone has not")
    return found


def _target(name: str, layout: Layout, first: Mapping[str, int]) -> str | None:
    module, _, leaf = name.rpartition(".")
    place = layout.stem.get(module) or _place_in_block(module, layout, first)
    if place is None:
        return None
    leaves = layout.statistics if _NORM.search(place) else {"weight": "weight"}
    return f"{place}.{leaves[leaf]}" if leaf in leaves else None


def _place_in_block(module: str, layout: Layout, first: Mapping[str, int]) -> str | None:
    match = _BLOCK.fullmatch(module)
    if match and _PLAIN.fullmatch(match[2]):
        return module
    part = _shortcut_part(module, layout)
    if part is None:
        return None
    block, index = part
    offset = index - first.get(block, index)
    return f"{block}.{_SHORTCUT[offset]}" if 0 <= offset < len(_SHORTCUT) else None


def _shortcut_part(module: str, layout: Layout) -> tuple[str, int] | None:
    """The block and the index of a part of its shortcut; None for anything else."""
    match = _BLOCK.fullmatch(module)
    if match is None:
        return None
    head, _, index = match[2].partition(".")
    return (match[1], int(index)) if head == layout.shortcut and _INDEX.fullmatch(index) else None


def _blocks(shapes: Mapping[str, Shape]) -> str:
    names = {match[1] for name in shapes if (match := _BLOCK.fullmatch(name))}
    stages = [sum(name.startswith(f"layer{stage}.") for name in names) for stage in range(1, 5)]
    return ", ".join(map(str, stages))


def _scale(shapes: Mapping[str, Shape]) -> str:
    convolutions = [name for name in shapes if name.startswith("layer1.0.convs.")]
    return str(len(convolutions) + 1) if convolutions else "none"


def _width(shapes: Mapping[str, Shape]) -> str:
    shape = shapes.get("layer1.0.convs.0.weight", ())
    return str(shape[0]) if shape else "none"
