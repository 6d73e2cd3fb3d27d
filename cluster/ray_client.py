"""The controller's end of `python -m cluster.ray_node`: typed, never blocking unless asked to.

Put `fileno()` into an event loop and call `poll()` when it is readable. When the controller
dies, even by SIGKILL, the program notices and takes Ray away. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.detach import package_path

_PROGRAM = ("-m", "cluster.ray_node")


@dataclass(frozen=True)
class Start:
    """What to start on a node: `argv` with exactly `env`, in `cwd`, output appended to `log`."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    log: str


@dataclass(frozen=True)
class ProcessId:
    """A process for ever: `start_time` in clock ticks since the boot named by `boot_id`."""

    pid: int
    start_time: int
    boot_id: str


@dataclass(frozen=True)
class Up:
    """There is a Ray at `address`, and this node offers `resources` in it.

    `seconds` names what it took its time for.
    """

    address: str
    resources: Mapping[str, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Ready:
    """A supervisor of `job` runs. `seconds` names what the start took its time for.

    `serial` is that of the request, here and elsewhere; None: nobody asked.
    """

    job: str
    node: str
    address: str
    node_id: str
    supervisor: ProcessId
    seconds: Mapping[str, float]
    serial: int | None = None


@dataclass(frozen=True)
class Failed:
    """A start failed; another may be tried. Without a job: Ray did not come up."""

    job: str
    reason: str
    serial: int | None = None


@dataclass(frozen=True)
class Reserved:
    """The bundles last asked for are held for the job."""

    job: str
    seconds: float
    serial: int | None = None


@dataclass(frozen=True)
class Unreserved:
    """They are not, and no others are."""

    job: str
    reason: str
    serial: int | None = None


@dataclass(frozen=True)
class RayLost:
    """Ray died and was cleared away; supervisors live on. The next start brings up another."""

    reason: str


@dataclass(frozen=True)
class RayMember:
    """One node of the Ray cluster."""

    node_id: str
    name: str
    address: str
    alive: bool
    resources: Mapping[str, float]


@dataclass(frozen=True)
class Members:
    """The answer to `ask_members`; empty while there is no Ray."""

    nodes: tuple[RayMember, ...]


@dataclass(frozen=True)
class Closed:
    """The program has ended; nothing more will come."""


Event = Up | Ready | Failed | Reserved | Unreserved | RayLost | Members | Closed


class RayFailed(RuntimeError):
    """Ray, or the first supervisor, could not be started; the message says why."""


class RayNode:
    """A Ray on this node for any number of jobs, and the program that keeps it.

    Made by `RayNode.start`.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self._buffer = b""
        self._waiting: list[Event] = []
        self._closed = False

    @classmethod
    def start(
        cls,
        *,
        temp_dir: str,
        resources: Mapping[str, float],
        log: str | os.PathLike[str],
        address: str | None = None,
        reservations: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
        namespace: str = "muster",
    ) -> RayNode:
        """Spawn the program and ask it for a Ray; returns at once. Answered by Up or Failed.

        `resources` is all that this Ray has to give (`cluster.reservation`), whole CPUs among
        it. `temp_dir` must be short (Ray puts Unix sockets there), and absent or empty: it is
        removed at the end. `log` gets what the program and Ray print. With an `address` (as
        `ray.init` takes it) the Ray of others is joined instead, and neither is used.
        `reservations` are held first of all, by job.
        """
        with open(log, "ab") as errors:
            process = subprocess.Popen(
                [sys.executable, *_PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": package_path()},
            )
        node = cls(process)
        node._send(
            {
                "temp_dir": temp_dir,
                "address": address,
                "namespace": namespace,
                "resources": dict(resources),
                "reservations": {
                    job: [dict(one) for one in bundles]
                    for job, bundles in (reservations or {}).items()
                },
            }
        )
        return node

    @property
    def pid(self) -> int:
        """The program's pid."""
        return self._process.pid

    def fileno(self) -> int:
        """A descriptor that is readable when `poll` has something."""
        return self._stdout.fileno()

    def ready(self, timeout: float) -> Ready:
        """Wait up to `timeout` seconds for a supervisor; other events are kept for `poll`.

        Raises RayFailed when a start fails or the program ends, TimeoutError otherwise.
        """
        deadline = time.monotonic() + timeout
        others: list[Event] = []
        try:
            while True:
                while self._waiting:
                    event = self._waiting.pop(0)
                    if isinstance(event, Ready):
                        return event
                    if isinstance(event, Failed):
                        raise RayFailed(event.reason)
                    others.append(event)
                    if isinstance(event, Closed):
                        raise RayFailed("the Ray keeper ended; its log says why")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"Ray was not ready within {timeout:g} s")
                select.select([self], [], [], left)
                self._receive()
        finally:
            self._waiting[:0] = others

    def bring_up(self) -> None:
        """Ask for a Ray where there is none; answered by Up or Failed."""
        self._send({"do": "up"})

    def start_supervisor(self, job: str, start: Start, serial: int | None = None) -> None:
        """Ask for a supervisor, and for a Ray where there is none; answered by Ready or Failed.

        The answer has the `serial`, by which the caller knows it.
        """
        self._send({"do": "start", "job": job, "start": _plain(start), "serial": serial})

    def reserve(
        self,
        job: str,
        bundles: Sequence[Mapping[str, float]],
        resources: Mapping[str, float] | None = None,
        serial: int | None = None,
    ) -> None:
        """Ask for exactly these bundles for the job; answered by Reserved or Unreserved.

        None at all gives back what the job held. A later Ray reserves them before anything
        else. `resources`, where they differ from those that Ray was started with, replace it
        by a Ray with those.
        """
        request: dict[str, Any] = {
            "do": "reserve",
            "job": job,
            "bundles": [dict(one) for one in bundles],
            "serial": serial,
        }
        if resources is not None:
            request["resources"] = dict(resources)
        self._send(request)

    def ask_members(self) -> None:
        """Ask for the cluster's nodes; answered by Members."""
        self._send({"do": "nodes"})

    def poll(self) -> tuple[Event, ...]:
        """What has happened since the last call; never waits."""
        self._receive()
        events, self._waiting = tuple(self._waiting), []
        return events

    def close(self, timeout: float = 15.0) -> None:
        """Take Ray down and wait for the program to end. Supervisors live on.

        Raises TimeoutError after `timeout` seconds; the program then goes on ending.
        """
        self._send({"do": "stop"})
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"Ray was not down after {timeout:g} s") from None
        finally:
            self._receive()
        self._stdout.close()

    def _send(self, request: Mapping[str, Any]) -> None:
        # That the program is gone is told by Closed.
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()

    def _receive(self) -> None:
        while not self._closed:
            try:
                data = os.read(self._stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            self._waiting += [_event(json.loads(line)) for line in lines if line]
            if not data:
                self._closed = True
                self._waiting.append(Closed())


def _plain(start: Start) -> dict[str, Any]:
    return {**asdict(start), "argv": list(start.argv), "env": dict(start.env)}


def _event(raw: Mapping[str, Any]) -> Event:
    match raw["event"]:
        case "up":
            return Up(raw["address"], raw["resources"], raw["seconds"])
        case "ready":
            return Ready(
                job=raw["job"],
                node=raw["node"],
                address=raw["address"],
                node_id=raw["node_id"],
                supervisor=ProcessId(**raw["supervisor"]),
                seconds=raw["seconds"],
                serial=raw["serial"],
            )
        case "failed":
            return Failed(raw["job"], raw["reason"], raw["serial"])
        case "reserved":
            return Reserved(raw["job"], raw["seconds"], raw["serial"])
        case "unreserved":
            return Unreserved(raw["job"], raw["reason"], raw["serial"])
        case "ray_lost":
            return RayLost(raw["reason"])
        case "nodes":
            return Members(tuple(RayMember(**node) for node in raw["nodes"]))
        case other:
            raise ValueError(f"unknown event {other!r}")
