"""The heartbeat: one fixed-size record a rank in tmpfs, written by the rank, read by anyone.

A checksum guards the record, so a reader never takes half an update, whatever the order in
which a processor shows another's stores, and a writer never waits. All times are
CLOCK_MONOTONIC seconds, which every process of a node shares. Standard library only: ranks
import this.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

PHASES = ("init", "join", "load", "compile", "train", "snapshot", "checkpoint", "evaluate")
"""What a rank may be doing, in the order in which a fresh rank passes through them."""

_MAGIC = 0x4D555354  # "MUST"
_VERSION = 3
_HEAD = struct.Struct("<III")  # magic, version, CRC of the body
# sequence, flags, phase, step, steps_total, first_step, images, checkpoint_step,
# beat_at, step_at, step_seconds, loss, first_step_at, phase_at, one entry time a phase,
# data_wait, digest, digest_step, digest_since, loss_step
_BODY = struct.Struct(f"<QIIqqqqq6d{len(PHASES)}ddQqqq")
_START = struct.Struct("<QI")  # sequence, flags
RECORD_SIZE = _HEAD.size + _BODY.size

_DONE = 1
_FAILED = 2
_STOPS = 4
_LOSS_REPORTED = 8
_TRIES = 100
_DIGESTS = 1 << 64


@dataclass(frozen=True)
class Heartbeat:
    """One rank's progress. Steps count from 1 and are global; -1 means none yet.

    `sequence` grows with every write, so two records are the same if it is.
    """

    sequence: int
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
    stops: bool = False
    """Whether the rank can be asked to save itself and leave."""
    loss_reported: bool = False
    """Whether `loss` is what the script said; a NaN that it did not say is no bad loss."""
    data_wait: float = math.nan
    """Seconds for which the last step waited for its data; NaN: not told."""
    digest: int = 0
    digest_step: int = -1
    """A digest of the parameters, and after which step it was taken; -1: none."""
    digest_since: int = -1
    """The last step before, at which the same parameters were digested or loaded."""
    loss_step: int = -1
    """The step whose loss `loss` is; one that is not finite stays when steps go on."""

    @property
    def loss_not_finite(self) -> bool:
        """Whether the script reported a loss that is not a number, or infinite."""
        return self.loss_reported and not math.isfinite(self.loss)

    def entered(self, phase: str) -> float:
        """When `phase` was first entered in this attempt (monotonic s); NaN if never."""
        return self.phase_entered[PHASES.index(phase)]

    def left(self, phase: str) -> float:
        """When `phase` was first left for another (monotonic s); NaN if it was not."""
        entered = self.entered(phase)
        return min((at for at in self.phase_entered if at > entered), default=math.nan)


class HeartbeatWriter:
    """The rank's end. Creates the record, or takes over the one that lies there."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Not a hole: a full tmpfs must be an error here, not a SIGBUS at the first beat.
            os.posix_fallocate(descriptor, 0, RECORD_SIZE)
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
        self._data_wait = nan
        self._digest, self._digest_step, self._digest_since = 0, -1, -1
        self._loss_step = -1
        self._step_at = self._step_seconds = self._loss = self._first_step_at = nan
        self._phase_at = now
        self._entered = [nan] * len(PHASES)
        self._entered[0] = now
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

    def step(
        self,
        step: int,
        loss: float | None,
        images: int,
        total: int | None,
        data_wait: float = math.nan,
    ) -> None:
        """Record that global step `step` is finished; `loss` None: not reported."""
        # Converted before anything is kept: a wrong argument must not spoil the record.
        step, images, data_wait = int(step), int(images), float(data_wait)
        loss = None if loss is None else float(loss)
        total = None if total is None else int(total)
        now = time.monotonic()
        if self._first_step < 0:
            self._first_step = step
            self._first_step_at = now
        else:
            # A checkpoint or an evaluation since then is no part of the step.
            self._step_seconds = now - max(self._step_at, self._phase_at)
        self._step = step
        self._step_at = now
        self._data_wait = data_wait
        self._keep_loss(loss, step)
        self._images += images
        if total is not None:
            self._total = total
        self._write(now)

    def _keep_loss(self, loss: float | None, step: int) -> None:
        # One that is not finite stays: readers look now and then, and must not miss it.
        if self._flags & _LOSS_REPORTED and not math.isfinite(self._loss):
            return
        self._loss = math.nan if loss is None else loss
        self._loss_step = step
        self._flags &= ~_LOSS_REPORTED
        self._flags |= _LOSS_REPORTED if loss is not None else 0

    def digest(self, step: int, value: int, since: int | None = None) -> None:
        """Record a digest of the parameters after `step`. Raises ValueError beyond 64 bits.

        The same ones were digested or loaded at step `since`; None: at the digest before.
        """
        step, value = int(step), int(value)
        since = self._digest_step if since is None else int(since)
        if not 0 <= value < _DIGESTS:
            raise ValueError(f"digest {value} is not an unsigned number of 64 bits")
        self._digest, self._digest_step, self._digest_since = value, step, since
        self._write(time.monotonic())

    def checkpoint(self, step: int) -> None:
        """Record a finished checkpoint of `step`."""
        self._checkpoint = int(step)
        self._write(time.monotonic())

    def stops(self) -> None:
        """Record, with the next write, that the rank can be asked to leave."""
        self._flags |= _STOPS

    def done(self) -> None:
        """Record success."""
        self._flags |= _DONE
        self._write(time.monotonic())

    def _write(self, now: float) -> None:
        self._sequence += 1
        body = _BODY.pack(
            self._sequence,
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
            self._data_wait,
            self._digest,
            self._digest_step,
            self._digest_since,
            self._loss_step,
        )
        _store(self._map, body)


def _store(record: mmap.mmap, body: bytes) -> None:
    record[:] = _HEAD.pack(_MAGIC, _VERSION, zlib.crc32(body)) + body


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
            body = bytearray(record[_HEAD.size :])
            sequence, flags = _START.unpack_from(body)
            _START.pack_into(body, 0, sequence + 1, flags | _FAILED)
            _store(record, bytes(body))
    finally:
        os.close(descriptor)


def read_heartbeat(path: str | os.PathLike[str]) -> Heartbeat | None:
    """The newest whole record of a rank, or None if it has not written one yet."""
    for _ in range(_TRIES):
        try:
            raw = Path(path).read_bytes()
        except OSError:
            return None
        if len(raw) < RECORD_SIZE:
            return None
        magic, version, checksum = _HEAD.unpack_from(raw)
        if magic != _MAGIC or version != _VERSION:
            return None
        if checksum == zlib.crc32(raw[_HEAD.size : RECORD_SIZE]):
            return _decode(raw)
    return None


def _decode(raw: bytes) -> Heartbeat:
    (sequence, flags, phase, step, total, first_step, images, checkpoint, *times) = (
        _BODY.unpack_from(raw, _HEAD.size)
    )
    beat_at, step_at, step_seconds, loss, first_step_at, phase_at, *rest = times
    *entered, data_wait, digest, digest_step, digest_since, loss_step = rest
    return Heartbeat(
        sequence=sequence,
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
        stops=bool(flags & _STOPS),
        loss_reported=bool(flags & _LOSS_REPORTED),
        data_wait=data_wait,
        digest=digest,
        digest_step=digest_step,
        digest_since=digest_since,
        loss_step=loss_step,
    )
