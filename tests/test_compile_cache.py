"""Compiled graphs that are kept: never a stale one, one compile for all ranks, no half entry."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import pytest

from model.compile_cache import CompileCache, GraphKey, canonical, hash_of, seal, sealed

SHAPES = (((2, 3, 64, 64), (2, 50, 4)), ((2, 3, 96, 96), (2, 50, 4)))
KEY = GraphKey("configuration", SHAPES, world_size=8, backend="cpu")
DEAD = 2**22 + 1
"""A process id above what Linux gives."""


def compiler(calls: list[Path], content: str = "graph") -> Callable[[], None]:
    """A stand-in for compiling: notes where MindSpore is told to keep graphs, and writes there."""

    def compile_all() -> None:
        folder = Path(ms.get_context("compile_cache_path"))
        calls.append(folder)
        kept = folder / "rank_0" / "graph_cache"
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "compile_cache_0.mindir").write_text(content)

    return compile_all


def test_digest_is_of_all_that_a_graph_depends_on(tmp_path: Path) -> None:
    """Another source, configuration, batch, order of shapes, world or backend: another key."""
    (tmp_path / "net.py").write_text("a = 1")
    digest = KEY.digest(tmp_path)
    assert KEY.digest(tmp_path) == digest
    batch = tuple(tuple((4, *shape[1:]) for shape in graph) for graph in SHAPES)
    others = [
        replace(KEY, configuration="other"),
        replace(KEY, shapes=batch),
        replace(KEY, shapes=SHAPES[::-1]),
        replace(KEY, world_size=4),
        replace(KEY, virtual=2),
        replace(KEY, backend="gpu"),
        replace(KEY, versions=("2.11",)),
    ]
    assert len({digest, *(other.digest(tmp_path) for other in others)}) == 8
    (tmp_path / "net.py").write_text("a = 2")
    assert KEY.digest(tmp_path) != digest


def test_digest_of_sources_sees_names_and_python_only(tmp_path: Path) -> None:
    """Renaming a module changes it, a log beside it does not."""
    (tmp_path / "a.py").write_text("1")
    first = hash_of(tmp_path)
    (tmp_path / "log.txt").write_text("noise")
    assert hash_of(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert hash_of(tmp_path) != first


def test_shapes_are_compiled_in_one_order() -> None:
    """The order does not depend on which size the data begins with."""
    assert canonical(SHAPES) == canonical(SHAPES[::-1]) == list(SHAPES)
    assert canonical([*SHAPES, *SHAPES]) == list(SHAPES)


def test_one_rank_compiles_and_the_others_load_copies(tmp_path: Path) -> None:
    """Rank 0 publishes; rank 3 gets the same graphs under its own name; a later start loads."""
    calls: list[Path] = []
    assert CompileCache(tmp_path, "d", rank=0).compile(compiler(calls)) == "compiled"
    assert sealed(tmp_path / "d")
    loaded: list[str] = []

    def load() -> None:
        folder = Path(ms.get_context("compile_cache_path"))
        loaded.append((folder / "rank_3/graph_cache/compile_cache_0.mindir").read_text())

    assert CompileCache(tmp_path, "d", rank=3).compile(load) == "loaded"
    assert CompileCache(tmp_path, "d", rank=0).compile(compiler(calls)) == "loaded"
    assert loaded == ["graph"]
    assert len({*calls, tmp_path / "d"}) == 2  # One name aside per process, never the entry.
    assert sealed(tmp_path / "d")
    assert os.listdir(tmp_path) == ["d"]


def test_other_ranks_wait_for_the_publisher(tmp_path: Path) -> None:
    """A rank that comes first loads what rank 0 publishes later."""
    published = threading.Event()
    outcome: list[str] = []
    waiter = CompileCache(tmp_path, "d", rank=1, wait_seconds=20.0)

    def wait() -> None:
        outcome.append(str(waiter._await_entry()) + str(published.is_set()))

    thread = threading.Thread(target=wait)
    thread.start()
    source = tmp_path / "made"
    (source / "rank_0").mkdir(parents=True)
    (source / "rank_0" / "graph").write_text("graph")
    seal(source)
    published.set()
    source.rename(tmp_path / "d")
    thread.join(20.0)
    assert outcome == ["TrueTrue"]


def test_rank_that_waits_in_vain_compiles_alone(tmp_path: Path) -> None:
    """Without shared storage a rank of another node does its own work instead of failing."""
    calls: list[Path] = []
    cache = CompileCache(tmp_path, "d", rank=1, wait_seconds=0.0)
    assert cache.compile(compiler(calls)) == "compiled alone"
    assert len(calls) == 1


def test_publisher_that_dies_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    """A directory aside of a dead process is removed, one of a living process stays."""
    host = socket.gethostname()
    dead, alive = (tmp_path / f".d.{host}.{pid}.tmp" for pid in (DEAD, os.getppid()))
    for folder in (dead, alive):
        (folder / "rank_0").mkdir(parents=True)
    assert not sealed(tmp_path / "d")
    assert CompileCache(tmp_path, "d", rank=0).compile(compiler([])) == "compiled"
    assert sorted(os.listdir(tmp_path)) == sorted([alive.name, "d"])


def test_failed_compile_publishes_nothing(tmp_path: Path) -> None:
    """An exception passes through and leaves neither an entry nor a directory aside."""

    def fail() -> None:
        compiler([])()
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        CompileCache(tmp_path, "d", rank=0).compile(fail)
    assert os.listdir(tmp_path) == []


def test_damaged_entry_is_compiled_anew(tmp_path: Path) -> None:
    """A cut-off file is noticed: the others do not load it, and rank 0 replaces it."""
    CompileCache(tmp_path, "d", rank=0).compile(compiler([]))
    (tmp_path / "d/rank_0/graph_cache/compile_cache_0.mindir").write_text("gra")
    assert not CompileCache(tmp_path, "d", rank=1, wait_seconds=0.0)._await_entry()
    assert CompileCache(tmp_path, "d", rank=0).compile(compiler([])) == "compiled"
    assert sealed(tmp_path / "d")


PROGRAM = """
import sys
from pathlib import Path
import mindspore as ms
from mindspore import Tensor, nn
from model.compile_cache import CompileCache, GraphKey
from factor import FACTOR

class Times(nn.Cell):
    def construct(self, x):
        return x * FACTOR

ms.set_device("CPU")
ms.set_context(mode=ms.GRAPH_MODE)
root, digest = Path(sys.argv[1]), sys.argv[2]
digest = digest or GraphKey("c", (((1,),),), 1, "cpu").digest(Path(__file__).parent)
net, x = Times(), Tensor([3.0])
outcome = CompileCache(root, digest, rank=0).compile(lambda: net.compile(x))
print(digest, outcome, float(net(x).asnumpy()[0]), ms.get_context("enable_compile_cache"))
"""


def run_program(folder: Path, factor: int, digest: str = "") -> list[str]:
    """Run PROGRAM in a process of its own: (digest, outcome, result of 3 * factor, caching)."""
    (folder / "factor.py").write_text(f"FACTOR = {factor}.0\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "GLOG_v": "3"}
    done = subprocess.run(
        [sys.executable, str(folder / "program.py"), str(folder / "cache"), digest],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_changed_source_never_loads_a_stale_graph(tmp_path: Path) -> None:
    """MindSpore loads the kept graph of a key, so a changed source must have another key."""
    (tmp_path / "program.py").write_text(PROGRAM)
    digest, *first = run_program(tmp_path, 2)
    assert first == ["compiled", "6.0", "False"]
    # With the key held fast by force, the graph of the old source comes back: it is loaded.
    _, *stale = run_program(tmp_path, 5, digest)
    assert stale == ["loaded", "6.0", "False"]
    other, *fresh = run_program(tmp_path, 5)
    assert other != digest
    assert fresh == ["compiled", "15.0", "False"]
