"""The heartbeat: one fixed-size record a rank in tmpfs, written by the rank, read by anyone.

A sequence number guards the record (odd while it is being written), so a reader never
takes half an update and a writer never waits. All times are CLOCK_MONOTONIC seconds,
which every process of a node shares. Standard library only: ranks import this.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

PHASES = ("init", "join", "load", "compile", "train", "snapshot", "checkpoint", "evaluate")
"""What a rank may be doing, in the order in which a fresh rank passes through them."""

_MAGIC = 0x4D555354  # "MUST"
_VERSION = 1
_HEAD = struct.Struct("<IIQ")  # magic, version, sequence
_SEQUENCE = struct.Struct("<Q")
_SEQUENCE_OFFSET = 8
# flags, phase, step, steps_total, first_step, images, checkpoint_step,
# beat_at, step_at, step_seconds, loss, first_step_at, phase_at, one entry time a phase
_BODY = struct.Struct(f"<IIqqqqq6d{len(PHASES)}d")
_FLAGS = struct.Struct("<I")
RECORD_SIZE = _HEAD.size + _BODY.size

_DONE = 1
_FAILED = 2
_TRIES = 100


@dataclass(frozen=True)
class Heartbeat:
    """One rank's progress. Steps count from 1 and are global; -1 means none yet."""

    phase: str
    step: int
    steps_total: int
    first_step: int
    images: int
    checkpoint_step: int
    beat_at: float
    step_at: float
    step_seconds: float
    loss: float
    first_step_at: float
    phase_at: float
    phase_entered: tuple[float, ...]
    done: bool
    failed: bool

    def entered(self, phase: str) -> float:
        """When `phase` was first entered in this attempt (monotonic s); NaN if never."""
        return self.phase_entered[PHASES.index(phase)]


class HeartbeatWriter:
    """The rank's end. Creates the record, or takes over the one that lies there."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, RECORD_SIZE)
            self._map = mmap.mmap(descriptor, RECORD_SIZE)
        finally:
            os.close(descriptor)
        nan = math.nan
        now = time.monotonic()
        self._sequence = 0
        self._flags = 0
        self._phase = 0
        self._step = self._total = self._first_step = self._checkpoint = -1
        self._images = 0
        self._step_at = self._step_seconds = self._loss = self._first_step_at = nan
        self._phase_at = now
        self._entered = [nan] * len(PHASES)
        self._entered[0] = now
        _HEAD.pack_into(self._map, 0, _MAGIC, _VERSION, 0)
        self._write(now)

    def phase(self, name: str) -> None:
        """Enter a phase; its first entry is remembered. Raises ValueError on another name."""
        if name not in PHASES:
            raise ValueError(f"phase {name!r} is not one of {', '.join(PHASES)}")
        self._phase = PHASES.index(name)
        self._phase_at = now = time.monotonic()
        if math.isnan(self._entered[self._phase]):
            self._entered[self._phase] = now
        self._write(now)

    def step(self, step: int, loss: float, images: int, total: int | None) -> None:
        """Record that global step `step` is finished."""
        now = time.monotonic()
        if self._first_step < 0:
            self._first_step = step
            self._first_step_at = now
        else:
            self._step_seconds = now - self._step_at
        self._step = step
        self._step_at = now
        self._loss = loss
        self._images += images
        if total is not None:
            self._total = total
        self._write(now)

    def checkpoint(self, step: int) -> None:
        """Record a finished checkpoint of `step`."""
        self._checkpoint = step
        self._write(time.monotonic())

    def done(self) -> None:
        """Record success."""
        self._flags |= _DONE
        self._write(time.monotonic())

    def _write(self, now: float) -> None:
        self._sequence += 1
        _SEQUENCE.pack_into(self._map, _SEQUENCE_OFFSET, self._sequence)
        _BODY.pack_into(
            self._map,
            _HEAD.size,
            self._flags,
            self._phase,
            self._step,
            self._total,
            self._first_step,
            self._images,
            self._checkpoint,
            now,
            self._step_at,
            self._step_seconds,
            self._loss,
            self._first_step_at,
            self._phase_at,
            *self._entered,
        )
        self._sequence += 1
        _SEQUENCE.pack_into(self._map, _SEQUENCE_OFFSET, self._sequence)


def mark_failed(path: str | os.PathLike[str]) -> None:
    """Note in a rank's record, if it has one, that it is on its way out with an error.

    A rank that raised may need a minute to leave (its communication library waits for
    peers), so its supervisor must not have to wait for the exit.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if os.fstat(descriptor).st_size < RECORD_SIZE:
            return
        with mmap.mmap(descriptor, RECORD_SIZE) as record:
            (flags,) = _FLAGS.unpack_from(record, _HEAD.size)
            (sequence,) = _SEQUENCE.unpack_from(record, _SEQUENCE_OFFSET)
            _SEQUENCE.pack_into(record, _SEQUENCE_OFFSET, sequence + 1)
            _FLAGS.pack_into(record, _HEAD.size, flags | _FAILED)
            _SEQUENCE.pack_into(record, _SEQUENCE_OFFSET, sequence + 2)
    finally:
        os.close(descriptor)


def read_heartbeat(path: str | os.PathLike[str]) -> Heartbeat | None:
    """The newest whole record of a rank, or None if it has not written one yet."""
    for _ in range(_TRIES):
        try:
            raw = Path(path).read_bytes()
        except FileNotFoundError:
            return None
        if len(raw) < RECORD_SIZE:
            return None
        magic, version, before = _HEAD.unpack_from(raw)
        if magic != _MAGIC or version != _VERSION:
            return None
        if before and before % 2 == 0 and _still(path, before):
            return _decode(raw)
    return None


def _still(path: str | os.PathLike[str], sequence: int) -> bool:
    with open(path, "rb") as file:
        file.seek(_SEQUENCE_OFFSET)
        return bool(_SEQUENCE.unpack(file.read(_SEQUENCE.size))[0] == sequence)


def _decode(raw: bytes) -> Heartbeat:
    (flags, phase, step, total, first_step, images, checkpoint, *times) = _BODY.unpack_from(
        raw, _HEAD.size
    )
    beat_at, step_at, step_seconds, loss, first_step_at, phase_at, *entered = times
    return Heartbeat(
        phase=PHASES[phase],
        step=step,
        steps_total=total,
        first_step=first_step,
        images=images,
        checkpoint_step=checkpoint,
        beat_at=beat_at,
        step_at=step_at,
        step_seconds=step_seconds,
        loss=loss,
        first_step_at=first_step_at,
        phase_at=phase_at,
        phase_entered=tuple(entered),
        done=bool(flags & _DONE),
        failed=bool(flags & _FAILED),
    )
