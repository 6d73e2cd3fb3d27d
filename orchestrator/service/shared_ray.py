"""One Ray for all jobs of a service, and a thread that keeps it there.

The thread alone talks to Ray's keeper (`cluster.ray_client`). Jobs' threads put orders into its
mailbox and take events out of theirs. Whatever dies, Ray or its keeper, is brought up again, and
holds first what all jobs held; ranks go on meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cluster.allocate import Placement
from cluster.leftovers import remove_tree
from cluster.ray_client import (
    Closed,
    Event,
    Failed,
    RayLost,
    RayNode,
    Ready,
    Start,
    Up,
)
from cluster.reservation import Book
from orchestrator.job_ray import JobRay, raylets_of
from orchestrator.service.mailbox import Mailbox

_CLOSE_TIMEOUT = 15.0
_LONGEST_PAUSE = 30.0
_STEADY_AFTER = 60.0


def pause(losses: int) -> float:
    """Seconds to wait before Ray is brought up again: after its first loss none, then longer."""
    return 0.0 if losses <= 1 else min(_LONGEST_PAUSE, 2.0 ** (losses - 2))


class SharedRay:
    """Ray for the jobs of a service: its own, or with `address` a place in one of others.

    `home` tells this service from others on the same Ray and machine. `log` gets what Ray
    prints. All methods may be called from any thread.
    """

    def __init__(self, home: Path, log: Path, *, address: str | None = None) -> None:
        self._log = log
        self._join = address
        self._name = hashlib.sha256(f"{socket.gethostname()} {home}".encode()).hexdigest()[:6]
        self._orders: Mailbox[Callable[[], None]] = Mailbox()
        self._lock = threading.Lock()
        self._seats: dict[str, _Seat] = {}
        self._document: dict[str, Any] = {"state": "closed", "reason": "not started yet"}
        self._simulated = False
        self._thread: threading.Thread | None = None
        # What follows is the thread's alone.
        self._book = Book({})
        self._node: RayNode | None = None
        self._temp_dir = ""
        self._up_since: float | None = None
        self._losses = 0
        self._due: float | None = 0.0
        self._stopping = False

    # -- for the head -----------------------------------------------------------------------

    def start(self, resources: Mapping[str, float], *, simulated: bool = False) -> None:
        """Begin to bring up a Ray that offers `resources`; returns at once.

        A Ray that is joined offers what it has. `simulated` says that devices among these are
        those of a rehearsal node.
        """
        self._book, self._simulated = Book(dict(resources)), simulated
        # The controller that left these is dead, or we would not be its successor.
        for left in Path(tempfile.gettempdir()).glob(f"muster-ray-{self._name}-*"):
            remove_tree(str(left))
        self._tell_state("starting")
        self._thread = threading.Thread(target=self._keep, name="shared Ray", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str | None:
        """Where Ray answers; None while it does not."""
        return self.state["address"]

    @property
    def state(self) -> dict[str, Any]:
        """How Ray is: `state` (starting, up, lost, closed), since when (seconds since 1970), why."""
        with self._lock:
            return {"address": None, "reason": "", **self._document}

    def for_job(self, job: str) -> JobRay:
        """The job's share of Ray; to be closed when the job has ended."""
        seat = _Seat(job, self)
        with self._lock:
            self._seats[job] = seat
        return JobRay(seat, self._log, simulated=self._simulated)

    def close(self) -> None:
        """Take our own Ray down, or leave that of others; supervisors live on."""
        if self._thread is not None:
            self._orders.put(self._stop)
            self._thread.join(2 * _CLOSE_TIMEOUT)

    # -- for a job's seat -------------------------------------------------------------------

    def order(self, what: Callable[[], None]) -> None:
        """Have something done by the thread that talks to Ray."""
        self._orders.put(what)

    @property
    def coming(self) -> bool:
        """Whether Ray is there, or on its way for the first time."""
        return self.state["state"] in ("starting", "up")

    def raylets(self) -> tuple[int, ...]:
        """The raylet of a Ray of our own."""
        return raylets_of(self._temp_dir) if self._temp_dir else ()
