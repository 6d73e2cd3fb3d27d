"""One job being driven: a thread with the same controller that `muster run` has.

What is durable is in the store. A drive that finds ranks of an earlier controller adopts them.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.allocate import Placement, Refusal, Request
from orchestrator import ownership
from orchestrator import spec as specs
from orchestrator.controller import Controller, Outcome
from orchestrator.follow_up import follow_up
from orchestrator.found import Found
from orchestrator.job_ray import NodeRay
from orchestrator.journal import Event, keep_reserve
from orchestrator.layout import SHARED_RAY, RunDirectory, Spool, write_bytes, write_json
from orchestrator.ledger import Ledger, fold
from orchestrator.node import LocalNode
from orchestrator.orders import Order, OrderKind
from orchestrator.service.news import News
from orchestrator.service.store_log import StoreLog
from orchestrator.spec import JobSpec
from orchestrator.states import JobState
from orchestrator.store import Store
from orchestrator.store.values import JobRecord, Submission

_REST = 5.0
_AT_ONCE = 16


@dataclass(frozen=True)
class Surroundings:
    """What all drives of a head share."""

    store: Store
    epoch: int
    news: News
    environment: Mapping[str, str]
    ray_for: Callable[[str], NodeRay]
    find_for: Callable[[str, JobSpec], Found]
    pace: Callable[[], float]
    ended: Callable[[Drive], None]
    grow: Callable[[Drive, Request], Placement | Refusal]
    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_AT_ONCE))
    """Where those wait that begin together: a thousand that pull at one interpreter get nowhere."""


class Drive(threading.Thread):
    """Drives a job from the queue, or the ranks that are there already, until it has ended.

    `error` is set when it ended by a mistake of ours, or by a disk: the ranks live on then.
    """

    def __init__(
        self,
        record: JobRecord,
        spec: JobSpec,
        text: bytes,
        around: Surroundings,
        placement: Placement | None = None,
    ) -> None:
        super().__init__(name=f"drive-{record.job}", daemon=True)
        self.job = record.job
        self.record = record
        self.spec = spec
        self.began_at = time.time()
        self.controller: Controller | None = None
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self._text = text
        self._around = around
        self._placement = placement
        self._directory = RunDirectory(Path(record.run_dir))
        self._log = StoreLog(
            around.store,
            record.job,
            epoch=around.epoch,
            directory=self._directory,
            news=around.news,
            follow_up=self._follow_up(),
        )
        self._order: Order | None = None
        self._lock = threading.Lock()

    def _follow_up(self) -> Submission | None:
        spec = follow_up(self.spec, self._directory.root)
        if spec is None:
            return None
        text = json.dumps(specs.to_document(spec), indent=1).encode()
        return Submission.of(
            spec,
            text,
            runs=self._directory.root.parent,
            user=self.record.user,
            key=f"then of {self.job}",
        )

    # -- from other threads -----------------------------------------------------------------

    @property
    def placement(self) -> Placement | None:
        """Where its ranks are or are to be."""
        return self.controller.placement if self.controller else self._placement

    def hold(self, placement: Placement) -> None:
        """It has these devices from now on; its ranks get there with its next attempt."""
        assert self.controller is not None
        self.controller.placement = placement

    @property
    def stopping(self) -> bool:
        """Whether it has been told to give its devices back."""
        return self._order is not None

    @property
    def left_order(self) -> Order | None:
        """An order that nobody has obeyed, once the thread is over."""
        return self.controller.order if self.controller else self._order

    @property
    def stalled(self) -> str:
        """Why nothing can be recorded of it now; empty: it can."""
        return self._log.stalled

    def give(self, order: Order) -> None:
        """Hand it an order; one to let go of the run does not wait for a full disk."""
        with self._lock:
            self._order = order
            if self.controller is not None:
                self.controller.give(order)
        if order.kind is OrderKind.DETACH:
            self._log.given_up.set()

    # -- the thread -------------------------------------------------------------------------

    def run(self) -> None:
        """See the class."""
        try:
            with ownership.driving(self._prepare()):
                self.outcome = self._drive()
            if self.outcome is Outcome.DETACHED and self._order is None:
                raise RuntimeError(f"{self.job} cannot be recorded: {self._log.trouble}")
        except Exception as error:
            self.error = error
        finally:
            self._around.ended(self)

    def _prepare(self) -> RunDirectory:
        """Have a run directory, whole or begun by a controller that was killed."""
        directory = self._directory
        directory.root.mkdir(parents=True, exist_ok=True)
        directory.checkpoints.mkdir(exist_ok=True)
        if not directory.spec.exists():
            write_json(directory.submitted, {"job": self.job})
            write_bytes(directory.job_file, self._text)
            write_json(directory.spec, specs.to_document(self.spec))
        return directory

    def _drive(self) -> Outcome:
        with self._around.gate:
            ledger = fold(self._log.events())
            adopts = ledger.state.holds_devices
            node, spool = self._enter(ledger, adopts=adopts)
        outcome = Outcome.DETACHED
        try:
            with self._around.gate:
                controller = self._controller(node, spool, ledger, adopts=adopts)
            outcome = controller.run()
        finally:
            if outcome is Outcome.DETACHED and self._has_gang():
                node.detach()
            else:
                node.close()
                self._log.events()  # orders came in from another thread: their place is mended
                self._directory.live.unlink(missing_ok=True)
        return outcome

    def _has_gang(self) -> bool:
        """Whether there may be ranks, which then wait for the next controller."""
        return self.controller is None or self.controller.ledger.state.holds_devices

    def _spool(self, ledger: Ledger, *, adopts: bool) -> Spool:
        """The spool of ranks that may live, or a new one."""
        spool = Spool.from_document(ledger.spool) if ledger.spool else None
        if spool is not None and not ownership.belongs(spool, self._directory):
            spool = None  # gone, as after a reboot
        if adopts and spool is not None:
            return spool
        # A controller that was killed while it brought up a node may have left a supervisor.
        ownership.clear(ledger.run_id, spool)
        return Spool.create(SHARED_RAY)

    def _enter(self, ledger: Ledger, *, adopts: bool) -> tuple[LocalNode, Spool]:
        """Say who drives it now, and open the door for its supervisor."""
        run_id = ledger.run_id or ownership.new_run_id()
        spool = self._spool(ledger, adopts=adopts)
        ownership.own(spool, self._directory, run_id)
        self._record_entry(ledger, run_id, spool, adopts=adopts)
        with contextlib.suppress(OSError):
            keep_reserve(self._directory.reserve)
        node = LocalNode(
            ray=self._around.ray_for(self.job),
            run_id=run_id,
            epoch=self._around.epoch,
            directory=self._directory,
            spool=spool,
            environment=self._around.environment,
            outlives=True,
            pace=self._around.pace,
        )
        return node, spool

    def _record_entry(self, ledger: Ledger, run_id: str, spool: Spool, *, adopts: bool) -> None:
        reason = f"controller epoch {self._around.epoch}"
        me = {
            **ownership.me(),
            "spool": spool.to_document(),
            "epoch": self._around.epoch,
            "run_id": run_id,
        }
        # First: what is named there can be found and taken away, whatever is killed next.
        write_json(self._directory.live, me, durable=False)
        entry = self._log.append(
            "controller",
            f"adopted by {reason}" if adopts else f"being started by {reason}",
            attempt=ledger.attempt,
            state=None if adopts else JobState.QUEUED,
            **me,
        )
        ledger.apply(entry)

    def _controller(
        self, node: LocalNode, spool: Spool, ledger: Ledger, *, adopts: bool
    ) -> Controller:
        controller = Controller(
            spec=self.spec,
            directory=self._directory,
            spool=spool,
            node=node,
            find=lambda: self._around.find_for(self.job, self.spec),
            environment=self._around.environment,
            watcher=_Nobody(),
            log=self._log,
            adopts=adopts,
            ends_at=self._ends_at(ledger, adopts=adopts),
            placement=self._placement,
            job=self.job,
            ask=lambda request: self._around.grow(self, request),
            queued=True,
            rest=_REST,
            known=ledger,
        )
        with self._lock:
            self.controller = controller
            controller.order = self._order
        return controller

    def _ends_at(self, ledger: Ledger, *, adopts: bool) -> float | None:
        limit = self.spec.limits.run
        if limit is None:
            return None
        if adopts and ledger.entered_at is not None:
            self.began_at = ledger.entered_at
        return time.monotonic() + limit - (time.time() - self.began_at)


class _Nobody:
    """Shows nothing: what happens is told by the log."""

    def event(self, event: Event) -> None:
        """Nobody looks."""

    def tick(self, controller: Controller) -> None:
        """Nobody looks."""
