"""The machine: supervisors with their ranks, which die and speak as the real ones do.

Follows `orchestrator.supervisor` and `uplink`: what is told of an attempt is told again to the
next controller, what is only true for a moment is seen anew; commands of an older controller and
second starts of an attempt are refused; a stop is over when every process is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.journal import append_line
from orchestrator.layout import RunDirectory, Spool
from orchestrator.link import Message
from orchestrator.plan import LaunchPlan
from tests.simulation.clock import Clock
from tests.simulation.ranks import Gang, Process, Script

if TYPE_CHECKING:
    from tests.simulation.node import SimulatedNode

_STOP_TIMEOUT = 10.0


class Link:
    """A conversation: in order, maybe late, and nothing arrives after its end."""

    def __init__(self, clock: Clock, node: SimulatedNode) -> None:
        self._clock = clock
        self.node = node
        self.open = True
        self.lag = 0.0
        """Seconds that a message is on its way now."""
        self._last = 0.0

    def up(self, message: Message) -> None:
        """Send to the controller."""
        self._carry(lambda: self.node.hear(self, message))

    def down(self, act: Callable[[], None]) -> None:
        """Have the supervisor do something that it was told; it obeys what a dead one said too."""
        self._carry(act, even_late=True)

    def _carry(self, deliver: Callable[[], None], *, even_late: bool = False) -> None:
        if not self.open:
            return
        self._last = max(self._last, self._clock.now + self.lag)

        def arrive() -> None:
            if self.open or even_late:
                deliver()

        self._clock.after(self._last - self._clock.now, arrive)


class Supervisor:
    """Owns ranks; see the module."""

    def __init__(self, machine: Machine, pid: int) -> None:
        self._machine = machine
        self._clock = machine.clock
        self.pid = pid
        self.alive = True
        self.attempt = 0
        self.children: list[Process] = []
        self._told: list[Message] = []
        self._seen: dict[int, tuple[int, str | None]] = {}
        self._epoch = 0
        self._stopping: tuple[int, float, float] | None = None
        self._in_charge = False
        self._frozen: list[Callable[[], None]] | None = None
        self.link: Link | None = None
        self._look()

    # -- conversation -----------------------------------------------------------------------

    def dial(self, node: SimulatedNode) -> None:
        """Begin a conversation: hello, and all that was told before."""

        def dial() -> None:
            if self.alive and self.link is None and not node.closed:
                self.link = node.answer(self)
                self._seen = {pid: (0, None) for pid in self._seen}
                for message in (self._hello(), *self._told):
                    self.link.up(message)

        self.act(dial)

    def hang_up(self) -> None:
        """The controller is gone."""

        def notice() -> None:
            self.link = None
            if not self._machine.outlives:
                self.leave()
            elif self._machine.node is not None:
                self.dial(self._machine.node)

        self._clock.after(0.05, lambda: self.act(notice))

    def _hello(self) -> Message:
        identity = {"pid": self.pid, "start_time": 1, "boot_id": "simulated"}
        return {"event": "hello", **identity, "started_attempt": self.attempt}

    def act(self, action: Callable[[], None]) -> None:
        """Do something, if it lives; later, if it stands still."""
        if not self.alive:
            return
        if self._frozen is not None:
            self._frozen.append(action)
        else:
            action()

    def freeze(self, seconds: float) -> None:
        """Stand still for a while, as under SIGSTOP or on a machine that swaps."""
        if self._frozen is not None:
            return
        self._frozen = []

        def thaw() -> None:
            waiting, self._frozen = self._frozen or [], None
            for action in waiting:
                self.act(action)

        self._clock.after(seconds, thaw)

    def _say(self, message: Message) -> None:
        if self.link is not None:
            self.link.up(message)

    def _tell(self, message: Message) -> None:
        self._told.append(message)
        self._say(message)

    def command(self, message: Message) -> None:
        """Obey, unless another controller has been in charge since."""
        if message["epoch"] < self._epoch:
            return self._say({"event": "note", "text": "refused a command of an older epoch"})
        self._epoch = message["epoch"]
        match message["do"]:
            case "welcome" if not self._in_charge:
                self._in_charge = True
                self._machine.clear_leftovers(self)
            case "start":
                self._start(message["attempt"], message["plan"], message["spool"])
            case "examine":
                # Late, or without a finding: stacks are not what is simulated.
                told = {"event": "examined", "attempt": message["attempt"], "ranks": []}
                if self._machine.dice.random() < 0.5:
                    self._say(told)
            case "stop":
                self._stop(message["attempt"], message["grace"])
            case "leave":
                self.leave()

    # -- ranks ------------------------------------------------------------------------------

    def _start(self, attempt: int, plan: LaunchPlan, spool: Spool) -> None:
        if attempt <= self.attempt:
            return self._say({"event": "note", "text": f"attempt {attempt} is not started again"})
        self.attempt = attempt
        self._told.clear()
        gang = self._machine.gang_of(attempt, plan, spool)
        for launch in plan.processes:
            if launch.rank is not None and self._machine.refuses_start():
                failed = {"reason": "no more processes", "errno": 11}
                message = {"event": "start_failed", "attempt": attempt, "rank": launch.rank}
                self._tell({**message, **failed})
                continue
            process = self._machine.process(attempt, launch, self._ended)
            self.children.append(process)
            self._seen[process.pid] = (0, "")
            self._tell(
                {
                    "event": "started",
                    "attempt": attempt,
                    "rank": process.rank,
                    "pid": process.pid,
                    "start_time": 1,
                    "at": self._clock.now,
                }
            )
            if process.rank is not None:
                gang.join(process)

    def _look(self) -> None:
        if not self.alive:
            return
        self.act(self._look_out)
        self._clock.after(self._machine.pace, self._look)

    def _look_out(self) -> None:
        now = self._clock.now
        if self.link is None:
            return
        seen = [one for process in self.children for one in self._news(process)]
        self._say({"event": "look", "attempt": self.attempt, "at": now, "seen": seen})

    def _news(self, process: Process) -> list[Message]:
        if process.rank is None:
            return []
        whose = {"attempt": process.attempt, "rank": process.rank}
        sequence, told = self._seen[process.pid]
        state = "T" if process.stopped else ""
        news: list[Message] = []
        if process.beat["sequence"] != sequence:
            news.append({"event": "beat", **whose, "beat": dict(process.beat)})
        if state != told:
            signs = {"process_state": state, "log_at": self._clock.now}
            news.append({"event": "signs", **whose, **signs})
        self._seen[process.pid] = (process.beat["sequence"], state)
        return news

    def _ended(self, process: Process, code: int | None, signal: int | None) -> None:
        """A child has ended; said when this process gets to it."""
        self._machine.watch.process_ended(process)
        at = self._clock.now
        self.act(lambda: self._reap(process, code, signal, at))

    def _reap(self, process: Process, code: int | None, signal: int | None, at: float) -> None:
        if process not in self.children:
            return
        self.children.remove(process)
        whose = {"attempt": process.attempt, "rank": process.rank}
        record = {
            "rank": process.rank, "pid": process.pid, "start_time": 1, "code": code,
            "signal": signal, "at": at, "time": self._clock.time(),
            "asked": self._stopping is not None,
        }  # fmt: skip
        if process.rank is not None:
            for message in self._news(process):
                self._say(message)
            self._told.append({"event": "beat", **whose, "beat": dict(process.beat)})
        self._tell({"event": "exit", **whose, **record})
        with contextlib.suppress(FileNotFoundError):
            exits = self._machine.directory.attempt(process.attempt).exits
            append_line(exits, record, durable=False)
        self._push_stop()

    def _stop(self, attempt: int, grace: float) -> None:
        now = self._clock.now
        if grace > 0:
            for process in list(self.children):
                self._machine.terminate(process)
        self._stopping = (attempt, now + grace, now + grace + _STOP_TIMEOUT)
        self._clock.after(grace, lambda: self.act(self._push_stop))
        self._push_stop()

    def _push_stop(self) -> None:
        if self._stopping is None:
            return
        attempt, kill_at, _ = self._stopping
        if self.children and self._clock.now >= kill_at:
            for process in list(self.children):
                self._machine.kill(process)
        if self.children:
            return
        self._stopping = None
        stopped = {"event": "stopped", "attempt": attempt, "at": self._clock.now, "stuck": []}
        self._tell(stopped)

    # -- ends -------------------------------------------------------------------------------

    def leave(self) -> None:
        """End every child, then itself."""
        for process in list(self.children):
            process.end(signal=9)
        self.die()

    def die(self) -> None:
        """Killed: its ranks die with it, some of them a moment later."""
        if not self.alive:
            return
        self.alive = False
        for process in self.children:
            self._machine.orphan(process)
        if self.link is not None:
            link, self.link = self.link, None
            link.node.lose(link)


@dataclass
class Machine:
    """All that runs for one job, whoever the controller is."""

    clock: Clock
    dice: random.Random
    script: Script
    directory: RunDirectory
    watch: Any
    outlives: bool
    """Whether the supervisor outlives its controller, as under a head."""
    pace: float = 1.0
    node: SimulatedNode | None = None
    supervisors: list[Supervisor] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    gang: Gang | None = None
    ports: int = 0
    refused_starts: int = 0
    oom_kills: int = 0
    _cleared: int = 0
    _pids: Any = field(default_factory=lambda: itertools.count(1000))

    @property
    def living(self) -> list[Process]:
        """Every process of the job that runs."""
        return [process for process in self.processes if process.alive]

    @property
    def supervisor(self) -> Supervisor | None:
        """The one that owns the ranks."""
        return next((one for one in reversed(self.supervisors) if one.alive), None)

    def boot_supervisor(self, delay: float, node: SimulatedNode) -> None:
        """Another supervisor dials in after a while."""

        asked = self._cleared

        def boot() -> None:
            if asked == self._cleared and (self.outlives or not node.closed):
                supervisor = Supervisor(self, next(self._pids))
                self.supervisors.append(supervisor)
                supervisor.dial(self.node or node)

        self.clock.after(delay, boot)

    def gang_of(self, attempt: int, plan: LaunchPlan, spool: Spool) -> Gang:
        """The ranks-to-be of an attempt."""
        self.gang = Gang(
            self.clock, self.dice, self.script, self.directory.checkpoints,
            spool.stop_request(attempt), len(plan.ranks), self.watch,
        )  # fmt: skip
        return self.gang

    def refuses_start(self) -> bool:
        """Whether there is no room for another process."""
        if not self.refused_starts:
            return False
        self.refused_starts -= 1
        self.watch.harm("node")
        return True

    def process(self, attempt: int, launch: Any, ended: Any) -> Process:
        """Start one."""
        process = Process(launch.rank, attempt, next(self._pids), launch, ended)
        self.processes = [*self.living, process]
        self.watch.process_started(process, self.living)
        return process

    def terminate(self, process: Process) -> None:
        """TERM: most obey soon, with a code or by the signal."""
        if self.script.obeys_term and process.able:
            code = self.dice.choice([None, 75])
            signal = None if code else 15
            self.clock.after(self.dice.uniform(0, 8), lambda: process.end(code, signal))

    def kill(self, process: Process) -> None:
        """KILL: at once, or when the kernel gets to it."""
        delay = self.dice.choice([0.0, 0.02, 0.3, 4.0])
        if delay:
            self.clock.after(delay, lambda: process.end(signal=9))
        else:
            process.end(signal=9)

    def orphan(self, process: Process) -> None:
        """Its supervisor died: the kernel kills it, at once or in a moment."""
        process.ended = lambda one, *_: self.watch.process_ended(one)
        process.stuck = process.orphan = True
        self.kill(process)

    def clear_leftovers(self, but: Supervisor | None) -> None:
        """What `clear_leftovers` of a supervisor does: whatever bears the run's mark is killed."""
        spared = but.children if but else []
        for process in self.living:
            if process not in spared:
                process.end(signal=9)

    def clear(self) -> None:
        """Take everything of the job away, supervisors that are just being started too."""
        self._cleared += 1
        for supervisor in self.supervisors:
            supervisor.die()
        self.clear_leftovers(None)

    def checkpoint_paths(self) -> list[Path]:
        """Finished checkpoints, newest first."""
        return sorted(self.directory.checkpoints.glob("step-*"), reverse=True)
