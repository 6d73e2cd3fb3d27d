"""The rank's side of the contract: what a training script tells its supervisor.

Standard library only, and without effect outside muster, so a script that uses it also
runs alone. Environment: see `Rank.from_env`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from orchestrator.drill_record import Ear
from orchestrator.heartbeat import HeartbeatWriter, mark_failed
from orchestrator.layout import RunDirectory, spooled_error, write_bytes
from orchestrator.secrets import Redactor
from orchestrator.snapshot_slots import Slots
from orchestrator.stack_signal import install
from orchestrator.stop_request import Listener

EXIT_DONE = 0
EXIT_USAGE = 64
EXIT_DATA = 65
EXIT_NO_INPUT = 66
EXIT_RETRY = 75
EXIT_CONFIG = 78
USER_EXITS = frozenset({EXIT_USAGE, EXIT_DATA, EXIT_NO_INPUT, EXIT_CONFIG})
"""Exit codes of sysexits.h that mean a mistake of the user: never retried."""

_MESSAGE_LIMIT = 16_384


class Rank:
    """One rank of a job: who it is, where to resume from, and its voice.

    Outside muster `active` is False, `rank` 0 of `size` 1, and every method does nothing.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        get = environment.get
        self.active = bool(get("MUSTER_JOB"))
        self.job = get("MUSTER_JOB", "")
        self.attempt = int(get("MUSTER_ATTEMPT") or 0)
        self.rank = int(get("RANK_ID") or 0)
        self.size = int(get("RANK_SIZE") or 1)
        self.world_size = int(get("MUSTER_RANKS") or self.size)
        self.local_rank = int(get("LOCAL_RANK") or 0)
        self.backend = get("MUSTER_BACKEND", "")
        self.run_dir = _path(get("MUSTER_RUN_DIR"))
        self.resume_from = _path(get("MUSTER_RESUME_FROM"))
        checkpoint = json.loads(get("MUSTER_CHECKPOINT") or "{}")
        self.checkpoint_dir = _path(checkpoint.get("directory"))
        self.checkpoint_every: int | None = checkpoint.get("every_steps")
        self._snapshots = _path(checkpoint.get("snapshots"))
        self._snapshot_every: int | None = checkpoint.get("snapshot_every_steps")
        self._error_file = _path(get("MUSTER_ERROR_FILE"))
        self._heartbeat_file = _path(get("MUSTER_HEARTBEAT"))
        self._stop_file = _path(get("MUSTER_STOP"))
        self._drill_file = _path(get("MUSTER_DRILL"))
        self._heartbeat: HeartbeatWriter | None = None
        self._stop_request: Listener | None = None
        self._drill: Ear | None = None
        self._without_secrets = Redactor.from_environment(environment).text

    @classmethod
    def from_env(cls) -> Rank:
        """Read the contract's variables and report uncaught exceptions from here on.

        RANK_ID, RANK_SIZE, LOCAL_RANK; MUSTER_RANKS (the job's ranks where there are fewer
        processes than that, a multiple of RANK_SIZE; else not set); MUSTER_JOB,
        MUSTER_ATTEMPT, MUSTER_RUN_DIR,
        MUSTER_BACKEND (ascend, gpu or cpu); MUSTER_RESUME_FROM (a checkpoint directory,
        empty = start fresh); MUSTER_CHECKPOINT (JSON: directory, every_steps, snapshots,
        snapshot_every_steps);
        MUSTER_HEARTBEAT, MUSTER_STOP, MUSTER_DRILL and MUSTER_ERROR_FILE (paths).
        """
        rank = cls(dict(os.environ))
        if not rank.active:
            return rank
        # One voice a process: who asks twice (train, then evaluate) must not start anew.
        known = _VOICES.get(os.getpid())
        if known is None:
            rank._hook_exceptions()
            install(os.environ)
            if rank._heartbeat_file:
                rank._heartbeat = HeartbeatWriter(rank._heartbeat_file)
            _VOICES[os.getpid()] = known = rank
        return known

    @property
    def virtual_ranks(self) -> range:
        """Which ranks of the job this process is: one, or several in a smaller world.

        The job is of `world_size` ranks; `size` processes are there, each for as many of them.
        """
        each = self.world_size // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def phase(self, name: str) -> None:
        """Say what the rank does now: a name of `orchestrator.heartbeat.PHASES`."""
        if self._heartbeat:
            self._heartbeat.phase(name)

    def step(
        self,
        step: int,
        *,
        loss: float | None = None,
        images: int = 0,
        total: int | None = None,
        data_wait: float = math.nan,
    ) -> None:
        """Report that global step `step` (from 1) is finished: this is the heartbeat.

        `images` were consumed by this rank in it; `total` is the job's last step, if known.
        A `loss` that is NaN or infinite is taken for the failure that it is; None: not reported.
        `data_wait`: seconds for which the step waited for its data.
        """
        if self._heartbeat:
            self._drill = self._drill or Ear(self._drill_file)
            self._heartbeat.step(step, self._drill.heard(loss), images, total, data_wait)

    def digest(self, step: int, value: int, since: int | None = None) -> None:
        """Report a digest (unsigned, 64 bits) of what must be the same on all ranks after `step`.

        Ranks that differ are stopped: take it of the same parameters, at the same steps. `since`
        is the step at which those same parameters were digested, or loaded, before; None: at the
        digest before this one. What was saved up to then is trusted when digests differ.
        """
        if self._heartbeat:
            self._heartbeat.digest(step, value, since)

    def should_stop(self, step: int) -> bool:
        """Whether the run is to save itself now and leave with exit code 75 (EXIT_RETRY).

        To be asked by every rank after every step, with the step that it has just finished: all
        get the same answer at the same step. Who never asks is ended by SIGTERM instead; for who
        asks SIGTERM from outside is this very request, unless the script handles it itself.
        """
        if self._heartbeat is None:
            return False
        if self._stop_request is None:
            self._stop_request = Listener(self._stop_file, answers=self.rank == 0)
            self._stop_request.heed_sigterm()
            self._heartbeat.stops()
        return self._stop_request.stops_after(step)

    def checkpoint(self, directory: str | os.PathLike[str], step: int) -> None:
        """Report a finished checkpoint: `directory` is complete and has its final name."""
        if self._heartbeat:
            if not Path(directory).is_dir():
                raise ValueError(f"checkpoint {directory} is not a directory")
            self._heartbeat.checkpoint(step)

    def snapshots(self) -> Slots | None:
        """Where this rank writes its part of the job's snapshots; None: none are wanted."""
        if self._snapshots is None or not self._snapshot_every:
            return None
        return Slots(
            self._snapshots,
            self._snapshot_every,
            self.rank,
            self.size,
            self.attempt,
            self.resume_from,
        )

    def resumed(
        self,
        *,
        step: int,
        digest: str,
        learning_rate: float | None = None,
        next_samples: Sequence[int] = (),
    ) -> None:
        """Report what was loaded: the resume proof, compared over all ranks.

        `digest` is the sha256 of the checkpoint's MANIFEST.json, `next_samples` the ids of
        the next samples this rank will train on.
        """
        self._leave_record(
            "resumed",
            {
                "rank": self.rank,
                "step": step,
                "digest": digest,
                "learning_rate": learning_rate,
                "next_samples": list(next_samples),
            },
        )

    def unusable(self, directory: str | os.PathLike[str], reason: str) -> NoReturn:
        """Report that the checkpoint given cannot be loaded, and leave; another is tried."""
        raise CheckpointUnusable(os.fspath(directory), reason)

    def report(self, name: str, text: str) -> None:
        """Leave a short text (a table of results) that is shown at the end of the run.

        `name` becomes a file name: letters, digits, `-` and `_` (ValueError otherwise).
        """
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"report name {name!r}: letters, digits, - and _ are allowed")
        if self.run_dir is not None:
            reports = RunDirectory(self.run_dir).attempt(self.attempt).reports
            write_bytes(reports / f"{name}.txt", self._without_secrets(text).encode())

    def done(self) -> None:
        """Report success: what happens to the process after this is no failure."""
        if self._heartbeat:
            self._heartbeat.done()

    def error(
        self,
        kind: type[BaseException],
        value: BaseException,
        trace: TracebackType | None,
    ) -> None:
        """Leave the error file: type, message, traceback, and the code the rank leaves with."""
        code = exit_code_of(value)
        if code == EXIT_DONE:
            return
        self._leave_record(
            None,
            {
                "rank": self.rank,
                "type": kind.__name__,
                "message": self._without_secrets(str(value))[:_MESSAGE_LIMIT],
                "traceback": self._without_secrets(
                    "".join(traceback.format_exception(kind, value, trace))
                )[-_MESSAGE_LIMIT:],
                "code": code,
                "errno": getattr(value, "errno", None) if isinstance(value, OSError) else None,
                "checkpoint": getattr(value, "directory", None)
                if isinstance(value, CheckpointUnusable)
                else None,
                "monotonic": time.monotonic(),
            },
        )
        if self._heartbeat_file:
            mark_failed(self._heartbeat_file)

    def _leave_record(self, suffix: str | None, record: dict[str, Any]) -> None:
        """Write a small JSON beside the error file, whole or not at all."""
        if self._error_file is None:
            return
        target = self._error_file
        if suffix is not None:
            target = target.with_suffix(f".{suffix}.json")
        data = json.dumps(record).encode()
        try:
            write_bytes(target, data)
        except OSError as error:
            # A full disk must not hide what it broke: tmpfs has room for a record.
            self._leave_in_spool(data, error)

    def _leave_in_spool(self, data: bytes, why: OSError) -> None:
        if self._heartbeat_file is None:
            return
        try:
            write_bytes(spooled_error(self._heartbeat_file), data)
        except OSError as error:
            with contextlib.suppress(OSError):
                print(f"muster: could not write {self._error_file}: {why}; {error}", flush=True)

    def _hook_exceptions(self) -> None:
        previous = sys.excepthook

        def hook(
            kind: type[BaseException], value: BaseException, trace: TracebackType | None
        ) -> None:
            self.error(kind, value, trace)
            previous(kind, value, trace)

        sys.excepthook = hook


_VOICES: dict[int, Rank] = {}


class CheckpointUnusable(RuntimeError):
    """The checkpoint that the rank was told to resume from cannot be loaded."""

    def __init__(self, directory: str, reason: str) -> None:
        super().__init__(directory, reason)
        self.directory = directory
        self.reason = reason

    def __str__(self) -> str:
        return f"checkpoint {self.directory} cannot be loaded: {self.reason}"


def exit_code_of(value: BaseException) -> int:
    """The exit code that an exception ends a Python process with.

    An exception may carry its own as an integer attribute `exit_code`
    (`orchestrator.entry` honours it).
    """
    if isinstance(value, SystemExit):
        if value.code is None:
            return EXIT_DONE
        return value.code if isinstance(value.code, int) else 1
    own = getattr(value, "exit_code", None)
    return own if isinstance(own, int) else 1


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
