"""Heads for tests that kill: whole processes in homes of their own, and what is left after them.

`Service` is the real process (`python -m orchestrator.service`), with its Ray or with a plain
stand-in. `Driver` is a head without a network in a process that starts in a moment, for tests
that need a hundred of them.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

from orchestrator import processes
from orchestrator.client import Client
from orchestrator.journal import read_events
from orchestrator.launch import MARK
from orchestrator.layout import HOME_VARIABLE, Home, RunDirectory, Spool, read_json, store_file
from orchestrator.orders import OrderKind
from tests.runs import MUSTER, SCRIPTS, Completed, poll

ROOT = Path(__file__).resolve().parent.parent
START = 90.0
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
PLAIN = (sys.executable, str(SCRIPTS / "plain_service.py"))
HASTY = (sys.executable, str(SCRIPTS / "hasty_service.py"))
REAL = (sys.executable, "-m", "orchestrator.service")


def worker_file(directory: Path, name: str = "w", **fields: Any) -> Path:
    """A job file of `tests/scripts/worker.py` for two ranks; `args` and sections as keywords."""
    document = {
        "version": 1,
        "name": name,
        "command": [sys.executable, str(SCRIPTS / "worker.py")],
        "workdir": str(directory),
        "resources": {"device": "cpu", "ranks": 2},
        "launch": {"mode": "none", "bind": "none"},
        "checkpoint": {"every_steps": 3},
        "restart": {"backoff": {"first": 0, "max": 0}},
        **fields,
    }
    file = directory / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


class Place:
    """A home, what the store in it says, and what is to be found of it on this machine."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """What leads commands here."""
        return {**os.environ, HOME_VARIABLE: str(self.home.root), "PYTHONPATH": str(ROOT)}

    def muster(self, *arguments: str | Path, **more: str) -> Completed:
        """A command of the CLI, to its end."""
        done = subprocess.run(
            [*MUSTER, *map(str, arguments)],
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert "Traceback (most recent call last)" not in done.stderr, done.stderr
        return Completed(done.returncode, done.stdout, done.stderr)

    def client(self, patience: float = 30.0) -> Client:
        return Client.from_environment({HOME_VARIABLE: str(self.home.root)}, patience=patience)

    # -- the store, read only ---------------------------------------------------------------

    def rows(self, query: str, *values: Any) -> list[Any]:
        """What a query finds; nothing before there is a store."""
        file = store_file({HOME_VARIABLE: str(self.home.root)})
        with contextlib.suppress(sqlite3.Error):
            connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)
            with contextlib.closing(connection):
                return connection.execute(query, values).fetchall()
        return []

    def jobs(self) -> dict[str, str]:
        """The state of every job, in the order of submission."""
        return dict(self.rows("select job, state from jobs order by number"))

    def state(self, job: str) -> str | None:
        return self.jobs().get(job)

    def events(self, job: str) -> list[dict[str, Any]]:
        """All events of a job."""
        query = """select e.sequence, e.kind, e.state, e.attempt, e.reason, e.data, e.time
            from events e join jobs j on j.number = e.number where j.job = ? order by e.sequence"""
        names = ("sequence", "kind", "state", "attempt", "reason", "data", "time")
        found = [dict(zip(names, row, strict=True)) for row in self.rows(query, job)]
        return [{**event, "data": json.loads(event["data"] or "{}")} for event in found]

    def kinds(self, job: str) -> list[str]:
        return [event["kind"] for event in self.events(job)]

    def run(self, job: str) -> RunDirectory:
        return RunDirectory(self.home.runs / job)

    # -- processes --------------------------------------------------------------------------

    def processes(self, word: str) -> list[int]:
        """Living processes of this home whose command line holds a word."""
        ours = set(processes.marked(HOME_VARIABLE, str(self.home.root)))
        return [pid for pid in processes.mentioning(word) if pid in ours and _lives(pid)]

    def supervisors(self, job: str) -> list[int]:
        """Supervisors of a job."""
        found = processes.mentioning(str(self.home.runs / job))
        named = set(processes.mentioning("orchestrator.supervisor"))
        return [pid for pid in found if pid in named and _lives(pid)]

    def alive(self, ranks: Mapping[int, int]) -> list[int]:
        """Those of these ranks whose process lives."""
        return [rank for rank, pid in ranks.items() if _lives(pid)]

    def ranks(self, job: str) -> dict[int, int]:
        """The pid of every rank of the newest attempt that is RUNNING; empty before that."""
        running = [event for event in self.events(job) if event["kind"] == "running"]
        return {rank: pid for rank, pid, _ in running[-1]["data"]["pids"]} if running else {}

    def run_ids(self) -> set[str]:
        """The marks of all processes of all jobs."""
        query = "select data from events where kind = 'controller'"
        return {json.loads(data)["run_id"] for (data,) in self.rows(query)}

    # -- what is left -----------------------------------------------------------------------

    def leftovers(self) -> list[str]:
        """Processes, spools, directories of Ray, and sockets of this home."""
        mine = {os.getpid(), os.getppid()}
        marks = [(HOME_VARIABLE, str(self.home.root)), *((MARK, one) for one in self.run_ids())]
        pids = {pid for mark in marks for pid in processes.marked(*mark)} - mine
        found = [f"process {pid}: {command_of(pid)}" for pid in sorted(pids) if _lives(pid)]
        for spool in Spool.all():
            owner = read_json(spool.owner) or {}
            if str(owner.get("run_dir", "")).startswith(f"{self.home.root}/"):
                found.append(f"spool {spool.root}: {owner}")
        for query in ("select data from events where kind = 'controller'",):
            for (data,) in self.rows(query):
                root = Path(json.loads(data)["spool"]["root"])
                if root.exists() and not (root / "owner.json").exists():
                    found.append(f"spool {root} without an owner")
        if self.home.address.exists():
            found.append(str(self.home.address))
        found += [f"{path}" for path in self.home.runs.glob("*/live.json")]
        return found

    def assert_nothing_left(self, timeout: float = 15.0) -> None:
        """Within 15 s nothing but the files of a home that rests."""
        deadline = time.monotonic() + timeout
        while (left := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, "\n".join(left)

    def sweep(self) -> None:
        """After a failed test: leave nothing behind."""
        if not self.leftovers():
            return
        # Ray takes itself away when its controller is gone.
        deadline = time.monotonic() + 8.0
        while self.processes("cluster.ray_node") and time.monotonic() < deadline:
            time.sleep(0.1)
        marks = [(MARK, one) for one in self.run_ids()]
        for mark in (*marks, (HOME_VARIABLE, str(self.home.root))):
            for pid in processes.marked(*mark):
                if pid not in (os.getpid(), os.getppid()):
                    processes.kill_quietly(pid)
        for spool in Spool.all():
            owner = read_json(spool.owner) or {}
            if str(owner.get("run_dir", "")).startswith(f"{self.home.root}/"):
                spool.remove()

    # -- what must hold of every job --------------------------------------------------------

    def check(self, job: str) -> None:
        """Nothing was started twice, and the journal in the directory says what the store does."""
        run = self.run(job)
        events = self.events(job)
        assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
        began = [event["attempt"] for event in events if event["kind"] == "attempt"]
        assert began == sorted(set(began)), began
        for number in run.attempts():
            files = run.attempt(number)
            if not files.plan.exists():
                continue  # killed before it was on record
            for started in files.root.glob("started-*"):
                assert len(started.read_text().splitlines()) == 1, f"{started} more than once"
            ends = Counter(line["rank"] for line in lines_of(files.exits))
            assert not ends or max(ends.values()) == 1, (number, ends)
        # The copy is written after the event is on record, and mended when its controller ends.
        poll(lambda: self._copied(job), 15, f"{run.events} is not what the store has")

    def _copied(self, job: str) -> bool:
        copy = [(e.kind, e.attempt, e.reason, e.data) for e in read_events(self.run(job).events)]
        return copy == [(e["kind"], e["attempt"], e["reason"], e["data"]) for e in self.events(job)]

    def started_attempts(self, job: str) -> list[int]:
        """The attempts that were recorded with a process for every rank."""
        return [event["attempt"] for event in self.events(job) if event["kind"] == "running"]

    def started(self, job: str) -> list[int]:
        """The attempts of which ranks were started."""
        run = self.run(job)
        return [n for n in run.attempts() if list(run.attempt(n).root.glob("started-*"))]


class Service(Place):
    """The process of a head; `plain`: without a Ray, which tests of something else need not wait
    for."""

    def __init__(self, root: Path, *, plain: bool = False, program: tuple[str, ...] = ()) -> None:
        """`program`: another one, with the same end."""
        super().__init__(root)
        self._command: tuple[str, ...] = program or (PLAIN if plain else REAL)
        self.process: subprocess.Popen[bytes] | None = None

    def before(self, *command: str) -> None:
        """What its command stands behind."""
        self._command = (*command, *self._command)

    def start(self, **more: str) -> Service:
        """Start it; returns when it answers."""
        process = self.begin(**more)
        poll(lambda: self.answers() or process.poll() is not None, START, "a controller")
        assert process.poll() is None, self.home.log.read_text()[-3000:]
        return self

    def begin(self, **more: str) -> subprocess.Popen[bytes]:
        """Start it."""
        with open(self.home.log, "ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env={**self.environment, **more},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        return self.process

    def answers(self) -> bool:
        """Whether this very process has said where it answers."""
        address = read_json(self.home.address) or {}
        return self.process is not None and address.get("pid") == self.process.pid

    def kill(self) -> None:
        """SIGKILL, and nothing after it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self, *arguments: str) -> None:
        """`muster down`, to its end."""
        assert self.process is not None
        done = self.muster("down", *arguments)
        assert done.code == 0, done.text
        assert self.process.wait(60) == 0, self.home.log.read_text()[-3000:]
        self.process = None

    def submit(
        self, file: Path, *overrides: str, key: str | None = None, patience: float = 30.0
    ) -> str:
        """The id of a job that was taken in."""
        with self.client(patience) as client:
            text = file.read_text()
            return client.submit(text, cwd=file.parent, overrides=overrides, key=key)["job"]

    def await_state(self, job: str, *states: str, timeout: float = 60.0) -> str:
        def there() -> str | None:
            state = self.state(job)
            return state if state in states else None

        return str(poll(there, timeout, f"{job} {states}, now {self.state(job)}"))

    def await_step(self, job: str, step: int, timeout: float = 60.0) -> None:
        """Wait until a rank has finished a step."""
        with self.client() as client:
            poll(lambda: (client.status(job)["step"] or 0) >= step, timeout, f"step {step}")


@contextlib.contextmanager
def service(root: Path, *, plain: bool = False, program: tuple[str, ...] = ()) -> Iterator[Service]:
    """A service that is up; after the block nothing of it may be left."""
    head = Service(root, plain=plain, program=program)
    try:
        yield head.start()
        if head.process is not None:
            head.stop()
        head.assert_nothing_left()
    finally:
        head.kill()
        head.sweep()


# -- heads without a network, which start in a moment -------------------------------------------


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.services_driver"])


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Have the process that drivers are forked from end with the block."""
    try:
        yield
    finally:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
        resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


class Driver(Place):
    """A head in a process that is forked from one which has imported everything."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._process: Any = None
        self._pipe: Connection | None = None

    def start(self, die: tuple[int, str] | None = None) -> Driver:
        """Begin to drive; `die`: at the n-th commit, `before` or `after` it is durable."""
        from tests.services_driver import main

        ours, theirs = _CONTEXT.Pipe()
        environment: Mapping[str, str] = self.environment
        process = _CONTEXT.Process(target=main, args=(dict(environment), theirs, die), daemon=True)
        process.start()
        theirs.close()
        self._process, self._pipe = process, ours
        return self

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def process_died(self, timeout: float) -> bool:
        """Whether it ends within `timeout` seconds."""
        self._process.join(timeout)
        return not self.lives

    def ask(self, *what: Any) -> Any:
        """What the head answers; None if it died of it."""
        assert self._pipe is not None
        try:
            self._pipe.send(what)
            return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return None

    def submit(self, file: Path, key: str) -> Any:
        return self.ask("submit", str(file), key)

    def order(self, job: str, kind: OrderKind) -> Any:
        return self.ask("order", job, kind.value)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            assert self._pipe is not None
            self._pipe.close()
            self._process = self._pipe = None

    def stop(self, *, keep_ranks: bool = False) -> None:
        """As `down`."""
        self.ask("close", keep_ranks)
        self._process.join(30)
        assert self._process.exitcode == 0
        self.kill()


def command_of(pid: int) -> str:
    """The command line of a process; empty once it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:150]
    return ""


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def _lives(pid: int) -> bool:
    return processes.state_of(pid) not in (None, "Z")


def signal_all(pids: list[int], number: int = signal.SIGKILL) -> int:
    """Send a signal to processes that may be gone; how many there were."""
    for pid in pids:
        processes.kill_quietly(pid, number)
    return len(pids)
