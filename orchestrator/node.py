"""The node that a local run uses: Ray reserves it, a supervisor on it owns the ranks.

The one place where the controller meets sockets and processes. What arrives becomes
messages; what is to happen is sent.
"""

from __future__ import annotations

import json
import selectors
import sys
import time
from collections.abc import Callable, Mapping

from cluster.allocate import Placement
from cluster.ports import PortLease
from cluster.ray_client import Start
from cluster.reservation import resources_of
from orchestrator import process_facts, processes
from orchestrator.bell import Bell
from orchestrator.found import Found
from orchestrator.hearing import Hearing
from orchestrator.job_ray import NodeError, NodeRay, Pump
from orchestrator.launch import MARK
from orchestrator.layout import RunDirectory, Spool
from orchestrator.link import Link, Message, listen
from orchestrator.plan import LaunchPlan, user_environment

__all__ = ["LocalNode", "NodeError"]

_READY_TIMEOUT = 120.0
_CLOSE_TIMEOUT = 15.0
_CLEAR_TIMEOUT = 5.0
_PACE_STEP = 0.05


class LocalNode:
    """Ray and the supervisor of this machine, for one run."""

    def __init__(
        self,
        *,
        ray: NodeRay,
        run_id: str,
        epoch: int,
        directory: RunDirectory,
        spool: Spool,
        environment: Mapping[str, str],
        outlives: bool = False,
        pace: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`outlives`: the supervisor and its ranks outlive this process, as those of a head do.

        `pace` says how many seconds there are to be between two looks of the supervisor; less
        than it can: as often as it can.
        """
        self._run_id = run_id
        self._outlives = outlives
        self._epoch = epoch
        self._directory = directory
        self._spool = spool
        self._environment = environment
        self._listener = listen(spool.socket)
        self._link: Link | None = None
        self._newcomers: list[Link] = []
        self._ray = ray
        self._watched_ray = False
        self._port: PortLease | None = None
        self._selector = selectors.DefaultSelector()
        self._bell = Bell()
        for source in (self._listener, self._bell):
            self._selector.register(source, selectors.EVENT_READ)
        if outlives:
            self._watch_ray()
        self.supervisor_pid: int | None = None
        self._supervisor_is: processes.Identity | None = None
        self._hearing = Hearing()
        self._pace = pace
        self._told_pace = 0.0
        self.started_attempt = 0
        """The newest attempt that the supervisor has been told to start; 0: none."""

    # -- coming up --------------------------------------------------------------------------

    def bring_up(self, found: Found, pump: Pump) -> None:
        """Have a Ray that offers what was found, and on it a supervisor. Raises NodeError."""
        [node] = found.inventory.nodes
        simulated = bool(found.simulated)
        resources = resources_of(node, found.withheld, simulated=simulated)
        self._ray.start(self._supervisor(), resources, simulated=simulated)
        self._watch_ray()
        self._wait_ready(pump, _READY_TIMEOUT)

    def _watch_ray(self) -> None:
        if not self._watched_ray:
            self._selector.register(self._ray, selectors.EVENT_READ)
            self._watched_ray = True

    def await_supervisor(self, pump: Pump, timeout: float) -> bool:
        """Whether a supervisor that an earlier controller started dials in within `timeout` s."""
        deadline = time.monotonic() + timeout
        while not self.supervised and (left := deadline - time.monotonic()) > 0:
            pump(left)
        return self.supervised

    def _supervisor(self) -> Start:
        argv = (
            sys.executable,
            "-m",
            "orchestrator.supervisor",
            self._run_id,
            str(self._directory.root),
            json.dumps(self._spool.to_document()),
            "service" if self._outlives else "embedded",
        )
        return Start(
            argv=argv,
            env={**user_environment(self._environment), MARK: self._run_id},
            cwd=str(self._directory.root),
            log=str(self._directory.supervisor_log),
        )

    def _wait_ready(self, pump: Pump, timeout: float) -> None:
        """Return when a supervisor has said hello. Raises NodeError."""
        deadline = time.monotonic() + timeout
        while not self.supervised:
            if self._ray.ended:
                raise NodeError(f"Ray's keeper ended; see {self._directory.ray_log}")
            if time.monotonic() > deadline:
                raise NodeError(
                    f"no supervisor after {timeout:.0f} s; see {self._directory.supervisor_log} "
                    f"and {self._directory.ray_log}"
                )
            pump(0.1)

    @property
    def supervised(self) -> bool:
        """Whether a supervisor answers now."""
        return self._link is not None and self.supervisor_pid is not None

    def replace_supervisor(self, pump: Pump, timeout: float) -> None:
        """Have Ray start another supervisor after one has died. Raises NodeError."""
        self._ray.start_supervisor(self._supervisor())
        self._wait_ready(pump, timeout)

    def reserve(self, placement: Placement, pump: Pump) -> None:
        """Keep other work of this Ray off the devices of a placement. Raises NodeError."""
        self._ray.reserve(placement, pump)

    def hold(self, placement: Placement, *, simulated: bool) -> None:
        """The same for a gang that runs already: the Ray that knew of it died with its head."""
        self._ray.hold(placement, simulated=simulated)

    def kill_supervisor(self) -> None:
        """End a supervisor that does not answer any more; its ranks die with it."""
        if self._supervisor_is is not None:
            self._supervisor_is.kill()
        self._drop_link()

    def ray_pids(self) -> tuple[int, ...]:
        """The raylet of the Ray that this run uses."""
        return self._ray.raylets()

    # -- talking ----------------------------------------------------------------------------

    def poll(self, timeout: float) -> list[Message]:
        """What has arrived, waiting up to `timeout` seconds for the first of it."""
        messages: list[Message] = []
        began = time.monotonic()
        ready = self._selector.select(timeout)
        self._hearing.waited(time.monotonic() - began, timeout)
        for key, _ in ready:
            if key.fileobj is self._bell:
                self._bell.answer()
            elif key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._link:
                messages += self._from_supervisor()
            elif isinstance(key.fileobj, Link):
                messages += self._greet(key.fileobj)
            else:
                messages += self._from_ray()
        if self._link is not None:
            self._link.flush()
            if self._hearing.over:
                messages.append(self._silence())
        return messages

    def wake(self) -> None:
        """Have a `poll` under way, or the next one, return at once; from any thread."""
        self._bell.ring()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        newcomer = Link(connection)
        self._newcomers.append(newcomer)
        self._selector.register(newcomer, selectors.EVENT_READ)

    def _greet(self, newcomer: Link) -> list[Message]:
        """Hear who dials; a second supervisor is sent away, and has touched nothing by then."""
        messages = newcomer.receive()
        if not messages and not newcomer.closed:
            return []
        self._selector.unregister(newcomer)
        self._newcomers.remove(newcomer)
        if not messages:
            newcomer.close()
            return []
        hello, *others = messages
        if self.supervisor_pid not in (None, hello["pid"]):
            newcomer.send({"epoch": self._epoch, "do": "leave"})
            newcomer.close()
            return []
        self._drop_link()
        self._link = newcomer
        self._selector.register(newcomer, selectors.EVENT_READ)
        self._hearing.heard()
        self.supervisor_pid = hello["pid"]
        self._supervisor_is = processes.Identity(
            hello["pid"], hello["start_time"], hello["boot_id"]
        )
        self.started_attempt = hello["started_attempt"]
        self._tell_pace(self._pace())
        text = f"pid {hello['pid']} owns the ranks of this node"
        told = [{**hello, "event": "supervisor_started", "text": text}, *others]
        return told if not newcomer.closed else [*told, self._lose_link()]

    def _from_supervisor(self) -> list[Message]:
        assert self._link is not None
        messages = self._link.receive()
        self._hearing.heard()
        if self._link.closed:
            messages.append(self._lose_link())
        elif abs(self._pace() - self._told_pace) > max(_PACE_STEP, self._told_pace / 4):
            self._tell_pace(self._pace())
        return messages

    def _tell_pace(self, pace: float) -> None:
        """A word of welcome; a supervisor may hear it again when the pace has changed."""
        self._told_pace = pace
        self._command({"do": "welcome", "pace": pace})

    def _lose_link(self) -> Message:
        self._drop_link()
        return {"event": "supervisor_lost", "at": time.monotonic()}

    def _drop_link(self) -> None:
        if self._link is not None:
            self._selector.unregister(self._link)
            self._link.close()
        self._link = None
        self.supervisor_pid = self._supervisor_is = None

    def _silence(self) -> Message:
        """The supervisor stands still, though its end of the conversation is open."""
        pid = self.supervisor_pid or 0
        return {
            "event": "supervisor_silent",
            "at": time.monotonic(),
            "pid": pid,
            "seconds": self._hearing.silent,
            "process": process_facts.facts(pid, with_threads=False),
        }

    def _from_ray(self) -> list[Message]:
        messages = self._ray.messages(supervised=self.supervised)
        if self._ray.ended:
            self._selector.unregister(self._ray)
            self._watched_ray = False
        return messages

    def _command(self, message: Message) -> None:
        if self._link is not None:
            self._link.send({"epoch": self._epoch, **message})

    def start(self, attempt: int, plan: LaunchPlan) -> None:
        """Start every process of a plan."""
        if plan.fork_server is not None:
            self._command({"do": "warm", "fork_server": plan.fork_server.to_document()})
        launches = [process.to_document() for process in plan.processes]
        self._command({"do": "start", "attempt": attempt, "launches": launches})

    def examine(self, attempt: int, patience: float) -> None:
        """Look closely at every rank; `examined` arrives within about `patience` seconds."""
        self._command({"do": "examine", "attempt": attempt, "patience": patience})

    def stop(self, attempt: int, grace: float) -> None:
        """End every process of the attempt; `stopped` arrives when they are gone."""
        self._command({"do": "stop", "attempt": attempt, "grace": grace})

    def hold_port(self, lease: PortLease) -> int:
        """Keep a port leased while the attempt uses it."""
        self.release_port()
        self._port = lease
        return lease.port

    def release_port(self) -> None:
        if self._port is not None:
            self._port.release()
            self._port = None

    # -- going down -------------------------------------------------------------------------

    def detach(self) -> None:
        """End the conversation and nothing else: the ranks wait for the next controller."""
        self._drop_link()
        self._close_descriptors()

    def close(self) -> None:
        """End the supervisor, what it owns, and Ray; nothing of the run is left after it."""
        supervisor = self.supervisor_pid
        self._command({"do": "leave"})
        if self._link is not None:
            self._link.flush()
        if supervisor is not None:
            self._await_end(supervisor)
        self._ray.close()
        # A supervisor that was killed cannot clear what escaped it; its ranks' children may.
        processes.clear_marked(MARK, self._run_id, _CLEAR_TIMEOUT)
        self._drop_link()
        self._close_descriptors()
        self._spool.remove()

    def _close_descriptors(self) -> None:
        self.release_port()
        for newcomer in self._newcomers:
            newcomer.close()
        self._listener.close()
        self._bell.close()
        self._selector.close()

    def _await_end(self, pid: int) -> None:
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        while processes.state_of(pid) not in (None, "Z") and time.monotonic() < deadline:
            if self._link is not None:
                self._link.flush()
                self._link.receive()
            time.sleep(0.01)
        if processes.state_of(pid) not in (None, "Z"):
            processes.kill_quietly(pid)
