"""A run on this machine, from a validated job to its end, with nothing left behind."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator import drill, processes
from orchestrator import spec as specs
from orchestrator.controller import Controller, Outcome, Watcher
from orchestrator.found import find_nodes
from orchestrator.journal import Event, Journal, JournalError, keep_reserve, read_events
from orchestrator.launch import MARK
from orchestrator.layout import RunDirectory, Spool, read_json, write_bytes, write_json
from orchestrator.ledger import fold
from orchestrator.node import LocalNode
from orchestrator.private_ray import PrivateRay
from orchestrator.spec import JobSpec
from orchestrator.states import JobState

_STALE_AFTER = 60.0
_LOCK_PATIENCE = 1.0
_CLEAR_TIMEOUT = 5.0


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
    remove_stale_spools()
    try:
        with _lock(directory), _spool(directory) as spool:
            keep_reserve(directory.reserve)
            return _drive(directory, spec, watcher, spool, faults, by_hand=by_hand)
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
    _own(spool, directory, run_id)
    node = LocalNode(
        ray=PrivateRay(job=f"{spec.name}-{run_id}", directory=directory, spool=spool),
        run_id=run_id,
        epoch=epoch,
        directory=directory,
        spool=spool,
        environment=os.environ,
    )
    controller = Controller(
        spec=spec,
        directory=directory,
        spool=spool,
        node=node,
        find=partial(find_nodes, spec.resources.device, os.environ),
        environment=os.environ,
        watcher=watcher,
        faults=list(faults),
    )
    write_json(
        directory.live,
        {**_me(), "spool": spool.to_document(), "epoch": epoch, "run_id": run_id},
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
    run_id = ledger.run_id or secrets.token_hex(8)
    reason = "resumed by hand" if by_hand else f"controller epoch {ledger.epoch + 1}"
    journal.append(
        "controller",
        reason,
        attempt=ledger.attempt,
        state=JobState.QUEUED,
        run_id=run_id,
        epoch=ledger.epoch + 1,
        forgive=by_hand,
        **_me(),
    )
    return ledger.epoch + 1, run_id


def _me() -> dict[str, object]:
    identity = processes.identify(os.getpid())
    return asdict(identity) if identity else {"pid": os.getpid()}


@contextmanager
def _lock(directory: RunDirectory) -> Iterator[None]:
    descriptor = os.open(directory.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take_lock(descriptor)
    except BlockingIOError:
        os.close(descriptor)
        live = read_json(directory.live) or {}
        who = f"process {live['pid']}" if "pid" in live else "another process"
        raise RunError(f"{directory.root} is being driven by {who} now") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int) -> None:
    """Lock, trying again for a second: `status` holds it for a moment to see who drives."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


@contextmanager
def _spool(directory: RunDirectory) -> Iterator[Spool]:
    spool = Spool.create()
    try:
        _own(spool, directory, "")
        yield spool
    finally:
        spool.remove()


def _own(spool: Spool, directory: RunDirectory, run_id: str) -> None:
    """Leave word whose spool it is, for whoever finds it after we were killed."""
    word = {"ray": str(spool.ray), "run_dir": str(directory.root), "run_id": run_id}
    write_json(spool.owner, {**_me(), **word})


def remove_stale_spools() -> None:
    """Take away what a run left whose controller and supervisor were both killed."""
    for spool in Spool.all():
        owner = read_json(spool.owner) or {}
        identity = processes.Identity(
            owner.get("pid", 0), owner.get("start_time", 0), owner.get("boot_id", "")
        )
        try:
            old = time.time() - spool.owner.stat().st_mtime > _STALE_AFTER
        except OSError:
            continue  # it is just ending
        if old and not identity.alive():
            processes.clear_marked(MARK, owner.get("run_id", "none"), _CLEAR_TIMEOUT)
            shutil.rmtree(spool.ray, ignore_errors=True)
            spool.remove()


@contextmanager
def _interruptible(controller: Controller) -> Iterator[None]:
    """SIGINT and SIGTERM end the run in order; a second one changes nothing."""

    def interrupt(number: int, _: FrameType | None) -> None:
        controller.interrupted = f"stopped by {signal.Signals(number).name}"

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
