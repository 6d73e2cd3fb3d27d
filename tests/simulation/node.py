"""What stands in for `LocalNode`: the same methods, over the simulated machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.hearing import Hearing
from orchestrator.job_ray import NodeError
from orchestrator.layout import Spool
from orchestrator.link import Message
from orchestrator.plan import LaunchPlan
from tests.simulation.machine import Link, Machine, Supervisor

READY_TIMEOUT = 120.0


class Killed(BaseException):
    """The controller is dead: nothing of it goes on. Not an Exception, so that nobody takes it."""


class Endless(AssertionError):
    """The controller goes round without an end."""


class Fate:
    """When the controller dies, by a count of what it does or by the clock."""

    def __init__(self, at_moment: int | None = None) -> None:
        self._left = at_moment
        self.doomed = False
        self.moments = 0

    def moment(self) -> None:
        """One more place where a kill may land. Raises Killed."""
        self.moments += 1
        if self._left is not None:
            self._left -= 1
        if self.doomed or self._left == 0:
            raise Killed


class SimulatedNode:
    """The controller's hands; see `orchestrator.node.LocalNode`, which it follows."""

    def __init__(
        self, machine: Machine, spool: Spool, fate: Fate, *, epoch: int, bound: float
    ) -> None:
        """`bound`: the time at which the history should have ended long ago."""
        self._machine = machine
        self._clock = machine.clock
        self._spool = spool
        self._fate = fate
        self._epoch = epoch
        self._bound = bound
        self._link: Link | None = None
        self._links: list[Link] = []
        self._inbox: list[Message] = []
        self._failed = ""
        self._polls = 0
        self._hearing = Hearing()
        self._holds_port = False
        self.closed = False
        self.broken: list[str] = []
        """Why the next answers of Ray are refusals."""
        self.supervisor_pid: int | None = None
        self.started_attempt = 0
        machine.node = self
        for supervisor in machine.supervisors:
            if supervisor.alive and supervisor.link is None:
                supervisor.dial(self)

    # -- the machine's side -----------------------------------------------------------------

    def answer(self, _: Supervisor) -> Link:
        """Somebody dials."""
        link = Link(self._clock, self)
        self._links.append(link)
        return link

    def hear(self, link: Link, message: Message) -> None:
        """Something arrives; the first word says who it is."""
        if message["event"] == "hello":
            return self._greet(link, message)
        if link is self._link:
            self._hearing.heard()
            self._inbox.append(message)

    def _greet(self, link: Link, hello: Message) -> None:
        supervisor = next(s for s in self._machine.supervisors if s.pid == hello["pid"])
        if self.supervisor_pid not in (None, hello["pid"]):
            link.down(lambda: supervisor.act(supervisor.leave))
            return
        self._link = link
        self._hearing.heard()
        self.supervisor_pid = hello["pid"]
        self.started_attempt = hello["started_attempt"]
        self._command({"do": "welcome"})
        self._inbox.append({**hello, "event": "supervisor_started", "text": "it owns the ranks"})

    def lose(self, link: Link) -> None:
        """The other end is gone."""
        link.open = False
        if link is self._link:
            self._link = None
            self.supervisor_pid = None
            self._inbox.append({"event": "supervisor_lost", "at": self._clock.now})

    def tell(self, message: Message) -> None:
        """Something that is not a supervisor's happens."""
        self._inbox.append(message)

    def fail(self, reason: str) -> None:
        """Ray does not start a supervisor."""
        self._failed = reason

    # -- the controller's side --------------------------------------------------------------

    @property
    def supervised(self) -> bool:
        return self._link is not None

    def bring_up(self, found: Any, pump: Any) -> None:
        self.replace_supervisor(pump, READY_TIMEOUT)

    def await_supervisor(self, pump: Any, timeout: float) -> bool:
        deadline = self._clock.now + timeout
        while not self.supervised and (left := deadline - self._clock.now) > 0:
            pump(left)
        return self.supervised

    def replace_supervisor(self, pump: Any, timeout: float) -> None:
        self._fate.moment()
        self._refuse()
        self._machine.boot_supervisor(self._machine.dice.choice([0.5, 3.0, 8.0]), self)
        deadline = self._clock.now + timeout
        while not self.supervised:
            if self._clock.now > deadline:
                raise NodeError(f"no supervisor after {timeout:.0f} s")
            pump(0.1)

    def reserve(self, placement: Any, pump: Any) -> None:
        self._fate.moment()
        self._refuse()
        pump(0.01)

    def _refuse(self) -> None:
        if self.broken:
            raise NodeError(self.broken.pop())

    def hold(self, placement: Any, *, simulated: bool) -> None:
        self._fate.moment()

    def kill_supervisor(self) -> None:
        self._machine.watch.harm("node")
        supervisor, link = self._supervisor(), self._link
        self._link, self.supervisor_pid = None, None
        if link is not None:
            link.open = False
        if supervisor is not None:
            supervisor.link = None
            supervisor.die()

    def _supervisor(self) -> Supervisor | None:
        pid = self.supervisor_pid
        return next((s for s in self._machine.supervisors if s.pid == pid), None)

    def ray_pids(self) -> tuple[int, ...]:
        return ()

    def poll(self, timeout: float) -> list[Message]:
        self._fate.moment()
        self._polls += 1
        if self._polls > 200_000 or self._clock.now > self._bound:
            raise Endless(f"{self._polls} looks, {self._clock.now:.0f} s")
        began, meant = self._clock.now, max(timeout, 0.001)
        until = began + meant
        while not self._inbox and self._clock.step(until):
            if self._fate.doomed:
                raise Killed
        self._hearing.waited(self._clock.now - began, meant)
        messages, self._inbox = self._inbox, []
        if self._link is not None and self._hearing.over:
            messages.append(self._silence())
        return messages

    def _silence(self) -> Message:
        pid, seconds = self.supervisor_pid, self._hearing.silent
        told = {"pid": pid, "seconds": seconds, "process": {"pid": pid, "state": "T"}}
        return {"event": "supervisor_silent", "at": self._clock.now, **told}

    def wake(self) -> None:
        self._inbox.append({"event": "note", "text": "rung"})

    def start(self, attempt: int, plan: LaunchPlan) -> None:
        self._fate.moment()
        self._machine.watch.start_ordered(attempt)
        self._command({"do": "start", "attempt": attempt, "plan": plan, "spool": self._spool})
        self._fate.moment()

    def examine(self, attempt: int, patience: float) -> None:
        self._fate.moment()
        self._command({"do": "examine", "attempt": attempt, "patience": patience})

    def stop(self, attempt: int, grace: float) -> None:
        self._fate.moment()
        self._command({"do": "stop", "attempt": attempt, "grace": grace})

    def _command(self, message: Mapping[str, Any]) -> None:
        supervisor, link = self._supervisor(), self._link
        if link is not None and supervisor is not None:
            command = {**message, "epoch": self._epoch}
            link.down(lambda: supervisor.act(lambda: supervisor.command(command)))

    def hold_port(self, lease: Any) -> int:
        self.release_port()
        self._holds_port = True
        self._machine.ports += 1
        return int(lease)

    def release_port(self) -> None:
        if self._holds_port:
            self._holds_port = False
            self._machine.ports -= 1

    # -- ends -------------------------------------------------------------------------------

    def detach(self) -> None:
        """The end of the conversation, and of nothing else."""
        self.release_port()
        self.closed = True
        if self._machine.node is self:
            self._machine.node = None
        for link in self._links:
            link.open = False
        for supervisor in self._machine.supervisors:
            if supervisor.alive and supervisor.link in self._links:
                supervisor.hang_up()

    def close(self) -> None:
        """End the supervisor, what it owns, and whatever bears the run's mark."""
        self.detach()
        self._machine.clear()
        self._spool.remove()
