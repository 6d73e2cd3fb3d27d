"""Precision over recall of an evaluation, and what each class is worth: values, table, files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.canvas import COLOURS, INK, PALE, canvas, literal
from model.whole_file import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE, DOCUMENT = "precision_recall.png", "precision_recall.json"
FORMAT = 1
IOUS = {"0.50": "AP50", "0.75": "AP75", "0.50:0.95": "AP"}
"""The overlaps from which a detection counts, and the name of the figure that belongs to each."""

MOST_BARS = 90
_BAR_PIXELS, _LEAST_PIXELS, _LEAST_BARS = 13, 580, 8


@dataclass(frozen=True, eq=False)
class ClassCurve:
    """One class: its category, how many objects it has, and its precision.

    `precision` (len(IOUS), R) from 0 to 1 is the highest at each recall or above it, in the order
    of IOUS; None if the class has no object, so that nothing can be said of it.
    """

    id: int
    name: str
    objects: int
    precision: np.ndarray | None

    def ap(self, iou: str) -> float:
        """The average precision at an overlap of IOUS; -1 without objects, as pycocotools says."""
        if self.precision is None:
            return -1.0
        return float(self.precision[list(IOUS).index(iou)].mean())


@dataclass(frozen=True, eq=False)
class Curves:
    """The curves of all classes by rising category id, over `recall` (R,), 0 to 1."""

    recall: np.ndarray
    classes: tuple[ClassCurve, ...]

    @property
    def present(self) -> tuple[ClassCurve, ...]:
        """The classes that have objects."""
        return tuple(row for row in self.classes if row.precision is not None)

    def mean(self) -> np.ndarray | None:
        """The mean over the present classes (len(IOUS), R); None if there are none."""
        known = [row.precision for row in self.classes if row.precision is not None]
        return np.mean(known, axis=0) if known else None

    def to_json(self) -> dict[str, Any]:
        """Return the document: curves by overlap, lists as long as `recall`; null if absent."""
        return {
            "format": FORMAT,
            "recall": _rounded(self.recall),
            "mean": _by_iou(self.mean()),
            "classes": [
                {
                    "id": row.id, "name": row.name, "objects": row.objects,
                    **{figure: round(row.ap(iou), 6) for iou, figure in IOUS.items()},
                    "precision": _by_iou(row.precision),
                }
                for row in self.classes
            ],
        }  # fmt: skip

    def table(self) -> str:
        """The figures of each class for people, the best class at IoU=0.50 first."""
        width = max([len("class"), *(len(row.name) for row in self.classes)])
        head = f"{'class':<{width}}  {'objects':>7}  " + "  ".join(f"{f:>5}" for f in IOUS.values())
        lines = [f"{row.name:<{width}}  {row.objects:>7}  {_figures(row)}" for row in ranked(self)]
        return "\n".join([head, *lines]) + "\n"


def ranked(curves: Curves) -> list[ClassCurve]:
    """The classes, the best at IoU=0.50 first, those without objects last."""
    return sorted(curves.classes, key=lambda row: (-row.ap("0.50"), row.id))


def write_curves(folder: Path, curves: Curves, name: str = "") -> Path:
    """Write PICTURE and DOCUMENT into `folder`, each whole or not at all; returns the picture.

    `name` says in the title what was evaluated. Raises OSError.
    """
    write_whole(folder / DOCUMENT, json.dumps(curves.to_json()).encode() + b"\n")
    picture = folder / PICTURE
    rows = shown(ranked(curves))
    with canvas(picture, max(_LEAST_PIXELS, 170 + _BAR_PIXELS * len(rows))) as figure:
        draw_curves(figure, curves, name)
    return picture


def draw_curves(figure: Figure, curves: Curves, name: str = "") -> None:
    """Draw precision over recall at the left, and the AP50 of each class at the right."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    title = f"{literal(name, 60)}: precision and recall" if name else "Precision and recall"
    figure.suptitle(title, x=0.01, ha="left")
    colours = _colours(curves)
    _draw_recall(left, curves, colours)
    _draw_bars(right, shown(ranked(curves)), colours)


def _colours(curves: Curves) -> dict[int, str]:
    """A colour for each class by its id, if so few can be told apart."""
    few = 1 < len(curves.present) <= len(COLOURS)
    return {row.id: c for row, c in zip(curves.present, COLOURS, strict=False)} if few else {}


def shown(rows: Sequence[ClassCurve]) -> list[ClassCurve | None]:
    """The rows to draw: all, or as many of both ends as fit, None standing for the others."""
    if len(rows) <= MOST_BARS:
        return list(rows)
    half = MOST_BARS // 2
    return [*rows[:half], None, *rows[-half:]]


def _draw_recall(axes: Axes, curves: Curves, colours: dict[int, str]) -> None:
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    mean, present = curves.mean(), curves.present
    if mean is None:
        axes.text(0.5, 0.5, "no objects to find", ha="center", color=PALE, fontsize=14)
        return
    single = len(present) == 1
    for row in () if single else present:
        colour = colours.get(row.id)
        axes.plot(
            curves.recall, row.precision[0], color=colour or PALE,
            linewidth=1.2 if colour else 0.6, alpha=0.9 if colour else 0.55,
        )  # fmt: skip
    if not single:
        axes.plot([], [], color=PALE, linewidth=1, label="each class, IoU=0.50")
    what = literal(present[0].name, 24) if single else "all classes"
    for (iou, figure), line, style in zip(IOUS.items(), mean, ("-", "--", ":"), strict=True):
        label = f"{what}, IoU={iou}: {figure} {line.mean():.3f}"
        axes.plot(curves.recall, line, color=INK, linewidth=2.4, linestyle=style, label=label)
    # Above: inside, it would hide the curves of a good network or of a bad one.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def _draw_bars(axes: Axes, rows: Sequence[ClassCurve | None], colours: dict[int, str]) -> None:
    small = 10 if len(rows) <= 30 else 8
    for place, row in enumerate(rows):
        if row is None:
            continue
        value = max(row.ap("0.50"), 0.0)
        axes.barh(place, value, color=colours.get(row.id, COLOURS[0]), height=0.7, alpha=0.85)
        text = "no objects" if row.precision is None else f"{value:.3f}"
        axes.text(value + 0.01, place, text, va="center", fontsize=small, color=PALE)
    names = ["…" if row is None else literal(row.name, 24) for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=small)
    axes.set(xlim=(0, 1), ylim=(max(len(rows), _LEAST_BARS) - 0.4, -0.6))
    axes.set(xlabel="average precision of each class at IoU=0.50")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _figures(row: ClassCurve) -> str:
    if row.precision is None:
        return "  ".join([f"{'-':>5}"] * len(IOUS))
    return "  ".join(f"{row.ap(iou):5.3f}" for iou in IOUS)


def _by_iou(precision: np.ndarray | None) -> dict[str, list[float]] | None:
    if precision is None:
        return None
    return {iou: _rounded(line) for iou, line in zip(IOUS, precision, strict=True)}


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]
