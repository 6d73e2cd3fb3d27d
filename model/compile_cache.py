"""Compiled graphs that are kept: one compile serves all ranks, and later attempts too.

MindSpore's own cache looks at the entry script only and numbers graphs in the order of their
compilation: it loads a stale graph, or that of another shape, without noticing. So every digest
of all that a graph depends on has a directory of its own here, and shapes are compiled in one
canonical order. It also keeps to the first directory that a process gives it: a process can use
one digest (that of training; the graph for evaluation is compiled anew). Rank 0 compiles into a
directory aside and renames it; the other ranks wait and load copies. A publisher that dies leaves
a directory aside, which the next one removes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms

SEAL = "complete.json"
WAIT_SECONDS = 900.0
_POLL_SECONDS = 0.05
_SOURCES = Path(__file__).parent


@dataclass(frozen=True)
class GraphKey:
    """All that a compiled graph depends on.

    `shapes` are the shapes of the inputs, one tuple of them a graph, in the order of compilation;
    `configuration` is a digest of the parameters, `world_size` how many processes there are and
    `virtual` how many ranks each of them computes.
    """

    configuration: str
    shapes: tuple[tuple[tuple[int, ...], ...], ...]
    world_size: int
    backend: str
    virtual: int = 1
    versions: tuple[str, ...] = (ms.__version__, platform.python_version(), platform.machine())

    def digest(self, sources: Path = _SOURCES) -> str:
        """The name of the directory for this key and the Python files below `sources`."""
        content = [
            hash_of(sources),
            self.configuration,
            self.shapes,
            self.world_size,
            self.virtual,
            self.backend,
            self.versions,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def hash_of(folder: Path) -> str:
    """A digest of the names and contents of all Python files below `folder`."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


@dataclass(frozen=True)
class CompileCache:
    """One rank's use of the cache below `root`, for the graphs of one key's `digest`."""

    root: Path
    digest: str
    rank: int
    wait_seconds: float = WAIT_SECONDS

    @property
    def entry(self) -> Path:
        """Where the graphs lie once they are complete."""
        return self.root / self.digest

    def compile(self, compile_all: Callable[[], None]) -> str:
        """Call `compile_all` with MindSpore's cache set so that it loads or fills this one.

        Returns what happened: "loaded", "compiled", or "compiled alone" by a rank that waited in
        vain for rank 0 (which is on a node that shares no storage, or is slow).
        """
        self.root.mkdir(parents=True, exist_ok=True)
        if self.rank == 0:
            self._clear_leftovers()
            if not sealed(self.entry):
                self._publish(compile_all)
                return "compiled"
        elif not self._await_entry():
            compile_all()
            return "compiled alone"
        self._load(compile_all)
        return "loaded"

    def _publish(self, compile_all: Callable[[], None]) -> None:
        with self._aside() as aside:
            with _cached_in(aside):
                compile_all()
            if not (aside / "rank_0").is_dir():
                return  # MindSpore kept nothing here: it cannot, on this backend.
            seal(aside)
            if not sealed(self.entry):
                # Broken: what lies there was damaged after it had been complete.
                shutil.rmtree(self.entry, ignore_errors=True)
            # Another job that shares the cache may have just published the same.
            with suppress(OSError):
                os.rename(aside, self.entry)

    def _load(self, compile_all: Callable[[], None]) -> None:
        # From a copy, since MindSpore may write where it loads from.
        with self._aside() as aside:
            shutil.copytree(self.entry / "rank_0", aside / f"rank_{self.rank}")
            with _cached_in(aside):
                compile_all()

    def _await_entry(self) -> bool:
        deadline = time.monotonic() + self.wait_seconds
        while not sealed(self.entry):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    @contextmanager
    def _aside(self) -> Iterator[Path]:
        """An empty directory of this process, which is gone afterwards."""
        aside = self.root / f".{self.digest}.{socket.gethostname()}.{os.getpid()}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _clear_leftovers(self) -> None:
        """Remove what dead processes of this host left aside."""
        mine = f".{socket.gethostname()}."
        for entry in self.root.glob(".*.tmp"):
            _, found, process = entry.name.removesuffix(".tmp").rpartition(mine)
            if found and process.isdigit() and not _alive(int(process)):
                shutil.rmtree(entry, ignore_errors=True)


def seal(directory: Path) -> None:
    """Note size and sha256 of every file of `directory`: it is complete from now on."""
    content = json.dumps(_measure(directory)).encode()
    with open(directory / SEAL, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sealed(directory: Path) -> bool:
    """Whether `directory` is complete and as it was when it was sealed."""
    try:
        return bool(json.loads((directory / SEAL).read_bytes()) == _measure(directory))
    except (OSError, ValueError):
        return False


def canonical(shapes: Sequence[Any]) -> list[Any]:
    """The order in which graphs of these input shapes are compiled, whatever comes first."""
    return sorted(set(shapes))


def _measure(directory: Path) -> dict[str, list[Any]]:
    files = {}
    for file in sorted(directory.rglob("*")):
        if file.is_file() and file.name != SEAL:
            content = file.read_bytes()
            name = file.relative_to(directory).as_posix()
            files[name] = [len(content), hashlib.sha256(content).hexdigest()]
    return files


@contextmanager
def _cached_in(directory: Path) -> Iterator[None]:
    """Let MindSpore keep graphs in `directory` for a while; whatever comes later is not cached."""
    _name_entry_script()
    ms.set_context(enable_compile_cache=True, compile_cache_path=str(directory))
    try:
        yield
    finally:
        ms.set_context(enable_compile_cache=False)


def _name_entry_script() -> None:
    """Give MindSpore's cache a constant file to hash.

    It reads `sys.argv[0]` of the moment it was imported, which need not be a file: in a rank that
    was forked from a server it is the server's.
    """
    from mindspore.graph import api

    if hasattr(api, "entry_script_path"):
        api.entry_script_path = str(_SOURCES / "__init__.py")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
