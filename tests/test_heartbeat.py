"""The heartbeat record: real shared memory, real processes on both sides."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.heartbeat import (
    PHASES,
    RECORD_SIZE,
    HeartbeatWriter,
    mark_failed,
    read_heartbeat,
)
from tests.support_core import kill, python, until

WRITER = """
import sys
from orchestrator.heartbeat import HeartbeatWriter
writer = HeartbeatWriter(sys.argv[1])
writer.phase("train")
step = 0
while True:
    step += 1
    writer.step(step, float(step), 3, 7 * step)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a record is written."""
    return tmp_path / "001-0.beat"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[int]:
    """A process that writes steps as fast as it can."""
    process = python(WRITER, str(path))
    try:
        yield process.pid
    finally:
        kill(process.pid)
        process.wait()


def test_a_fresh_record_has_no_step(path: Path) -> None:
    """Before the first step a record says init and nothing else."""
    HeartbeatWriter(path)
    beat = read_heartbeat(path)
    assert beat is not None
    assert (beat.phase, beat.step, beat.steps_total, beat.first_step) == ("init", -1, -1, -1)
    assert math.isnan(beat.loss) and math.isnan(beat.step_seconds)
    assert not beat.done and not beat.failed
    assert path.stat().st_size == RECORD_SIZE


def test_nothing_and_half_a_record_are_no_heartbeat(path: Path) -> None:
    """A missing, empty, short or foreign file is read as None."""
    assert read_heartbeat(path) is None
    for content in (b"", b"\0" * (RECORD_SIZE - 1), b"\0" * RECORD_SIZE, b"x" * RECORD_SIZE):
        path.write_bytes(content)
        assert read_heartbeat(path) is None


def test_an_evaluation_between_two_steps_is_no_part_of_the_second(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one long evaluation would let hangs go unseen: their limit is learnt from the steps."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    writer = HeartbeatWriter(path)
    writer.phase("train")
    writer.step(1, 0.5, 4, None)
    writer.step(2, 0.5, 4, None)
    for phase in ("checkpoint", "train", "evaluate", "train"):
        writer.phase(phase)
    writer.step(3, 0.5, 4, None)
    beat = read_heartbeat(path)
    assert beat is not None
    assert beat.step_seconds == 10.0


def test_a_step_carries_all_its_figures(path: Path) -> None:
    """Step, loss, images so far, total, and the time since the step before."""
    writer = HeartbeatWriter(path)
    writer.phase("train")
    began = time.monotonic()
    writer.step(21, 0.5, 4, 100)
    writer.step(22, 0.25, 4, None)
    beat = read_heartbeat(path)
    assert beat is not None
    assert (beat.step, beat.first_step, beat.steps_total, beat.images) == (22, 21, 100, 8)
    assert beat.loss == 0.25
    assert began <= beat.first_step_at <= beat.step_at <= time.monotonic()
    assert beat.step_seconds == pytest.approx(beat.step_at - beat.first_step_at)


def test_a_loss_that_was_not_reported_is_no_bad_loss(path: Path) -> None:
    """Without one the record has NaN and says that nobody told it."""
    writer = HeartbeatWriter(path)
    writer.step(1, None, 1, None)
    beat = read_heartbeat(path)
    assert beat is not None and math.isnan(beat.loss)
    assert not beat.loss_reported and not beat.loss_not_finite
    writer.step(2, 0.5, 1, None)
    assert (beat := read_heartbeat(path)) is not None
    assert beat.loss_reported and not beat.loss_not_finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_loss_stays(path: Path, bad: float) -> None:
    """Who looks ten times a second must find it, and its step, though the next has a good one."""
    writer = HeartbeatWriter(path)
    writer.step(1, 0.5, 1, None)
    writer.step(2, bad, 1, None)
    writer.step(3, 0.5, 1, None)
    writer.step(4, None, 1, None)
    beat = read_heartbeat(path)
    assert beat is not None and beat.step == 4
    assert beat.loss_not_finite and beat.loss_step == 2


def test_data_wait_and_digest_are_in_the_record(path: Path) -> None:
    """A record has neither until they are told; 64 bits of digest arrive as they are."""
    writer = HeartbeatWriter(path)
    writer.step(1, 0.5, 1, None)
    beat = read_heartbeat(path)
    assert beat is not None and math.isnan(beat.data_wait) and beat.digest_step == -1
    writer.step(2, 0.5, 1, None, data_wait=0.125)
    writer.digest(2, (1 << 64) - 1)
    writer.phase("checkpoint")
    beat = read_heartbeat(path)
    assert beat is not None
    assert (beat.data_wait, beat.digest, beat.digest_step) == (0.125, (1 << 64) - 1, 2)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_a_digest_beyond_64_bits_is_refused(path: Path, value: int) -> None:
    """And the record is as it was."""
    writer = HeartbeatWriter(path)
    with pytest.raises(ValueError, match="64 bits"):
        writer.digest(3, value)
    assert (beat := read_heartbeat(path)) is not None and beat.digest_step == -1


def test_the_first_entry_of_a_phase_is_kept(path: Path) -> None:
    """Phases alternate; the time of the first entry stays, that of the last is phase_at."""
    writer = HeartbeatWriter(path)
    writer.phase("train")
    writer.phase("checkpoint")
    writer.phase("train")
    beat = read_heartbeat(path)
    assert beat is not None
    assert beat.phase == "train"
    assert beat.entered("init") <= beat.entered("train") <= beat.entered("checkpoint")
    assert beat.entered("checkpoint") <= beat.phase_at
    assert math.isnan(beat.entered("evaluate"))


def test_an_unknown_phase_is_refused(path: Path) -> None:
    """The message names the phases there are."""
    with pytest.raises(ValueError, match=", ".join(PHASES)):
        HeartbeatWriter(path).phase("lunch")


def test_done_checkpoint_and_failed(path: Path) -> None:
    """Flags and the checkpoint's step are in the record beside all that was there."""
    writer = HeartbeatWriter(path)
    writer.step(7, 1.0, 1, None)
    writer.checkpoint(5)
    mark_failed(path)
    beat = read_heartbeat(path)
    assert beat is not None and beat.failed and not beat.done
    assert (beat.step, beat.checkpoint_step) == (7, 5)
    writer.done()
    assert (after := read_heartbeat(path)) is not None and after.done


def test_marking_needs_no_record(path: Path) -> None:
    """A rank that fails before it has a record leaves none."""
    mark_failed(path)
    assert not path.exists()
    path.write_bytes(b"short")
    mark_failed(path)
    assert path.read_bytes() == b"short"


@pytest.mark.parametrize(
    "arguments",
    [(1.5, 0.0, 1, None), (5, "low", 1, None), (5, 0.0, 1.5, None), (5, 0.0, 1, None, "x")],
)
def test_a_wrong_argument_does_not_spoil_the_record(path: Path, arguments: tuple) -> None:
    """After a call that raised, the record can still be read, and later steps arrive."""
    writer = HeartbeatWriter(path)
    writer.step(4, 0.5, 1, None)
    with contextlib.suppress(ValueError):
        writer.step(*arguments)
    assert read_heartbeat(path) is not None
    writer.step(6, 0.5, 1, None)
    assert (beat := read_heartbeat(path)) is not None and beat.step == 6
    mark_failed(path)
    assert (beat := read_heartbeat(path)) is not None and beat.failed


def test_readers_never_see_half_a_record(path: Path) -> None:
    """While another process writes all the time, what is read fits together."""
    with writing(path) as pid:
        until(lambda: (b := read_heartbeat(path)) and b.step > 0, "the writer's first step")
        seen = 0
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            beat = read_heartbeat(path)
            if beat is None:
                continue  # the writer was faster than a hundred tries
            seen += 1
            assert beat.loss == beat.step
            assert beat.images == 3 * beat.step
            assert beat.steps_total == 7 * beat.step
            assert beat.step_at == beat.beat_at
        assert seen > 10
        assert os.path.exists(f"/proc/{pid}")


def test_steps_are_cheap(path: Path) -> None:
    """A step's report costs microseconds, here with much room for a busy machine."""
    writer = HeartbeatWriter(path)
    best = math.inf
    for _ in range(20):
        began = time.thread_time()
        for step in range(1, 101):
            writer.step(step, 0.5, 1, None)
        best = min(best, (time.thread_time() - began) / 100)
    assert best < 50e-6
