"""What `metrics.jsonl` says of a run: read from its end, thinned while it is read.

The last line of a step is the one that counts, and read backwards it comes first. So one pass is
enough, and what is kept does not grow with the file: some hundred bins, a pair of steps an attempt.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from model.architecture import HEADS
from model.data_error import EXIT_NOT_READABLE, DataError

PARTS = ("xy", "wh", "objectness", "classes")
_NUMBERS = (
    "loss", "gradient_norm", "learning_rate", "images_per_second", "skipped", "step_seconds",
)  # fmt: skip
SERIES = (*_NUMBERS[:-1], "steps_per_second", *PARTS)
MOST_BINS = 1024
"""About the pixels of a page: more could not be seen."""

_PARTS_OF = itemgetter(*PARTS)
_BLOCK = 1 << 20
_LONGEST_LINE = 1 << 20
_CHUNK = 4096
_LARGEST_STEP = 1 << 53


@dataclass(frozen=True)
class Stretch:
    """Steps that were trained in a row, from `first` to `last`, in one attempt."""

    attempt: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class History:
    """A run, thinned to n bins of `width` steps each.

    `steps` (n,) are the middles of the bins; `low`, `mean` and `high` hold an array (n,) for each
    name of SERIES, NaN where nothing is known: losses and their parts (all heads), steps and
    images (of all ranks) per second, 1 for a skipped step. `evaluations` are figures by step.
    """

    steps: np.ndarray
    low: dict[str, np.ndarray]
    mean: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    width: int
    records: int
    skipped: int
    stretches: tuple[Stretch, ...]
    evaluations: dict[int, dict[str, float]]

    def has(self, name: str) -> bool:
        """Whether anything is known of a series."""
        return bool(np.isfinite(self.mean[name]).any())


def read_history(file: Path) -> History:
    """Read the metrics of a run; lines that are not whole, or no metrics, are passed over.

    Raises DataError: 66 if the file cannot be read, 65 if there is nothing in it.
    """
    reading = _Reading()
    try:
        with open(file, "rb") as stream:
            for line in backwards(stream):
                reading.take(line)
    except OSError as error:
        message = f"cannot be read ({error.strerror or error}); give metrics.jsonl or its folder"
        raise DataError(str(file), [message], EXIT_NOT_READABLE) from error
    history = reading.history()
    if not history.records and not history.evaluations:
        raise DataError(str(file), ["holds no metrics: no step was trained, or it is another file"])
    return history


def backwards(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file from its last to its first, without their ends."""
    position, rest = stream.seek(0, os.SEEK_END), b""
    while position:
        size = min(_BLOCK, position)
        position -= size
        stream.seek(position)
        rest, *lines = (stream.read(size) + rest).split(b"\n")
        yield from reversed(lines)
        if len(rest) > _LONGEST_LINE:  # no line of metrics; it must not fill the memory
            rest = b""
    yield rest


class Bins:
    """Rows of numbers gathered by step in at most MOST_BINS bins, whose width doubles as needed."""

    def __init__(self, columns: int) -> None:
        """Begin with no bin, one step wide."""
        self.width = 1
        self.index = np.zeros(0, np.int64)
        self.count, self.total = np.zeros((0, columns)), np.zeros((0, columns))
        self.low, self.high = np.zeros((0, columns)), np.zeros((0, columns))

    def add(self, steps: np.ndarray, values: np.ndarray) -> None:
        """Gather `values` (m, columns) of `steps` (m,); what is not finite is not known."""
        known = np.isfinite(values)
        self.index = np.concatenate([self.index, steps // self.width])
        self.count = np.concatenate([self.count, known])
        self.total = np.concatenate([self.total, np.where(known, values, 0)])
        self.low = np.concatenate([self.low, np.where(known, values, np.inf)])
        self.high = np.concatenate([self.high, np.where(known, values, -np.inf)])
        self._merge()
        while len(self.index) > MOST_BINS:
            self.width *= 2
            self.index //= 2
            self._merge()

    def mean(self) -> np.ndarray:
        """The means (n, columns), NaN where nothing is known."""
        return np.where(self.count, self.total / np.maximum(self.count, 1), np.nan)

    def middles(self) -> np.ndarray:
        """The step in the middle of each bin (n,)."""
        return self.index * self.width + (self.width - 1) / 2

    def _merge(self) -> None:
        order = np.argsort(self.index, kind="stable")
        self.index, starts = np.unique(self.index[order], return_index=True)
        if not len(starts):
            return
        self.count, self.total = (
            np.add.reduceat(a[order], starts) for a in (self.count, self.total)
        )
        self.low = np.minimum.reduceat(self.low[order], starts)
        self.high = np.maximum.reduceat(self.high[order], starts)


@dataclass
class _Reading:
    """The file as far as it was read, from its end."""

    bins: Bins = field(default_factory=lambda: Bins(len(SERIES)))
    stretches: list[Stretch] = field(default_factory=list)
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)
    records: int = 0
    _later: list[tuple[int, int]] = field(default_factory=list)
    _steps: list[int] = field(default_factory=list)
    _rows: list[list[float]] = field(default_factory=list)

    def take(self, line: bytes) -> None:
        """Use one line, if it is of use."""
        try:
            record = json.loads(line) if line else None
        except (ValueError, RecursionError):
            return
        if not isinstance(record, dict):
            return
        step = record.get("step")
        if not isinstance(step, int) or not 0 <= step < _LARGEST_STEP:
            return
        if isinstance(record.get("evaluation"), dict):
            self.evaluations.setdefault(step, _figures(record["evaluation"]))
        elif "loss" in record and self._counts(step, record.get("attempt")):
            self._steps.append(step)
            self._rows.append(_row(record))
            if len(self._steps) == _CHUNK:
                self._gather()

    def _counts(self, step: int, attempt: Any) -> bool:
        """Note a trained step; whether it was not trained again later."""
        number = attempt if isinstance(attempt, int) else 0
        now = self.stretches[-1] if self.stretches else None
        if now is None:
            self.stretches.append(Stretch(number, step, step))
        elif step >= now.first or number != now.attempt:
            self._later = joined(self._later, now)
            self.stretches.append(Stretch(number, step, step))
        else:
            self.stretches[-1] = Stretch(number, step, now.last)
        return not any(first <= step <= last for first, last in self._later)

    def _gather(self) -> None:
        self.records += len(self._steps)
        self.bins.add(np.array(self._steps, np.int64), _table(self._rows))
        self._steps, self._rows = [], []

    def history(self) -> History:
        """What was read."""
        self._gather()
        bins = self.bins
        mean = bins.mean()
        low, high = (np.where(bins.count > 0, array, np.nan) for array in (bins.low, bins.high))
        named = [dict(zip(SERIES, array.T, strict=True)) for array in (low, mean, high)]
        return History(
            bins.middles(), *named, width=bins.width, records=self.records,
            skipped=int(bins.total[:, SERIES.index("skipped")].sum()),
            stretches=tuple(reversed(self.stretches)),
            evaluations=dict(sorted(self.evaluations.items())),
        )  # fmt: skip


def joined(ranges: list[tuple[int, int]], more: Stretch) -> list[tuple[int, int]]:
    """Add a stretch to ranges of steps that do not touch each other; neither do those returned."""
    touching = [r for r in ranges if r[0] <= more.last + 1 and r[1] >= more.first - 1]
    first = min([more.first, *(r[0] for r in touching)])
    last = max([more.last, *(r[1] for r in touching)])
    return [*(r for r in ranges if r not in touching), (first, last)]


def _row(record: dict[str, Any]) -> list[Any]:
    """The values of a record: of _NUMBERS, then the parts of the loss head by head."""
    try:
        parts = [value for head in HEADS for value in _PARTS_OF(record["parts"][head])]
    except (LookupError, TypeError):
        parts = [None] * len(HEADS) * len(PARTS)
    return [*map(record.get, _NUMBERS), *parts]


def _table(rows: list[list[Any]]) -> np.ndarray:
    """The values of rows by SERIES (m, columns); NaN for what is no number."""
    columns = len(_NUMBERS) + len(HEADS) * len(PARTS)
    try:
        numbers = np.array(rows, np.float64).reshape(-1, columns)
    except (TypeError, ValueError, OverflowError):
        numbers = np.array([[_number(value) for value in row] for row in rows])
    plain, parts = numbers[:, : len(_NUMBERS)], numbers[:, len(_NUMBERS) :]
    with np.errstate(divide="ignore"):
        plain[:, -1] = 1 / plain[:, -1]
    return np.hstack([plain, parts.reshape(len(rows), len(HEADS), len(PARTS)).sum(axis=1)])


def _figures(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan
