"""The ranks of one attempt, in step with each other, as a data-parallel job is.

They start, join, load, compile, train, save and evaluate. Whatever one of them cannot do (it is
gone, or stands still) holds all of them up, since every step waits for every rank.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from orchestrator import checkpoints, stop_request
from orchestrator.heartbeat import PHASES, Heartbeat
from orchestrator.launch import ProcessPlan
from orchestrator.layout import read_json
from orchestrator.rank import EXIT_DONE, EXIT_RETRY
from tests.simulation.clock import Clock
from tests.simulation.shots import Shots, shots_of

_NAN = math.nan
_BLANK: dict[str, Any] = {f.name: _NAN for f in fields(Heartbeat) if f.default is MISSING} | {
    f.name: f.default for f in fields(Heartbeat) if f.default is not MISSING
}


@dataclass(frozen=True)
class Script:
    """What the job's script is like; durations in seconds."""

    steps: int
    every: int
    step_seconds: float
    init: float = 3.0
    join: float = 5.0
    load: float = 1.0
    compile: float = 20.0
    save: float = 2.0
    evaluate_every: int = 0
    evaluate: float = 30.0
    can_stop: bool = True
    """Whether it asks `should_stop`."""
    obeys_term: bool = True
    proves: bool = True
    """Whether it tells what it has loaded."""
    leaves_within: float = 1.0


@dataclass
class Process:
    """One process of an attempt; `rank` None is the rendezvous scheduler."""

    rank: int | None
    attempt: int
    pid: int
    plan: ProcessPlan
    ended: Callable[[Process, int | None, int | None], None]
    alive: bool = True
    stopped: bool = False
    """By SIGSTOP."""
    stuck: bool = False
    """Does nothing any more, and nothing can be seen of it."""
    orphan: bool = False
    """Its supervisor is dead, and the kernel is killing it."""
    beat: dict[str, Any] = field(default_factory=lambda: dict(_BLANK, sequence=0))

    @property
    def able(self) -> bool:
        return self.alive and not self.stopped and not self.stuck

    def end(self, code: int | None = None, signal: int | None = None) -> None:
        """Leave, with a code or by a signal; nothing if it has left already."""
        if self.alive:
            self.alive = False
            self.ended(self, code, signal)

    def says(self, **news: Any) -> None:
        """Write its heartbeat."""
        self.beat.update(news, sequence=self.beat["sequence"] + 1)


class Gang:
    """All ranks of one attempt, and what they do together."""

    def __init__(
        self,
        clock: Clock,
        dice: random.Random,
        script: Script,
        directory: Path,
        stop_file: Path,
        size: int,
        watch: Any,
    ) -> None:
        """`watch` is told of every step, and of whatever is saved."""
        self._clock = clock
        self._dice = dice
        self._script = script
        self._directory = directory
        self._stop_file = stop_file
        self._watch = watch
        self._listener: stop_request.Listener | None = None
        self._waits: list[Callable[[], None]] = []
        self._shots: Shots | None = None
        self.size = self.world_size = size
        self.ranks: dict[int, Process] = {}
        self.done = False
        self.first = 1
        """The first step of this attempt."""

    def join(self, process: Process) -> None:
        """Another rank has a process; when all have one, they begin."""
        assert process.rank is not None
        self.ranks[process.rank] = process
        now = self._clock.now
        nans = [_NAN] * len(PHASES)
        process.says(
            phase="init", step=-1, steps_total=-1, first_step=-1, images=0, checkpoint_step=-1,
            beat_at=now, phase_at=now, phase_entered=[now, *nans[1:]], done=False, failed=False,
            stops=False,
        )  # fmt: skip
        if len(self.ranks) == self.size:
            self._soon(self._script.init, self._enter("join", self._script.join, self._load))

    def go_on(self) -> None:
        """A rank that stood still moves again."""
        waits, self._waits = self._waits, []
        for action in waits:
            self._clock.after(0.1 * self._dice.uniform(0.5, 1.5), action)

    def _soon(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something together after about `seconds`, if all ranks can; else wait for them."""

        def now() -> None:
            if all(rank.able for rank in self.ranks.values()):
                action()
            else:
                self._waits.append(now)

        self._clock.after(seconds * self._dice.uniform(0.5, 1.5), now)

    def when_able(self, rank: int, seconds: float, action: Callable[[], None]) -> None:
        """Have one rank do something after so long; one that stands still, when it goes on."""

        def now() -> None:
            if self.ranks[rank].able:
                action()
            else:
                self._waits.append(now)

        self._clock.after(seconds, now)

    def _enter(self, phase: str, lasts: float, then: Callable[[], None]) -> Callable[[], None]:
        def enter() -> None:
            self.phase(phase)
            self._soon(lasts, then)

        return enter

    def phase(self, phase: str, *, rank: int | None = None) -> None:
        now = self._clock.now
        for process in self.ranks.values() if rank is None else [self.ranks[rank]]:
            entered = list(process.beat["phase_entered"])
            place = PHASES.index(phase)
            if math.isnan(entered[place]):
                entered[place] = now
            process.says(phase=phase, phase_at=now, phase_entered=entered, beat_at=now)

    def _load(self) -> None:
        self.phase("load")
        environment = self.ranks[0].plan.environment
        self.world_size = int(environment.get("MUSTER_RANKS") or self.size)
        resume = environment["MUSTER_RESUME_FROM"]
        if resume and not self._loads(Path(resume)):
            return
        self._soon(self._script.load, self._enter("compile", self._script.compile, self._train))

    def _loads(self, path: Path) -> bool:
        stated = read_json(path / checkpoints.MANIFEST)
        step = stated.get("step", -1) if isinstance(stated, dict) else -1
        result = checkpoints.verify(checkpoints.Checkpoint(path, step))
        if not isinstance(result, checkpoints.Verified):
            reason = f"checkpoint {path} cannot be loaded: broken"
            self.raises(0, "CheckpointUnusable", reason, checkpoint=str(path))
            return False
        self.first = result.step + 1
        for rank in self.ranks.values() if self._script.proves else ():
            record = {"rank": rank.rank, "step": result.step, "digest": result.digest}
            _error_file(rank).with_suffix(".resumed.json").write_text(json.dumps(record))
        return True

    def raises(self, rank: int, kind: str, message: str, code: int = 1, **more: Any) -> None:
        """An exception ends a rank: its error file at once, its exit a while later."""
        process = self.ranks[rank]
        if not process.able:
            return
        record = {
            "rank": rank, "type": kind, "message": message, "traceback": message, "code": code,
            "errno": None, "checkpoint": None, "monotonic": self._clock.now, **more,
        }  # fmt: skip
        _error_file(process).write_text(json.dumps(record))
        process.says(failed=True)
        process.stuck = True
        leaves = self._dice.choice([0.05, 0.3, 40.0])
        self._clock.after(leaves, lambda: process.end(code=code))

    def _train(self) -> None:
        self.phase("train")
        if self._script.can_stop:
            self._listener = stop_request.Listener(self._stop_file, answers=True)
            for rank in self.ranks.values():
                rank.says(stops=True)
        self._shots = shots_of(self, self._clock, self._dice, self._watch)
        if self.first > self._script.steps:
            return self._end(EXIT_DONE)  # it was saved after its last step, and ended then
        self._soon(self._script.step_seconds, lambda: self._step(self.first))

    def _step(self, step: int) -> None:
        script, now = self._script, self._clock.now
        for rank in self.ranks.values():
            news: dict[str, Any] = {"step": step, "steps_total": script.steps, "step_at": now}
            if step == self.first:
                news |= {"first_step": step, "first_step_at": now}
            else:
                news["step_seconds"] = now - max(rank.beat["step_at"], rank.beat["phase_at"])
            rank.says(**news, loss=1.0, beat_at=now)
        self._watch.stepped(step)
        last = step == script.steps
        leaves = self._listener is not None and self._listener.stops_after(step)
        if last or leaves or step % script.every == 0:
            return self._save(step, EXIT_DONE if last else EXIT_RETRY if leaves else None)
        if self._shots is not None and self._shots.due(step):
            return self._shots.take(step, lambda: self._evaluate(step))
        self._evaluate(step)

    def _evaluate(self, step: int) -> None:
        script = self._script
        if script.evaluate_every and step % script.evaluate_every == 0:
            self.phase("evaluate", rank=0)
            return self._soon(script.evaluate, lambda: self._next(step))
        self._next(step)

    def _next(self, step: int) -> None:
        if self.ranks[0].beat["phase"] != "train":
            self.phase("train", rank=0)
        self._soon(self._script.step_seconds, lambda: self._begin(step + 1))

    def _begin(self, step: int) -> None:
        """A step, once what a snapshot after it will write over is not needed any more."""
        if self._shots is not None and not self._shots.ready(step):
            return self._soon(0.2, lambda: self._begin(step))
        self._step(step)

    def _save(self, step: int, leaves: int | None) -> None:
        """Rank 0 saves while the others wait in the next step; then all go on, or leave."""
        self.phase("checkpoint", rank=0)
        begun = self._directory / f".step-{step:08d}.part"
        begun.mkdir(parents=True, exist_ok=True)

        def saved() -> None:
            write_checkpoint(begun, self._directory, step, self.world_size)
            self._watch.saved(step)
            self.ranks[0].says(checkpoint_step=step)
            if leaves is None:
                return self._next(step)
            self._end(leaves)

        self._soon(self._script.save, saved)

    def _end(self, code: int) -> None:
        self.done = code == EXIT_DONE
        for rank in self.ranks.values():
            if self.done:
                rank.says(done=True, beat_at=self._clock.now)
            self._leave(rank, code)

    def _leave(self, rank: Process, code: int) -> None:
        within = self._dice.uniform(0.0, self._script.leaves_within)
        self._clock.after(within, lambda: rank.end(code=code))


def write_checkpoint(begun: Path, directory: Path, step: int, world_size: int) -> None:
    """Finish a checkpoint as a trainer does: the manifest last, then its name."""
    target = directory / f"step-{step:08d}"
    shutil.rmtree(target, ignore_errors=True)  # an attempt before this one came as far
    data = step.to_bytes(8, "little") * 8
    (begun / checkpoints.MODEL).write_bytes(data)
    stated = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {"format": checkpoints.FORMAT, "step": step, "world_size": world_size,
                "files": {checkpoints.MODEL: stated}}  # fmt: skip
    (begun / checkpoints.MANIFEST).write_text(json.dumps(manifest))
    begun.rename(target)


def _error_file(rank: Process) -> Path:
    return Path(rank.plan.environment["MUSTER_ERROR_FILE"])
