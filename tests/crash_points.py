"""The durable writes of muster, each as a value: what was there, what is written, what remains.

`killed_at` kills a process that writes with SIGKILL before or after its n-th step (an open for
writing, a write, fsync, rename, link, unlink and others of `STEPS`). `python -m
tests.crash_points KIND FOLDER` does one write, for a system-call trace of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.bars import Bar
from cluster.rank_table import digest_of, make
from orchestrator import checkpoints, journal, layout
from orchestrator.attempt_table import AttemptTable
from orchestrator.checkpoints import Broken, Verified, catalogue, verify
from orchestrator.device_book import DeviceBook
from orchestrator.layout import Home, RunDirectory, Spool
from orchestrator.service.tokens import Role, Tokens
from orchestrator.supervisor import Supervisor
from tests import crash_snapshots
from tests.crash_kind import Kind, checkpoint, nothing, old_or_new
from tests.rank_tables import facts

STEPS = (
    "write", "sendfile", "fsync", "rename", "replace", "link", "unlink", "mkdir", "rmdir", "chmod",
    "ftruncate", "posix_fallocate",
)  # fmt: skip
"""Functions of `os` that are steps; an `open` for writing is one too."""

_WRITES = os.O_WRONLY | os.O_RDWR


# -- small files of ours --------------------------------------------------------------------


def _write_document(number: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        layout.write_json(folder / "plan.json", {"number": number, "text": "x" * 9000})

    return write


def _document(folder: Path) -> str:
    data = json.loads((folder / "plan.json").read_bytes())
    assert len(data["text"]) == 9000
    return old_or_new(data["number"], 1, 2)


def _table(folder: Path) -> AttemptTable:
    table = make([(facts(0, [0, 1]), [0, 1])])
    return AttemptTable(table, folder / "rank_table.json", None)


def _write_table(folder: Path) -> None:
    with contextlib.suppress(FileExistsError):
        _table(folder).write()


def _table_there(folder: Path) -> str:
    """As each rank asks before it starts: by its digest."""
    path = folder / "rank_table.json"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    return old_or_new(found, None, digest_of(_table(folder).table))


def _exit(rank: int) -> Callable[[Path], None]:
    """What a supervisor does when it has reaped a rank."""

    def exited(folder: Path) -> None:
        attempt = RunDirectory(folder).attempt(1)
        if rank not in _exits(folder):
            attempt.root.mkdir(parents=True, exist_ok=True)
            supervisor = Supervisor("a run", RunDirectory(folder), _NOWHERE, outlives=True)
            silent = SimpleNamespace(beats=list, last_words=dict)
            supervisor._children[rank] = SimpleNamespace(  # type: ignore[assignment]
                attempt=1, lookout=silent, identity=SimpleNamespace(start_time=1),
                launch=SimpleNamespace(rank=rank, label=f"rank {rank}"),
            )  # fmt: skip
            supervisor._exited(rank, signal.SIGKILL, 0.0)

    return exited


_NOWHERE = Spool(Path("/nonexistent"), Path("/nonexistent"))


def _exits(folder: Path) -> dict[int, int]:
    """As who comes later reads them: signals by rank."""
    lines = journal.read_lines(RunDirectory(folder).attempt(1).exits)
    return {line["rank"]: line["signal"] for line in lines}


def rewrite_lines(path: Path, line: dict[str, Any]) -> None:
    """How exits must not be written: the file anew for each of them."""
    lines = [*journal.read_lines(path), line]
    with open(path, "wb", buffering=0) as file:
        for one in lines:
            os.fsync(file.fileno())
            file.write(json.dumps(one).encode() + b"\n")


def _ends(folder: Path) -> str:
    return old_or_new(_exits(folder), {1: 9}, {1: 9, 0: 9})


def _append(number: int) -> Callable[[Path], None]:
    def append(folder: Path) -> None:
        path = folder / "exits.jsonl"
        if {"number": number} not in list(journal.read_lines(path)):
            journal.append_line(path, {"number": number})

    return append


def _torn(folder: Path) -> None:
    """A line, and the half of one that an earlier crash has left."""
    _append(1)(folder)
    with open(folder / "exits.jsonl", "ab") as file:
        file.write(b'{"num')


def _lines(folder: Path) -> str:
    numbers = [line["number"] for line in journal.read_lines(folder / "exits.jsonl")]
    return old_or_new(numbers, [1], [1, 2])


def _first_line(folder: Path) -> str:
    numbers = [line["number"] for line in journal.read_lines(folder / "exits.jsonl")]
    return old_or_new(numbers, [], [1])


def _bar(number: int) -> Callable[[Path], None]:
    def bar(folder: Path) -> None:
        DeviceBook(folder / "devices.json").bar(
            Bar(f"local/ascend:{number}", "a test", since=float(number))
        )

    return bar


def _bars(folder: Path) -> str:
    bars = [bar.device for bar in DeviceBook(folder / "devices.json").bars(10.0)]
    return old_or_new(sorted(bars), ["local/ascend:1"], ["local/ascend:1", "local/ascend:2"])


def _tokens(folder: Path) -> None:
    Tokens(Home(folder)).begin()


def _add_token(folder: Path) -> None:
    tokens = Tokens(Home(folder))
    if "second" not in [token.name for token in tokens.list()]:
        tokens.add("second", Role.READ)


def _token_names(folder: Path) -> str:
    names = [token.name for token in Tokens(Home(folder)).list()]
    return old_or_new("second" in names and len(names) == 2, False, True)


# -- checkpoints ----------------------------------------------------------------------------


def _two(folder: Path) -> None:
    for step in (1, 2):
        checkpoint(folder, step)


def _quarantine(folder: Path) -> None:
    path = folder / "checkpoints" / "step-00000002"
    if path.exists():
        checkpoints.quarantine(Broken(path, 2, "a test"), folder / "quarantine")


def _quarantined(folder: Path) -> str:
    there = (folder / "checkpoints" / "step-00000002").is_dir()
    aside = list((folder / "quarantine").glob("step-00000002.*"))
    assert there + len(aside) == 1, f"half: {there}, {aside}"
    assert (
        (aside[0] if aside else folder / "checkpoints/step-00000002")
        .joinpath(checkpoints.MODEL)
        .is_file()
    )
    return "old" if there else "new"


def _retire(folder: Path) -> None:
    checkpoints.sweep(folder / "checkpoints")
    path = folder / "checkpoints" / "step-00000001"
    if path.exists():
        checkpoints.delete(path)


def _retired(folder: Path) -> str:
    found = [verify(one) for one in catalogue(folder / "checkpoints")]
    assert all(isinstance(one, Verified) for one in found), f"half: {found}"
    return old_or_new([one.step for one in found], [2, 1], [2])


def _save(folder: Path) -> None:
    """The trainer's own, with two parameters."""
    from model.checkpoint import CheckpointWriter
    from tests.crash_trainer import Small, state_of

    writer = CheckpointWriter(folder / "checkpoints", 0, 1, 1)
    writer.clear_leftovers()
    writer.save(Small(), state_of(2))


def _one(folder: Path) -> None:
    checkpoint(folder, 1)


def _second(folder: Path) -> None:
    checkpoint(folder, 2)


def _saved(folder: Path) -> str:
    found = [verify(one) for one in catalogue(folder / "checkpoints")]
    assert all(isinstance(one, Verified) for one in found), f"half: {found}"
    return old_or_new([one.step for one in found], [1], [2, 1])


def _replaced(folder: Path) -> str:
    """What a controller finds that sweeps before it chooses, as it always does."""
    checkpoints.sweep(folder / "checkpoints")
    [found] = [verify(one) for one in catalogue(folder / "checkpoints")]
    assert isinstance(found, Verified), f"half: {found}"
    return "new" if (found.path / "state.json").exists() else "old"


KINDS: dict[str, Kind] = {
    "a JSON document": Kind(_write_document(1), _write_document(2), _document),
    "a rank table": Kind(nothing, _write_table, _table_there),
    "an exit": Kind(_exit(1), _exit(0), _ends),
    "the first line of a journal": Kind(nothing, _append(1), _first_line),
    "another line": Kind(_append(1), _append(2), _lines),
    "a line after a torn one": Kind(_torn, _append(2), _lines),
    "the book of devices": Kind(_bar(1), _bar(2), _bars),
    "tokens": Kind(_tokens, _add_token, _token_names),
    "quarantine": Kind(_two, _quarantine, _quarantined),
    "retention": Kind(_two, _retire, _retired, relied=False),
    "a checkpoint": Kind(_one, _save, _saved),
    "a checkpoint in place of another": Kind(_second, _save, _replaced),
    **crash_snapshots.KINDS,
}
"""Every durable write but the store's commits, which are SQLite's (`test_outlives_writes`)."""


# -- kills ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _dying(number: int, when: str) -> Iterator[None]:
    """Within this block the process is killed before or after its n-th step."""
    count = itertools.count(1)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any, **options: Any) -> Any:
            here = next(count) == number
            if here and when == "before":
                die()
            try:
                return step(*arguments, **options)
            finally:
                if here:
                    die()

        return do

    def opened(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if writes and next(count) == number:
            die()

    real = {name: getattr(os, name) for name in STEPS}
    for name, step in real.items():
        setattr(os, name, counted(step))
    sys.addaudithook(opened)  # stays: this process does nothing else
    yield


def killed_at(kind: Kind, folder: Path, number: int, when: str) -> bool:
    """Write in a process that dies at a step; False when it came to its end before that."""
    child = os.fork()
    if child == 0:
        code = 70
        with contextlib.suppress(BaseException), _dying(number, when):
            kind.write(folder)
            code = 0
        os._exit(code)
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in (0, -signal.SIGKILL), f"the write failed by itself: {ended}"
    return ended != 0


def every_point(kind: Kind, root: Path) -> int:
    """Kill at every step, look, write again, look; returns how many points there were."""
    for number in itertools.count(1):
        for when in ("before", "after"):
            folder = root / f"{number}-{when}"
            folder.mkdir()
            kind.prepare(folder)
            assert kind.state(folder) == "old"
            died = killed_at(kind, folder, number, when)
            found = kind.state(folder)
            if not died:
                assert found == "new"
                return number - 1
            kind.write(folder)
            assert kind.state(folder) == "new", f"killed {when} step {number}"
    raise AssertionError


def main() -> None:
    """Do one write, or kill at every point of it: `KIND FOLDER [kills]`."""
    kind, folder = KINDS[sys.argv[1]], Path(sys.argv[2])
    if len(sys.argv) > 3:
        print(every_point(kind, folder))
    else:
        kind.write(folder)


if __name__ == "__main__":
    main()
