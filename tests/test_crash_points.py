"""Every durable write, killed at each of its steps: what remains is the old or the new."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import attempt_table, layout, snapshots, supervisor
from orchestrator.checkpoints import Verified
from orchestrator.snapshot_slots import Slots
from tests import crash_points, crash_snapshots
from tests.crash_points import KINDS, every_point

TRAINED = ("a checkpoint", "a checkpoint in place of another", "a snapshot of the trainer")
"""Kinds that need MindSpore, in a process of their own."""

SMALL = [name for name in KINDS if name not in TRAINED]
LEAST = 3
"""Steps of the shortest: open, fsync, and what follows."""

TRACED = (
    "trace=openat,write,pwrite64,sendfile,fsync,fdatasync,rename,renameat,renameat2,link,linkat"
)
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (\d+)")
_DESCRIPTOR = re.compile(r"^\d+<([^>]+)>")
_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')


def run(kind: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """One write, or all kills of one, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-B", "-m", "tests.crash_points", kind, str(folder), *more],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_what_a_kill_leaves_is_the_old_or_the_new(name: str, tmp_path: Path) -> None:
    """Killed before, between and after its steps; and what is repeated goes on."""
    assert every_point(KINDS[name], tmp_path) >= LEAST


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_what_a_kill_leaves_of_what_the_trainer_writes_is_whole(name: str, tmp_path: Path) -> None:
    """It is there with every byte or not at all; the one before it stays."""
    done = run(name, tmp_path, "kills")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10


def in_place(path: Path, data: bytes, **_: object) -> None:
    """Write a file under its own name, in two halves."""
    with open(path, "wb", buffering=0) as file:
        file.write(data[:20])
        os.fsync(file.fileno())
        file.write(data[20:])


def sealed_first(ranks: list[Slots], step: int) -> None:
    """Snapshots whose seals come before what they vouch for."""
    for one in ranks:
        slot, name = one.next(), "rank-1.ckpt" if one.rank else "model.ckpt"
        if not (slot / name).exists():
            slot.mkdir(exist_ok=True)
            crash_snapshots.write(one, slot, step)
        one.seal(slot, step, {name: None})
        crash_snapshots.write(one, slot, step)


def with_its_seal(slots: Slots, slot: Path) -> None:
    """The seal of what was there stays while it is written over."""
    slot.mkdir(mode=0o700, exist_ok=True)


def under_its_name(snapshot: Verified, checkpoints: Path) -> Path:
    """A promotion that is copied file by file into its place."""
    return Path(shutil.copytree(snapshot.path, checkpoints / f"step-{snapshot.step:08d}"))


def too_early(snapshot: Verified, checkpoints: Path) -> Path:
    """A snapshot that is given up before it is a checkpoint."""
    snapshots.drop(snapshot.path)
    os.mkdir(checkpoints / "x")
    return checkpoints


PLANTED: dict[str, tuple[str, Any, str, Any]] = {
    "a document in place": ("a JSON document", layout, "write_bytes", in_place),
    "a table in place": ("a rank table", attempt_table, "write_bytes", in_place),
    "exits that are rewritten": ("an exit", supervisor, "append_line", crash_points.rewrite_lines),
    "seals before data": ("a snapshot", crash_snapshots, "take", sealed_first),
    "a seal that stays": ("a snapshot", Slots, "open", with_its_seal),
    "promoted in place": ("a promotion", snapshots, "promote", under_its_name),
    "promoted too late": ("a promotion", snapshots, "promote", too_early),
}
"""By what is wrong: the kind that must find it, where it is planted, and how."""


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_found(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill at some step leaves half of it, or nothing of what there was."""
    kind, place, name, wrong = PLANTED[mistake]
    monkeypatch.setattr(place, name, wrong)
    with pytest.raises((AssertionError, ValueError)) as found:
        every_point(KINDS[kind], tmp_path)
    assert re.match("half|the newest state is lost|Expecting|Unterminated", str(found.value)), found


def traced(kind: str, folder: Path, trace: Path) -> list[tuple[str, list[str]]]:
    """Calls of a write and the paths that they are about, as the kernel saw them."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed: a kill alone cannot show a missing fsync")
    KINDS[kind].prepare(folder)
    before = {str(path) for path in folder.rglob("*")}
    command = ["strace", "-f", "-y", "-s", "0", "-e", TRACED, "-o", str(trace), sys.executable,
               "-B", "-m", "tests.crash_points", kind, str(folder)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if not trace.exists() or "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    calls = []
    for line in trace.read_text(errors="replace").splitlines():
        match = _CALL.match(line)
        if match:
            paths = _DESCRIPTOR.findall(match[2]) or _NAME.findall(match[2])
            # Locks mean nothing after a crash of the machine.
            ours = [p for p in paths if p.startswith(str(folder)) and not p.endswith(".lock")]
            if match[1] != "openat" or ("O_CREAT" in match[2] and not before.issuperset(ours)):
                calls.append((match[1], ours))
    return [(call, paths) for call, paths in calls if paths]


def not_synced(calls: list[tuple[str, list[str]]]) -> list[str]:
    """What was renamed, or left, without being on disk: data before its name, then the folder."""
    dirty: set[str] = set()
    names: set[str] = set()
    wrong = []
    for call, paths in calls:
        if call == "openat":
            names.add(paths[0])
        elif call in ("write", "pwrite64", "sendfile"):
            dirty.add(paths[0])
        elif call in ("fsync", "fdatasync"):
            dirty.discard(paths[0])
            names = {name for name in names if str(Path(name).parent) != paths[0]}
        elif call.startswith(("rename", "link")):
            source, target = paths[0], paths[-1]
            unwritten = {d for d in dirty if d == source or d.startswith(f"{source}/")}
            if Path(target).name.startswith("."):  # still aside
                dirty = (dirty - unwritten) | {target + d[len(source) :] for d in unwritten}
            else:
                wrong += [f"{path} got a name before it was on disk" for path in unwritten]
            names = {name for name in names if name != source and not name.startswith(f"{source}/")}
            names.add(target)
    return wrong + [f"{path} is not on disk" for path in sorted(dirty | names)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.relied])
def test_data_is_on_disk_before_its_name_and_the_name_before_anybody_relies_on_it(
    name: str, tmp_path: Path
) -> None:
    """Seen by the system calls themselves: fsync, rename, fsync of the directory."""
    folder = tmp_path / "f"
    folder.mkdir()
    calls = traced(name, folder, tmp_path / "trace")
    assert any(call == "fsync" for call, _ in calls), calls
    assert not not_synced(calls), calls


def test_a_missing_fsync_would_be_found() -> None:
    """Of data before the rename, of the directory after it."""
    new = [("openat", ["/a/.b"]), ("write", ["/a/.b"])]
    good = [*new, ("fsync", ["/a/.b"]), ("rename", ["/a/.b", "/a/b"]), ("fsync", ["/a"])]
    assert not not_synced(good)
    assert not_synced(good[:2] + good[3:]) and not_synced(good[:-1])
