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
    Reserved,
    Start,
    Unreserved,
    Up,
)
from cluster.reservation import Book
from orchestrator import processes
from orchestrator.job_ray import JobRay, raylets_of
from orchestrator.service.mailbox import Mailbox

_CLOSE_TIMEOUT = 15.0
_LONGEST_PAUSE = 30.0
_STEADY_AFTER = 60.0
_COMING = ("starting", "up")


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
        self.prefix = f"muster-ray-{self._name}-"
        self._orders: Mailbox[Callable[[], None]] = Mailbox()
        self._lock = threading.Lock()
        self._seats: dict[str, _Seat] = {}
        self._document: dict[str, Any] = {}
        self._simulated = False
        self._thread: threading.Thread | None = None
        # What follows is the thread's alone.
        self._book = Book({})
        self._holders: dict[str, _Seat] = {}
        self._node: RayNode | None = None
        self._temp_dir = ""
        self._up_since: float | None = None
        self._losses = 0
        self._due: float | None = 0.0
        self._stopping = False
        self._tell_state("starting")

    # -- for the head -----------------------------------------------------------------------

    def start(self, resources: Mapping[str, float], *, simulated: bool = False) -> None:
        """Begin to bring up a Ray that offers `resources`; returns at once.

        A Ray that is joined offers what it has. `simulated` says that devices among these are
        those of a rehearsal node.
        """
        self._book, self._simulated = Book(dict(resources)), simulated
        # The controller that left it is dead, or we would not be its successor.
        clear_left(self.prefix)
        self._tell_state("starting")
        self._thread = threading.Thread(target=self._keep, name="shared Ray", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str | None:
        """Where Ray answers; None while it does not."""
        address: str | None = self.state["address"]
        return address

    @property
    def state(self) -> dict[str, Any]:
        """How Ray is: `state` (starting, up, lost, closed), `since` (seconds since 1970), `reason`,
        `address`, whether it was `joined`, and its `losses` since it last was steady.
        """
        with self._lock:
            return dict(self._document)

    def for_job(self, job: str) -> JobRay:
        """The job's share of Ray; to be closed when the job has ended."""
        seat = _Seat(job, self)
        with self._lock:
            self._seats[job] = seat
            state = self._document["state"]
        ray = JobRay(seat, self._log, simulated=self._simulated)
        ray.there, ray.ended = state in _COMING, state == "closed"
        return ray

    def close(self) -> None:
        """Take our own Ray down, or leave that of others; supervisors live on."""
        if self._thread is not None:
            self.order(self._stop)
            self._thread.join(2 * _CLOSE_TIMEOUT)

    def _stop(self) -> None:
        self._stopping = True

    # -- for the jobs' seats ----------------------------------------------------------------

    def order(self, what: Callable[[], None]) -> None:
        """Have something done by the thread that talks to Ray."""
        self._orders.put(what)

    def raylets(self) -> tuple[int, ...]:
        """The raylet of a Ray of our own."""
        return raylets_of(self._temp_dir) if self._temp_dir else ()

    def start_supervisor(self, seat: _Seat, start: Start, serial: int) -> None:
        """An order: pass the request on, to another keeper if there is none."""
        node = self._node or self._spawn()
        if node is None:
            return seat.mail.put(Failed(seat.job, self.state["reason"], serial))
        seat.starting = serial
        node.start_supervisor(seat.job, start, serial)

    def reserve(self, seat: _Seat, placement: Placement, serial: int, *, simulated: bool) -> None:
        """An order: have the devices held, now or as soon as there is a Ray."""
        seat.wanted, seat.reserving = (placement, simulated), serial
        self._holders[seat.job] = seat
        if self._up_since is not None:
            self._send(seat)

    def _send(self, seat: _Seat) -> None:
        """Ask for what a seat wants. Only a Ray that is up tells what it has."""
        if seat.wanted is None or self._node is None:
            return
        (placement, simulated), seat.wanted = seat.wanted, None
        bundles = self._book.take(seat.job, placement, simulated=simulated)
        resources = None if self._join else self._book.resources
        self._node.reserve(seat.job, bundles, resources, seat.reserving)

    def release(self, seat: _Seat) -> None:
        """An order: give back what is held for a job that has ended."""
        with self._lock:
            if self._seats.get(seat.job) is seat:
                del self._seats[seat.job]
        if self._holders.get(seat.job) is not seat:
            return  # nothing is held, or by a successor
        del self._holders[seat.job]
        self._book.release(seat.job)
        if self._node is not None:
            self._node.reserve(seat.job, ())

    # -- the thread -------------------------------------------------------------------------

    def _keep(self) -> None:
        try:
            while not self._stopping:
                self._bring_up_if_due()
                self._wait()
                for order in self._orders.take():
                    order()
                for event in self._node.poll() if self._node else ():
                    self._on_event(event)
        finally:
            if self._node is not None:
                with contextlib.suppress(TimeoutError):
                    self._node.close(_CLOSE_TIMEOUT)
            self._tell_state("closed", reason="")
            self._tell(Closed())

    def _wait(self) -> None:
        """Return when there is something to do."""
        poll = select.poll()
        poll.register(self._orders, select.POLLIN)
        if self._node is not None:
            poll.register(self._node, select.POLLIN)
        left = None if self._due is None else max(0.0, self._due - time.monotonic())
        poll.poll(None if left is None else 1000 * left + 1)

    def _bring_up_if_due(self) -> None:
        if self._due is None or time.monotonic() < self._due:
            return
        self._due = None
        if self._node is None:
            self._spawn()
        else:
            self._node.bring_up()

    def _spawn(self) -> RayNode | None:
        """Start a keeper, which brings up a Ray that holds what was held; None: it cannot be."""
        self._due = None
        try:
            if not self._join:
                self._temp_dir = tempfile.mkdtemp(prefix=self.prefix)
            self._node = RayNode.start(
                temp_dir=self._temp_dir,
                address=self._join,
                resources=self._book.resources,
                reservations=self._book.held,
                log=self._log,
                namespace=f"muster-{self._name}",
            )
        except OSError as error:
            self._lose(f"Ray's keeper cannot be started: {error}")
        return self._node

    def _on_event(self, event: Event) -> None:
        match event:
            case Up():
                self._on_up(event)
            case RayLost(reason):
                self._lose(reason)
                self._tell(event)
            case Failed(job="", reason=reason):
                self._lose(reason)
                self._tell(event)
            case Closed():
                self._on_closed()
            case Unreserved(job=job, serial=serial) if serial is not None:
                self._on_refusal(job, serial)
                self._pass_on(event)
            case Ready() | Failed() | Reserved() | Unreserved():
                self._pass_on(event)

    def _pass_on(self, event: Ready | Failed | Reserved | Unreserved) -> None:
        if seat := self._seat(event.job):
            if event.serial == seat.starting:
                seat.starting = None
            seat.mail.put(event)

    def _on_refusal(self, job: str, serial: int) -> None:
        """What a Ray that is there does not give is not asked of its successors either."""
        holder = self._holders.get(job)
        if self._up_since is not None and holder is not None and holder.reserving == serial:
            self._book.release(job)

    def _on_up(self, event: Up) -> None:
        self._up_since, self._due = time.monotonic(), None
        if self._join:
            self._book.resources = event.resources
        self._tell_state("up", address=event.address)
        self._tell(event)
        for seat in self._all_seats():
            self._send(seat)

    def _on_closed(self) -> None:
        """The keeper is gone, and with it its Ray: what it owed is answered here."""
        why = f"Ray's keeper ended; see {self._log}"
        if self._node is not None:
            self._node.close()
            self._node = None
        if self._up_since is not None or self._due is None:
            self._lose(why)
            self._tell(RayLost("its keeper ended"))
        for seat in self._all_seats():
            if seat.starting is not None:
                seat.mail.put(Failed(seat.job, why, seat.starting))
                seat.starting = None

    def _lose(self, reason: str) -> None:
        """Ray is not there, or did not come up; it is tried again, soon or later."""
        if self._up_since is not None and time.monotonic() - self._up_since > _STEADY_AFTER:
            self._losses = 0
        self._losses += 1
        self._up_since, self._due = None, time.monotonic() + pause(self._losses)
        self._tell_state("lost", reason=reason)

    # -- telling ----------------------------------------------------------------------------

    def _seat(self, job: str) -> _Seat | None:
        with self._lock:
            return self._seats.get(job)

    def _all_seats(self) -> list[_Seat]:
        with self._lock:
            return list(self._seats.values())

    def _tell(self, event: Event) -> None:
        for seat in self._all_seats():
            seat.mail.put(event)

    def _tell_state(self, state: str, *, address: str | None = None, reason: str = "") -> None:
        with self._lock:
            self._document = {
                "state": state,
                "since": time.time(),
                "address": address,
                "joined": self._join is not None,
                "reason": reason,
                "losses": self._losses,
            }


class _Seat:
    """One job's line to the Ray that it shares: orders go to its thread, events come here."""

    def __init__(self, job: str, shared: SharedRay) -> None:
        self.job = job
        self.mail: Mailbox[Event] = Mailbox()
        self.starting: int | None = None
        self.reserving: int | None = None
        self.wanted: tuple[Placement, bool] | None = None
        self._shared = shared

    def fileno(self) -> int:
        return self.mail.fileno()

    def poll(self) -> tuple[Event, ...]:
        return self.mail.take()

    def open(self, _: Mapping[str, float]) -> bool:
        return self._shared.state["state"] in _COMING

    def start_supervisor(self, start: Start, serial: int) -> None:
        self._shared.order(partial(self._shared.start_supervisor, self, start, serial))

    def reserve(self, placement: Placement, serial: int, *, simulated: bool) -> None:
        order = partial(self._shared.reserve, self, placement, serial, simulated=simulated)
        self._shared.order(order)

    def raylets(self) -> tuple[int, ...]:
        return self._shared.raylets()

    def close(self) -> None:
        """Give back what is held for the job; the others' Ray stays."""
        self._shared.order(partial(self._shared.release, self))
        self.mail.close()


def clear_left(prefix: str) -> None:
    """Take away what is left of Rays of this home, whose keeper was killed before it could."""
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        for pid in processes.mentioning(str(left)):
            processes.kill_quietly(pid)
        remove_tree(str(left))
