"""What is read from metrics: the last line of a step counts, and memory does not grow."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import metrics_history as module
from model.data_error import DataError
from model.journal import Metrics
from model.metrics_history import MOST_BINS, SERIES, Bins, Stretch, backwards, joined, read_history

FEW = settings(max_examples=60, deadline=None)
ATTEMPTS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=6)


def write(file: Path, records: Iterable[dict[str, Any]], tail: str = "") -> Path:
    """Write records as the trainer does, and something torn behind them."""
    file.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return file


def parts(scale: float) -> dict[str, dict[str, float]]:
    """The parts of a loss: xy is 6, wh 60, objectness 600, classes 6000 times `scale`."""
    names = ("xy", "wh", "objectness", "classes")
    return {
        head: {name: weight * 10**power * scale for power, name in enumerate(names)}
        for weight, head in enumerate("lms", 1)
    }


@FEW
@given(st.binary(max_size=200), st.integers(1, 30))
def test_lines_come_backwards(content: bytes, block: int) -> None:
    """Whatever the file holds and however it is cut into blocks, its lines come in reverse."""
    before, module._BLOCK = module._BLOCK, block
    try:
        found = list(backwards(io.BytesIO(content)))
    finally:
        module._BLOCK = before
    assert found == content.split(b"\n")[::-1]


def test_a_line_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a line longer than any record only pieces are held; the lines before it come whole."""
    monkeypatch.setattr(module, "_BLOCK", 100)
    monkeypatch.setattr(module, "_LONGEST_LINE", 300)
    lines = list(backwards(io.BytesIO(b"first\n" + b"x" * 100_000)))
    assert lines[-1] == b"first" and max(map(len, lines)) <= 400


@FEW
@given(ATTEMPTS)
def test_the_last_line_of_a_step_counts(attempts: list[tuple[int, int]]) -> None:
    """After any attempts each step has the loss of the last attempt that trained it."""
    records, expected, marks = [], {}, []
    for attempt, (first, length) in enumerate(attempts, 1):
        marks.append(Stretch(attempt, first, first + length - 1))
        for step in range(first, first + length):
            expected[step] = attempt + step / 1000
            records.append({"attempt": attempt, "step": step, "loss": expected[step]})
    reading = module._Reading()
    for record in reversed(records):
        reading.take(json.dumps(record).encode())
    found = reading.history()
    assert dict(zip(found.steps, found.mean["loss"], strict=True)) == expected
    assert (found.width, found.records, found.stretches) == (1, len(expected), tuple(marks))


@FEW
@given(ATTEMPTS)
def test_ranges_of_steps_are_joined(attempts: list[tuple[int, int]]) -> None:
    """Joined ranges hold the same steps and do not touch each other."""
    ranges: list[tuple[int, int]] = []
    for first, length in attempts:
        ranges = joined(ranges, Stretch(1, first, first + length - 1))
    held = [step for first, last in ranges for step in range(first, last + 1)]
    assert sorted(held) == sorted({f + n for f, length in attempts for n in range(length)})
    assert all(a[1] + 1 < b[0] for a, b in zip(sorted(ranges), sorted(ranges)[1:], strict=False))


@FEW
@given(st.lists(st.tuples(st.integers(0, 40_000), st.floats(-1e6, 1e6)), min_size=1, max_size=80),
       st.integers(1, 40))  # fmt: skip
def test_bins_keep_lowest_mean_and_highest(rows: list[tuple[int, float]], most: int) -> None:
    """However rows come, few bins remain, and each knows its own rows exactly."""
    before, module.MOST_BINS = module.MOST_BINS, most
    bins = Bins(1)
    try:
        for step, value in rows:
            bins.add(np.array([step]), np.array([[value]]))
    finally:
        module.MOST_BINS = before
    assert len(bins.index) <= most
    for place, index in enumerate(bins.index):
        own = [value for step, value in rows if step // bins.width == index]
        assert (bins.low[place, 0], bins.high[place, 0]) == (min(own), max(own))
        assert bins.mean()[place, 0] == pytest.approx(np.mean(own), abs=1e-6)
    assert bins.count.sum() == len(rows)


def test_every_field_is_read(tmp_path: Path) -> None:
    """Parts are summed over the heads; figures of evaluations come by step."""
    record = {
        "attempt": 1, "time": 5.0, "step": 7, "loss": 6666.0, "parts": parts(1.0),
        "gradient_norm": 3.5, "learning_rate": 0.01, "images_per_second": 80,
        "step_seconds": 0.25, "skipped": True,
    }  # fmt: skip
    evaluation = {"attempt": 1, "step": 7, "evaluation": {"AP": 0.25, "AP50": 0.5}}
    found = read_history(write(tmp_path / "metrics.jsonl", [record, evaluation]))
    assert {name: float(found.mean[name][0]) for name in SERIES} == {
        "loss": 6666.0, "xy": 6.0, "wh": 60.0, "objectness": 600.0, "classes": 6000.0,
        "gradient_norm": 3.5, "learning_rate": 0.01, "images_per_second": 80.0,
        "steps_per_second": 4.0, "skipped": 1.0,
    }  # fmt: skip
    assert found.evaluations == {7: {"AP": 0.25, "AP50": 0.5}} and found.skipped == 1


def test_what_the_trainer_wrote_is_read(tmp_path: Path) -> None:
    """A record of the journal itself, without parts, has what it has; a loss may be NaN."""
    file = tmp_path / "metrics.jsonl"
    metrics = Metrics(file, attempt=2)
    metrics.write(step=1, epoch=0, loss=3.0, learning_rate=0.1, side=96, step_seconds=0.5)
    metrics.write(step=2, epoch=0, loss=math.nan, learning_rate=0.1, side=96, step_seconds=0.5)
    metrics.close()
    found = read_history(file)
    assert found.has("steps_per_second") and not found.has("images_per_second")
    assert not found.has("xy") and found.mean["loss"][0] == 3.0 and np.isnan(found.mean["loss"][1])


def test_a_later_evaluation_of_a_step_counts(tmp_path: Path) -> None:
    """A resumed run that evaluates a step again replaces the figures."""
    rows = [{"attempt": n, "step": 5, "evaluation": {"AP": n / 10}} for n in (1, 2)]
    found = read_history(write(tmp_path / "m", rows))
    assert found.evaluations == {5: {"AP": 0.2}} and found.records == 0


@pytest.mark.parametrize("strange", [
    '{"attempt": 1, "step": 2, "loss": 1', "[1, 2]", '{"step": 3}', '{"step": -1, "loss": 1}',
    '{"step": 1e3, "loss": 1}', '{"loss": 1}', "\0\0\0", "[" * 5000, '{"step": 2, "loss"',
])  # fmt: skip
def test_what_is_no_record_is_passed_over(tmp_path: Path, strange: str) -> None:
    """A torn line, at the end or healed in the middle, or other content costs only itself."""
    rows = [{"attempt": 1, "step": step, "loss": 1.5} for step in (1, 2)]
    file = write(tmp_path / "m", rows[:1], f"{strange}\n{json.dumps(rows[1])}\n{strange}")
    found = read_history(file)
    assert found.steps.tolist() == [1, 2] and found.stretches == (Stretch(1, 1, 2),)


@pytest.mark.parametrize("value", ["high", None, [1], 10**400, True])
def test_a_value_that_is_no_number_is_not_known(tmp_path: Path, value: Any) -> None:
    """One strange value leaves the rest of its record, and the records beside it, as they are."""
    rows = [{"attempt": 1, "step": n, "loss": 1.0, "gradient_norm": 2.0} for n in (1, 2, 3)]
    rows[1]["gradient_norm"] = value
    rows[1]["parts"] = {"l": value}
    found = read_history(write(tmp_path / "m", rows))
    assert found.mean["loss"].tolist() == [1, 1, 1]
    assert found.mean["gradient_norm"][[0, 2]].tolist() == [2, 2]


def test_a_long_run_is_thinned(tmp_path: Path) -> None:
    """Twenty thousand steps of two attempts become some hundred bins that forget no extreme."""
    draw = random.Random(1)
    last: dict[int, float] = {}
    rows = []
    for attempt, first, end in ((1, 1, 12_000), (2, 9_001, 20_001)):
        for step in range(first, end):
            last[step] = draw.random() * (100 if attempt == 1 else 1)
            rows.append({"attempt": attempt, "step": step, "loss": last[step]})
    found = read_history(write(tmp_path / "m", rows))
    assert MOST_BINS / 2 <= len(found.steps) <= MOST_BINS and found.records == 20_000
    assert np.nanmax(found.high["loss"]) == max(last.values())
    assert np.nanmin(found.low["loss"]) == min(last.values())
    assert found.high["loss"][found.steps > 9_100].max() <= 1
    assert (np.diff(found.steps) == found.width).all()


def test_metrics_that_are_none_have_the_code_of_their_kind(tmp_path: Path) -> None:
    """66 for a file that is not there, 65 for one without a record."""
    (tmp_path / "other").write_text("hello\n")
    codes = []
    for name in ("none", "other"):
        with pytest.raises(DataError) as caught:
            read_history(tmp_path / name)
        codes.append(caught.value.exit_code)
    assert codes == [66, 65]
