"""Comparison of data path, learning rates and COCO figures with recorded ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from model import transforms
from model.coco_eval import evaluate_detections
from model.config import Config
from model.sampling import multi_scale_side, rank_share
from model.schedule import Schedule
from tests.golden_vectors import EXACT, Difference, Golden, distance

FILE = "training.npz"
RESIZED, OTHER_COLOURS, SPREAD = 1e-3, 0.01, 0.02
"""Tolerances: mean difference after resizing, share of values more than a level apart,
percentiles in parts of their range."""

DRAWS = 8000
PERCENTILES = range(5, 96)
MEASURES = ("nw", "nh", "dx", "dy", "aspect", "kept", "cx", "cy", "area")


def schedule(arguments: Mapping[str, Any], **changes: Any) -> Schedule:
    """The schedule of recorded arguments, which call two things otherwise."""
    rest = {**arguments, **changes}
    name, milestones = rest.pop("lr_scheduler"), rest.pop("lr_epochs")
    return Schedule(scheduler=name, lr_epochs=tuple(milestones), **rest)


def check_learning_rates(golden: Golden) -> Iterator[Difference]:
    """The learning rate of every step of every recorded schedule."""
    for name, rates in golden.arrays(FILE, "lr/").items():
        ours = schedule(golden.training[f"lr/{name}"])
        found = [ours.learning_rate(step) for step in range(1, ours.total_steps + 1)]
        yield Difference(f"lr/{name}", distance(found, rates), EXACT)


def check_sampler(golden: Golden) -> Iterator[Difference]:
    """Indices of each rank in epochs 0 and 1."""
    for name, indices in golden.arrays(FILE, "sampler/").items():
        size, world, rank = map(int, name.split("_"))
        ours = [rank_share(size, world, rank, epoch) for epoch in range(len(indices))]
        yield Difference(f"sampler/{name}: indices that differ", _unequal(ours, indices), 0.0)


def check_multi_scale(golden: Golden) -> Iterator[Difference]:
    """The side of every recorded epoch and batch."""
    for name, sides in golden.arrays(FILE, "multi_scale/").items():
        rate, size = (int("".join(filter(str.isdigit, part))) for part in name.split("_"))
        ours = [
            [multi_scale_side(epoch, batch, size, Config().multi_scale, rate) for batch in range(n)]
            for epoch, n in enumerate([sides.shape[1]] * len(sides))
        ]
        yield Difference(f"multi_scale/{name}: sides that differ", _unequal(ours, sides), 0.0)


def check_resize(golden: Golden) -> Iterator[Difference]:
    """The evaluation transform of images that grow, shrink, do both or neither."""
    arrays = golden.arrays(FILE, "resize/")
    for case in _cases(arrays):
        side = golden.training[f"resize/{case}"]["to"]
        ours = transforms.evaluation_input(arrays[f"{case}/image"], side)[:, ::4, ::4]
        recorded = arrays[f"{case}/out_every_4"].transpose(2, 0, 1)
        apart = np.abs(ours - recorded).mean() if ours.shape == recorded.shape else np.inf
        yield Difference(f"resize/{case}: mean difference", float(apart), RESIZED)


def check_colour(golden: Golden) -> Iterator[Difference]:
    """Recorded shifts and factors on the recorded image."""
    arrays = golden.arrays(FILE, "colour/")
    image = arrays.pop("image")
    for case in _cases(arrays):
        how = golden.training[f"colour/{case}"]
        ours = transforms.distort_colour(
            image, how["hue_shift"], how["saturation_factor"], how["value_factor"]
        )
        apart = np.abs(ours.astype(int) - arrays[f"{case}/out"]) > 1
        item = f"colour/{case}: share of values more than a level apart"
        yield Difference(item, float(apart.mean()), OTHER_COLOURS)


def check_augmentation(golden: Golden) -> Iterator[Difference]:
    """Percentiles of sizes, places and boxes kept over many draws, and how often it flips."""
    arrays, setup = golden.arrays(FILE, "augmentation/"), golden.training["augmentation"]
    found, flips = _placements(setup)
    for name, values in zip(MEASURES, found.T, strict=True):
        recorded = arrays[f"{name}_percentiles"]
        apart = np.abs(np.percentile(values, PERCENTILES) - recorded[PERCENTILES]).max()
        value = float(apart / max(np.ptp(recorded), 1e-9))
        yield Difference(f"augmentation/{name}: percentiles", value, SPREAD)
    yield Difference("augmentation/flip rate", abs(flips - setup["flip_rate"]), SPREAD)


def _placements(setup: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """MEASURES of `DRAWS` placements (draws, 9), and the share that is flipped."""
    boxes, size = np.array(setup["boxes_xyxy_class"]), tuple(setup["image_wh"])
    rows, flips = [], 0
    for draw in range(DRAWS):
        rng = transforms.sample_generator(1, 0, draw)
        place, kept = transforms.choose_placement(
            rng, boxes, size, setup["input"], setup["jitter"]
        )  # fmt: skip
        centres, extents = (kept[:, :2] + kept[:, 2:4]) / 2, kept[:, 2:4] - kept[:, :2]
        shape = (place.width, place.height, place.x, place.y, place.width / place.height)
        rows.append([*shape, len(kept), *centres.mean(axis=0), extents.prod(axis=1).mean()])
        flips += place.flip
    return np.array(rows), flips / DRAWS


def check_figures(golden: Golden) -> Iterator[Difference]:
    """The twelve COCO figures of the recorded detections."""
    recorded = golden.arrays("evaluation.npz")
    figures = evaluate_detections(golden.truth, recorded["detections"])
    apart = np.abs(np.array(figures.values) - recorded["stats_12"]).max()
    yield Difference("the twelve COCO figures", float(apart), EXACT)


def _cases(arrays: Mapping[str, np.ndarray]) -> list[str]:
    return sorted({name.split("/")[0] for name in arrays})


def _unequal(ours: Any, recorded: np.ndarray) -> float:
    ours = np.array(ours)
    return float((ours != recorded).sum()) if ours.shape == recorded.shape else float("inf")
