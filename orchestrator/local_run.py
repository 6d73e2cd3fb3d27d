"""A run on this machine, from a validated job to its end, with nothing left behind."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator import drill, ownership, snapshot_place
from orchestrator import spec as specs
from orchestrator.controller import Controller, Outcome, Watcher
from orchestrator.found import find_nodes
from orchestrator.journal import Event, Journal, JournalError, keep_reserve, read_events
from orchestrator.layout import RunDirectory, Spool, read_json, write_bytes, write_json
from orchestrator.ledger import fold
from orchestrator.node import LocalNode
from orchestrator.orders import Order, OrderKind
from orchestrator.private_ray import PrivateRay
from orchestrator.spec import JobSpec
from orchestrator.states import JobState


class RunError(RuntimeError):
    """The run cannot begin; the message says what to do instead."""


def default_directory(spec: JobSpec) -> Path:
    """`runs/NAME-TIME` where the user stands; the time is UTC."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return Path.cwd() / "runs" / f"{spec.name}-{stamp}-{secrets.token_hex(2)}"


def create(root: Path, spec: JobSpec, job_text: bytes) -> RunDirectory:
    """Make the run directory. Raises RunError if something is in the way."""
    directory = RunDirectory(root)
    if directory.is_run():
        raise RunError(f"{root} holds a run already; `muster resume {root}` continues it")
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise RunError(f"{root} is not empty; give a new --run-dir")
        directory.checkpoints.mkdir()
        write_bytes(directory.job_file, job_text)
        Journal(directory.events).append("created", f"job {spec.name}", state=JobState.QUEUED)
        # Last: a directory without it is no run yet.
        write_json(directory.spec, specs.to_document(spec))
    except OSError as error:
        raise RunError(f"{root}: {error.strerror or error}") from error
    return directory


def drive(
    directory: RunDirectory,
    spec: JobSpec,
    watcher: Watcher,
    *,
    faults: Sequence[drill.Fault] = (),
    by_hand: bool = False,
) -> Outcome:
    """Run the job to its end. Raises RunError when it cannot begin.

    `by_hand`: a person starts it again, so budgets are fresh and changed code is taken.
    """
    ownership.remove_stale_spools()
    snapshot_place.remove_stale()
    try:
        with ownership.driving(directory), _spool(directory) as spool, _predecessor(directory):
            keep_reserve(directory.reserve)
            return _drive(directory, spec, watcher, spool, faults, by_hand=by_hand)
    except ownership.InHands as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(f"{error.filename or directory.root}: {error.strerror or error}") from error
    except JournalError as error:
        raise RunError(str(error)) from error


def _drive(
    directory: RunDirectory,
    spec: JobSpec,
    watcher: Watcher,
    spool: Spool,
    faults: Sequence[drill.Fault],
    *,
    by_hand: bool,
) -> Outcome:
    epoch, run_id = _enter(directory, by_hand=by_hand)
    ownership.own(spool, directory, run_id)
    node = LocalNode(
        ray=PrivateRay(job=f"{spec.name}-{run_id}", directory=directory, spool=spool),
        run_id=run_id,
        epoch=epoch,
        directory=directory,
        spool=spool,
        environment=os.environ,
    )
    limit = spec.limits.run
    controller = Controller(
        spec=spec,
        directory=directory,
        spool=spool,
        node=node,
        find=partial(find_nodes, spec.resources.device, os.environ),
        environment=os.environ,
        watcher=watcher,
        log=Journal(directory.events, directory.reserve),
        faults=list(faults),
        ends_at=None if limit is None else time.monotonic() + limit,
    )
    write_json(
        directory.live,
        {**ownership.me(), "spool": spool.to_document(), "epoch": epoch, "run_id": run_id},
    )
    with _interruptible(controller):
        try:
            return controller.run()
        finally:
            node.close()
            directory.live.unlink(missing_ok=True)


def _enter(directory: RunDirectory, *, by_hand: bool) -> tuple[int, str]:
    """Take over the journal: a new epoch; what an earlier controller left open is closed."""
    ledger = fold(read_events(directory.events))
    journal = Journal(directory.events)
    if ledger.state in (JobState.STARTING, JobState.RUNNING, JobState.UNKNOWN):
        journal.append(
            "interrupted",
            "its controller ended without a word",
            attempt=ledger.attempt,
            state=JobState.STOPPING,
        )
    run_id = ledger.run_id or ownership.new_run_id()
    reason = "resumed by hand" if by_hand else f"controller epoch {ledger.epoch + 1}"
    journal.append(
        "controller",
        reason,
        attempt=ledger.attempt,
        state=JobState.QUEUED,
        run_id=run_id,
        epoch=ledger.epoch + 1,
        forgive=by_hand,
        **ownership.me(),
    )
    return ledger.epoch + 1, run_id


@contextmanager
def _spool(directory: RunDirectory) -> Iterator[Spool]:
    spool = Spool.create()
    try:
        ownership.own(spool, directory, "")
        yield spool
    finally:
        spool.remove()


@contextmanager
def _predecessor(directory: RunDirectory) -> Iterator[None]:
    """See that the spool of a controller that was killed goes too.

    Its supervisor removes it, unless ours comes first and clears that one away.
    """
    live = read_json(directory.live) or {}
    left = Spool.from_document(live["spool"]) if "spool" in live else None
    try:
        yield
    finally:
        if left is not None:
            left.remove()


@contextmanager
def _interruptible(controller: Controller) -> Iterator[None]:
    """SIGINT and SIGTERM end the run in order; a second one changes nothing.

    SIGTERM is how a machine is taken away: the ranks save themselves before they leave.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        reason = f"stopped by {signal.Signals(number).name}"
        preempted = number == signal.SIGTERM
        kind = OrderKind.PREEMPT if preempted else OrderKind.CANCEL
        controller.order = Order(kind, reason)

    before = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def journal_event(directory: RunDirectory, kind: str, reason: str, **data: Any) -> Event:
    """Add an event from outside the controller (a drill)."""
    attempt = fold(read_events(directory.events)).attempt
    return Journal(directory.events).append(kind, reason, attempt=attempt, **data)
