"""Every path of ours: run directories, the node's spool, what is remembered of this machine.

No other module joins one.

A run directory explains itself at any instant:

    job.yaml            the job as it was given
    spec.json           the job as it was understood, with every default
    events.jsonl        what happened and what was decided, append only
    submitted.json      of which job of which head this is the run; absent of a local run
    then/               the run directory of the job in `then:`, where it was run here
    live.json           who drives the run now (process, spool), while somebody does
    lock                held by that process
    reserve             room for last words: given up when the disk is full
    attempts/001/       one directory an attempt, never reused
        plan.json       what was started where
        rank_table.json what HCCL reads, on Ascend devices; read-only
        exits.jsonl     each process's end, written by the supervisor
        beats.json      each rank's last heartbeat, written when the attempt has ended
        logs/           rank-0.log … scheduler.log, raw
        errors/         rank-3.json: the exception that ended it; rank-3.resumed.json: its proof
        evidence/       of a hang: rank-3.stacks (all threads), rank-3.json (what the kernel tells)
        reports/        short texts for the end of the run, e.g. evaluation.txt
    checkpoints/        step-00000040/ …, and a link `best` to one of them
    quarantine/         checkpoints that did not verify, each with REASON.json
    snapshots.json      where in tmpfs its snapshots are; absent of a run that takes none
    supervisor.log ray.log

Beside all runs, in MUSTER_HOME (default ~/.muster) or in the directory of a rehearsal node:

    devices.json        bars, and faults that were seen; devices.json.lock while it changes
    store/muster.db     the service's store (a head's only), with SQLite's -wal and -shm; its .lock
                        is held by the one controller, its .reserve is room for a full disk
    head.json           where the controller of this head answers, and which process it is
    tokens.json         who may talk to it: names, roles, digests of secrets; 0600
    token               this user's own token; 0600
    controller.log      what the controller printed
    ray.log             what its Ray printed
    runs/               run directories of submitted jobs, by their ids
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOME_VARIABLE = "MUSTER_HOME"
"""Names the directory of what is remembered of this machine; not to be shared between machines."""

SHARED_RAY = Path("/nonexistent/muster-shared-ray")
"""Stands for the directory of Ray in a spool whose run has no Ray of its own."""

SNAPSHOT_SLOTS = 2
"""Snapshots are written into so many places in turn, so that one is always whole."""

_TMPFS = Path("/dev/shm")
_SNAPSHOTS = "muster-snapshots-"


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run below `root` (absolute)."""

    root: Path

    @property
    def job_file(self) -> Path:
        return self.root / "job.yaml"

    @property
    def spec(self) -> Path:
        return self.root / "spec.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def live(self) -> Path:
        return self.root / "live.json"

    @property
    def reserve(self) -> Path:
        return self.root / "reserve"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def submitted(self) -> Path:
        """Which job of which head it is the run of; only of submitted jobs."""
        return self.root / "submitted.json"

    @property
    def then(self) -> Path:
        """The run directory of the job that follows, when it is run here."""
        return self.root / "then"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def snapshots(self) -> Path:
        """Says where in tmpfs the run's snapshots are."""
        return self.root / "snapshots.json"

    @property
    def supervisor_log(self) -> Path:
        return self.root / "supervisor.log"

    @property
    def ray_log(self) -> Path:
        return self.root / "ray.log"

    def attempt(self, number: int) -> AttemptDirectory:
        """Paths of one attempt, counted from 1."""
        return AttemptDirectory(self.root / "attempts" / f"{number:03d}")

    def attempts(self) -> list[int]:
        """The attempts that have a directory, ascending."""
        try:
            names = os.listdir(self.root / "attempts")
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdigit())

    def is_run(self) -> bool:
        """Whether a run was ever begun here."""
        return self.spec.is_file() and self.events.is_file()


@dataclass(frozen=True)
class AttemptDirectory:
    """Paths of one attempt; an attempt's processes write nowhere else but to checkpoints."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def rank_table(self) -> Path:
        return self.root / "rank_table.json"

    @property
    def exits(self) -> Path:
        return self.root / "exits.jsonl"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def errors(self) -> Path:
        return self.root / "errors"

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    @property
    def beats(self) -> Path:
        return self.root / "beats.json"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def log(self, rank: int | None) -> Path:
        """A rank's raw output; of the rendezvous scheduler for None."""
        return self.logs / ("scheduler.log" if rank is None else f"rank-{rank}.log")

    def error(self, rank: int) -> Path:
        return self.errors / f"rank-{rank}.json"

    def resumed(self, rank: int) -> Path:
        return self.errors / f"rank-{rank}.resumed.json"

    def stacks(self, rank: int) -> Path:
        """What a rank writes when it is asked where it is."""
        return self.evidence / f"rank-{rank}.stacks"

    def examined(self, rank: int) -> Path:
        """What was seen of a rank before its gang was stopped."""
        return self.evidence / f"rank-{rank}.json"

    def create(self) -> None:
        """Make the directories; an attempt's directory must be new (FileExistsError)."""
        self.root.mkdir(parents=True)
        self.logs.mkdir()
        self.errors.mkdir()
        self.reports.mkdir()
        self.evidence.mkdir()


@dataclass(frozen=True)
class Spool:
    """What lives only as long as the run's processes: sockets, heartbeats, Ray's session."""

    root: Path
    ray: Path

    @classmethod
    def create(cls, ray: Path | None = None) -> Spool:
        """A new private spool; heartbeats on tmpfs where there is one.

        `ray` is the directory of a Ray that is not the run's own, which stays when the run ends.
        """
        root = Path(tempfile.mkdtemp(prefix="muster-", dir=_spool_base()))
        # Ray puts Unix sockets deep below its directory: the path must stay short.
        return cls(root, ray or Path(tempfile.mkdtemp(prefix="muster-ray-")))

    @property
    def socket(self) -> Path:
        return self.root / "control.sock"

    @property
    def owner(self) -> Path:
        return self.root / "owner.json"

    def stop_request(self, attempt: int) -> Path:
        """What tells the ranks of an attempt to save themselves and leave."""
        return self.root / f"{attempt:03d}.stop"

    def drill(self, attempt: int, rank: int) -> Path:
        """Through what a drill reaches inside a rank."""
        return self.root / f"{attempt:03d}-{rank}.drill"

    @property
    def user(self) -> Path:
        """Which supervisor uses it."""
        return self.root / "supervisor.json"

    def heartbeat(self, attempt: int, rank: int) -> Path:
        return self.root / f"{attempt:03d}-{rank}.beat"

    @classmethod
    def all(cls) -> list[Spool]:
        """Every spool of this user on this machine, those of dead runs included."""
        found = []
        for owner in _spool_base().glob("muster-*/owner.json"):
            try:
                document = read_json(owner)
                ours = owner.parent.stat().st_uid == os.getuid()
            except OSError:
                continue  # another run is just ending
            if ours and document:
                found.append(cls(owner.parent, Path(document["ray"])))
        return found

    def to_document(self) -> dict[str, str]:
        return {"root": str(self.root), "ray": str(self.ray)}

    @classmethod
    def from_document(cls, document: dict[str, str]) -> Spool:
        return cls(Path(document["root"]), Path(document["ray"]))

    def remove(self) -> None:
        """Remove what is left; safe to call twice and from two processes."""
        for directory in (self.root, self.ray):
            if directory.name.startswith("muster-") and directory != SHARED_RAY:
                shutil.rmtree(directory, ignore_errors=True)


def device_book(simulated: str, environment: Mapping[str, str]) -> Path:
    """The record of this machine's devices, or of those of the rehearsal node in `simulated`.

    A relative path, which begins with `~`, where there is no such home directory.
    """
    if simulated:
        return Path(simulated) / "devices.json"
    return _home(environment) / "devices.json"


def store_file(environment: Mapping[str, str]) -> Path:
    """The store of the head on this machine, in a directory that holds nothing else."""
    return _home(environment) / "store" / "muster.db"


@dataclass(frozen=True)
class Home:
    """What a head has in `MUSTER_HOME`, beside its store."""

    root: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Home:
        """The home that the environment names."""
        return cls(_home(environment))

    @property
    def address(self) -> Path:
        return self.root / "head.json"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens.json"

    @property
    def token(self) -> Path:
        return self.root / "token"

    @property
    def log(self) -> Path:
        return self.root / "controller.log"

    @property
    def ray_log(self) -> Path:
        return self.root / "ray.log"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def queues(self) -> Path:
        return self.root / "queues.yaml"


def _home(environment: Mapping[str, str]) -> Path:
    home = Path(environment.get(HOME_VARIABLE) or "~/.muster")
    try:
        return home.expanduser().absolute()
    except RuntimeError:
        return home


def write_ahead_log(store: Path) -> Path:
    """The log that SQLite keeps beside a store."""
    return store.with_name(f"{store.name}-wal")


def store_reserve(store: Path) -> Path:
    """What a store gives up on a full disk, for the moves of jobs that run."""
    return store.with_name(f"{store.name}.reserve")


def beside_store(store: Path) -> tuple[Path, ...]:
    """Every file of a store, its own first."""
    shared = store.with_name(f"{store.name}-shm")
    return store, write_ahead_log(store), shared, lock_beside(store), store_reserve(store)


def job_directory(runs: Path, job: str) -> Path:
    """The run directory of a submitted job, by its id."""
    return runs.absolute() / job


def new_snapshot_place() -> Path | None:
    """A name in tmpfs that nobody can guess, for the snapshots of a run; None without a tmpfs."""
    if not (_TMPFS.is_dir() and os.access(_TMPFS, os.W_OK)):
        return None
    return _TMPFS / f"{_SNAPSHOTS}{secrets.token_hex(8)}"


def snapshot_places() -> list[Path]:
    """Every such directory of this user on this machine, those of dead runs included."""
    found = []
    for path in _TMPFS.glob(f"{_SNAPSHOTS}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.getuid():
                found.append(path)
    return found


def snapshot_owner(place: Path) -> Path:
    """Says whose snapshots they are."""
    return place / "run.json"


def snapshot_slot(place: Path, number: int) -> Path:
    """One of the `SNAPSHOT_SLOTS` directories that hold a snapshot."""
    return place / f"slot-{number}"


def snapshot_seal(slot: Path, rank: int) -> Path:
    """What a rank says of its part of a snapshot."""
    return slot / f"part-{rank}.json"


def promotion(checkpoints: Path, step: int) -> tuple[Path, Path]:
    """The checkpoint that a snapshot becomes, and where it is written before it has its name."""
    return checkpoints / f"step-{step:08d}", checkpoints / f".step-{step:08d}.promoted.tmp"


def lock_beside(path: Path) -> Path:
    """The lock file of a file that is replaced when it changes."""
    return path.with_name(f"{path.name}.lock")


def spooled_error(heartbeat: Path) -> Path:
    """Where a rank leaves its error when the run directory cannot take it."""
    return heartbeat.with_suffix(".error.json")


def write_json(path: Path, document: Any, *, durable: bool = True) -> None:
    """Write a JSON file whole or not at all: aside, fsync, rename, fsync of the directory.

    One that means nothing after a crash of the machine need not be `durable`: no fsync then.
    """
    data = json.dumps(document, indent=1, sort_keys=False).encode() + b"\n"
    write_bytes(path, data, durable=durable)


def write_bytes(path: Path, data: bytes, *, replace: bool = True, durable: bool = True) -> None:
    """Write a file whole or not at all. Raises OSError, leaving what was there before.

    Without `replace` that includes FileExistsError, even if the file appears at the last moment.
    """
    unfinished = aside(path)
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if replace:
            os.replace(unfinished, path)
        else:
            os.link(unfinished, path)  # unlike a rename, refuses a name that is taken
            unfinished.unlink()
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def aside(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any | None:
    """The document in a file of ours, or None if it is not there (or not whole)."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def _spool_base() -> Path:
    usable = _TMPFS.is_dir() and os.access(_TMPFS, os.W_OK)
    return _TMPFS if usable else Path(tempfile.gettempdir())
