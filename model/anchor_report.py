"""`python -m model.data anchors DIR`: anchors that fit a data set, for people or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from model.anchors import HeadShare, box_sizes, find_anchors, head_shares, mean_iou, whole_anchors
from model.architecture import ANCHORS_PER_HEAD, DEFAULT_ANCHORS, HEADS, STRIDES, check_side
from model.coco import SPLITS, CocoDataset
from model.config import ConfigError
from model.data_error import DataError
from model.progress_line import ProgressLine, said_if_slow

FORMAT = 1
MOST_ANCHORS = 100
NARROW = 8.0
"""Augmentation changes areas by more than that."""

NEEDED = len(HEADS) * ANCHORS_PER_HEAD


@dataclass(frozen=True)
class AnchorReport:
    """Anchors found for a data set, in whole pixels of an input of `side`, by area.

    `exact` are the same before rounding; `mean_iou` and `default_mean_iou` are the average IoU of
    a box with its best of them, and of the default anchors. `boxes` were used; of the others,
    crowds, boxes not larger than a pixel, and images without a larger one are left out as in
    training. `heads` is empty unless the trainer could take them.
    """

    directory: str
    split: str
    side: int
    seed: int
    anchors: list[list[int]]
    exact: list[list[float]]
    mean_iou: float
    default_mean_iou: float
    images: int
    boxes: int
    crowd_boxes_left_out: int
    small_boxes_left_out: int
    images_left_out: int
    heads: list[HeadShare]

    @property
    def argument(self) -> str:
        """The anchors as an argument of the trainer."""
        return "--anchor_scales=" + ",".join(str(n) for pair in self.anchors for n in pair)


def look(directory: str, *, split: str, count: int, side: int, seed: int) -> AnchorReport:
    """Read the boxes of a split and find anchors for them; raises DataError."""
    with said_if_slow(f"reading the annotations of {split} in {directory}"):
        dataset = CocoDataset.load(directory, split, training=True)
    sizes = box_sizes(dataset, side)
    if not len(sizes):
        raise DataError(str(dataset.annotation_file), ["no box is larger than a pixel"])
    progress = ProgressLine(sys.stderr, "starts tried")
    try:
        exact = find_anchors(sizes, count, seed, progress)
    except ValueError as error:
        raise DataError(str(dataset.annotation_file), [f"{error}; lower --count"]) from error
    finally:
        progress.close()
    anchors = whole_anchors(exact)
    return AnchorReport(
        directory=directory, split=split, side=side, seed=seed,
        anchors=anchors.tolist(), exact=np.round(exact, 3).tolist(),
        mean_iou=round(mean_iou(sizes, anchors), 6),
        default_mean_iou=round(mean_iou(sizes, np.array(DEFAULT_ANCHORS)), 6),
        images=len(dataset), boxes=len(sizes),
        crowd_boxes_left_out=dataset.crowd_boxes_left_out,
        small_boxes_left_out=len(dataset.box_table) - len(sizes),
        images_left_out=dataset.images_left_out,
        heads=head_shares(sizes, anchors) if count == NEEDED else [],
    )  # fmt: skip


def lines(report: AnchorReport) -> Iterator[str]:
    """Yield the report for people."""
    yield (
        f"{report.directory} ({report.split}): {report.boxes} boxes of {report.images} images, "
        f"stretched to {report.side} x {report.side}"
    )
    yield (
        f"left out, as in training: {report.crowd_boxes_left_out} crowd boxes, "
        f"{report.small_boxes_left_out} boxes not larger than a pixel, "
        f"{report.images_left_out} images without a larger one"
    )
    yield (
        f"average best IoU: {report.mean_iou:.4f}; "
        f"of the default anchors {report.default_mean_iou:.4f}"
    )
    yield from _head_lines(report)
    if len(set(map(tuple, report.anchors))) < len(report.anchors):
        yield "some anchors are the same in whole pixels: fewer (--count) would do"
    if areas_ratio(report) < NARROW:
        yield (
            "the boxes hardly differ in size, but training shrinks and enlarges images by chance: "
            "anchors spread wider may learn better"
        )
    if len(report.anchors) != NEEDED:
        yield f"the trainer takes {NEEDED} anchors, these are {len(report.anchors)}"
    yield report.argument


def areas_ratio(report: AnchorReport) -> float:
    """How many times the smallest anchor's area the largest one's is."""
    areas = [width * height for width, height in report.anchors]
    return max(areas) / min(areas)


def _head_lines(report: AnchorReport) -> Iterator[str]:
    """One line a head, that of the smallest objects first."""
    for place, share in enumerate(reversed(report.heads)):
        first = place * ANCHORS_PER_HEAD
        own = report.anchors[first : first + ANCHORS_PER_HEAD]
        pairs = "  ".join(f"{width},{height}" for width, height in own)
        yield (
            f"head {share.head}, stride {STRIDES[share.head]:>2}: "
            f"{share.boxes / report.boxes:6.1%} of the boxes, "
            f"average IoU {share.mean_iou:.4f}: {pairs}"
        )


def document(report: AnchorReport) -> dict[str, Any]:
    """Return the report for JSON."""
    return {"format": FORMAT, **asdict(report), "argument": report.argument}


def add_command(commands: Any) -> None:
    """Add the command to argparse's subcommands."""
    command = commands.add_parser(
        "anchors", help="find anchors that fit the boxes; exit 0, 64 (values), 65 or 66 (data)"
    )
    command.add_argument("directory", metavar="DIR", help="holds train2017 and annotations")
    for name, default, meaning in (
        ("count", NEEDED, "anchors; the trainer takes nine"),
        ("side", 416, "side of the network's input in pixels"),
        ("seed", 1, "of the search"),
    ):
        command.add_argument(f"--{name}", default=str(default), help=f"{meaning} ({default})")
    command.add_argument("--split", default=SPLITS[0], help=f"{' or '.join(SPLITS)} ({SPLITS[0]})")
    command.add_argument("--json", action="store_true", help="one JSON document on stdout")
    command.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Find the anchors and print them; returns the exit code."""
    try:
        report = look(given.directory, **checked(given))
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(document(report), indent=1) if given.json else "\n".join(lines(report)))
    return 0


def checked(given: argparse.Namespace) -> dict[str, Any]:
    """Read the values of the options; raises ConfigError with every mistake."""
    problems: list[str] = []
    limits = {"count": (1, MOST_ANCHORS), "side": (1, 1 << 16), "seed": (0, (1 << 63) - 1)}
    values: dict[str, Any] = {"split": given.split}
    for name, (low, high) in limits.items():
        text = getattr(given, name)
        values[name] = int(text) if text.isdecimal() and len(text) < 20 else -1
        if not low <= values[name] <= high:
            problems.append(f"--{name}={text}: expected a whole number from {low} to {high}")
        elif name == "side":
            problems += _mistake_in_side(values[name])
    if given.split not in SPLITS:
        problems.append(f"--split={given.split}: expected {' or '.join(SPLITS)}")
    if problems:
        raise ConfigError(problems)
    return values


def _mistake_in_side(side: int) -> list[str]:
    try:
        check_side(side)
    except ValueError as error:
        return [f"--side={side}: {error}"]
    return []
