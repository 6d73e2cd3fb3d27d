"""The supervisor's end of the fork server: start it, ask it, notice its end."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass

from orchestrator import processes
from orchestrator.launch import ForkServerPlan, ProcessPlan
from orchestrator.link import Link


@dataclass(frozen=True)
class ForkReply:
    """An answer: preloaded (`ready` s), or a started `pid`, or `refused` with a reason."""

    ready: float | None = None
    failed: tuple[str, ...] = ()
    launch: ProcessPlan | None = None
    pid: int | None = None
    refused: str | None = None


class ForkClient:
    """At most one fork server; another plan replaces it."""

    def __init__(self, supervisor: int) -> None:
        self._supervisor = supervisor
        self._plan: ForkServerPlan | None = None
        self._link: Link | None = None
        self._pid = 0
        self._pending: dict[int | None, ProcessPlan] = {}

    @property
    def alive(self) -> bool:
        return self._link is not None and not self._link.closed

    @property
    def owes(self) -> bool:
        """Whether a start that was asked for has not been answered yet."""
        return self.alive and bool(self._pending)

    @property
    def pids(self) -> frozenset[int]:
        """The fork server's own process, which a stop of the gang spares."""
        return frozenset({self._pid}) if self.alive else frozenset()

    def fileno(self) -> int:
        return self._link.fileno() if self._link is not None else -1

    def fits(self, plan: ForkServerPlan) -> bool:
        """Whether a fork server of this very plan is there."""
        return self.alive and plan == self._plan

    def open(self, plan: ForkServerPlan) -> None:
        """Start a fork server. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs, open(plan.log, "ab") as log:
            process = subprocess.Popen(
                [
                    plan.python,
                    "-m",
                    "orchestrator.forkserver",
                    str(theirs.fileno()),
                    str(self._supervisor),
                    *plan.preload,
                ],
                env=dict(plan.environment),
                cwd=plan.workdir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        process.returncode = 0  # its exit is the supervisor's to collect
        self._pid = process.pid
        self._plan = plan
        self._link = Link(ours)

    def request(self, launch: ProcessPlan) -> None:
        """Ask for a rank; the answer comes with `replies`, after the preload at the earliest."""
        if self._link is None:
            raise RuntimeError("no fork server was started")
        self._pending[launch.rank] = launch
        self._link.send(launch.to_document())

    def flush(self) -> None:
        """Send what is queued: a server that preloads does not read."""
        if self._link is not None:
            self._link.flush()

    def replies(self) -> list[ForkReply]:
        """The answers that have arrived."""
        if self._link is None:
            return []
        return [self._reply(message) for message in self._link.receive()]

    def _reply(self, message: dict[str, object]) -> ForkReply:
        if "ready" in message:
            failed = message["failed"]
            return ForkReply(
                ready=float(str(message["seconds"])),
                failed=tuple(failed) if isinstance(failed, list) else (),
            )
        rank = message["rank"]
        launch = self._pending.pop(rank if isinstance(rank, int) else None, None)
        pid = message.get("pid")
        refused = message.get("refused")
        return ForkReply(
            launch=launch,
            pid=pid if isinstance(pid, int) else None,
            refused=str(refused) if refused is not None else None,
        )

    def abandon(self) -> list[ProcessPlan]:
        """End or forget the fork server; returns the starts that it still owed."""
        pending = list(self._pending.values())
        self._pending.clear()
        self.close()
        return pending

    def close(self) -> None:
        """End the fork server; its forked ranks are not touched."""
        if self._link is not None:
            self._link.close()
            self._link = None
            if processes.state_of(self._pid) is not None and os.getpid() == self._supervisor:
                processes.kill_quietly(self._pid)
