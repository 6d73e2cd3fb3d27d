"""Paths of a run, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from orchestrator import layout
from orchestrator.jobfile import from_document
from orchestrator.layout import RunDirectory, Spool, read_json, write_bytes, write_json
from orchestrator.spec import JobSpec, to_document
from tests.support_core import job, kill, python, until

REWRITER = """
import sys
from pathlib import Path
from orchestrator.layout import write_json
number = 0
while True:
    number += 1
    write_json(Path(sys.argv[1]), {"number": number, "list": [number] * 500})
"""


def test_an_attempts_files_lie_below_its_directory(tmp_path: Path) -> None:
    """Every path of an attempt is below attempts/NNN, every path of a run below its root."""
    run = RunDirectory(tmp_path)
    attempt = run.attempt(7)
    assert attempt.root == tmp_path / "attempts" / "007"
    below = [
        attempt.plan,
        attempt.exits,
        attempt.log(0),
        attempt.log(None),
        attempt.error(3),
        attempt.resumed(3),
        attempt.reports,
    ]
    assert len(set(below)) == len(below)
    assert all(path.is_relative_to(attempt.root) for path in below)
    assert run.attempt(1234).root.name == "1234"


def test_attempts_are_never_reused(tmp_path: Path) -> None:
    """An attempt's directory is made once; the numbers are those that have one."""
    run = RunDirectory(tmp_path)
    assert run.attempts() == []
    for number in (10, 2, 1000):
        run.attempt(number).create()
    (tmp_path / "attempts" / "notes").mkdir()
    assert run.attempts() == [2, 10, 1000]
    with pytest.raises(FileExistsError):
        run.attempt(2).create()


def test_a_directory_is_a_run_once_both_files_are_there(tmp_path: Path) -> None:
    """A spec without a journal, or the other way round, was never begun."""
    run = RunDirectory(tmp_path)
    assert not run.is_run()
    run.events.touch()
    assert not run.is_run()
    run.spec.touch()
    assert run.is_run()


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """While a process rewrites a file all the time, and is killed, every read is whole."""
    path = tmp_path / "live.json"
    process = python(REWRITER, str(path))
    try:
        until(path.exists, "the first version")
        seen = set()

        def enough() -> bool:
            document = read_json(path)
            assert document is not None
            assert document["list"] == [document["number"]] * 500
            seen.add(document["number"])
            return len(seen) >= 20

        until(enough, "twenty versions", pause=0)
    finally:
        kill(process.pid)
        process.wait()
    assert read_json(path) is not None


def test_what_cannot_be_written_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk raises OSError, keeps what was there and leaves no temporary file."""
    path = tmp_path / "x.json"
    write_json(path, {"version": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(layout.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_bytes(path, b"{}")
    assert read_json(path) == {"version": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\0" * 5, b"\0" * 4096])
def test_what_is_not_whole_is_not_there(tmp_path: Path, content: bytes) -> None:
    """A file that a crash or a power cut spoiled is read as None."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert read_json(path) is None
    assert read_json(tmp_path / "none") is None
    assert read_json(path / "below a file") is None


@pytest.fixture
def spool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Spool:
    """A spool in a place of the test's own."""
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(layout, "_TMPFS", tmp_path / "shm")
    monkeypatch.setattr(layout.tempfile, "tempdir", str(tmp_path))
    return Spool.create()


def test_a_spool_is_private_and_survives_a_document(spool: Spool) -> None:
    """Nobody else may enter it; its paths go through JSON unchanged."""
    for directory in (spool.root, spool.ray):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert Spool.from_document(json.loads(json.dumps(spool.to_document()))) == spool
    assert spool.heartbeat(1, 0) != spool.heartbeat(2, 0) != spool.heartbeat(2, 1)


def test_removing_a_spool_twice_is_harmless(spool: Spool) -> None:
    """Controller and supervisor both remove it."""
    spool.socket.touch()
    spool.remove()
    spool.remove()
    assert not spool.root.exists() and not spool.ray.exists()


def test_only_spools_are_removed(tmp_path: Path) -> None:
    """A directory that is not named like a spool stays, whatever a document says."""
    precious = tmp_path / "precious"
    precious.mkdir()
    Spool(precious, precious).remove()
    assert precious.is_dir()


def test_spools_of_the_user_are_found(spool: Spool) -> None:
    """A spool with an owner is listed; one that vanishes meanwhile is not an error."""
    assert Spool.all() == []
    write_json(spool.owner, {"pid": os.getpid(), "ray": str(spool.ray)})
    assert Spool.all() == [spool]


def test_a_spool_that_vanishes_is_passed_over(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run that ends between two looks does not stop this one."""
    write_json(spool.owner, {"pid": os.getpid(), "ray": str(spool.ray)})
    real = layout.read_json

    def removed_meanwhile(path: Path) -> object:
        document = real(path)
        spool.remove()
        return document

    monkeypatch.setattr(layout, "read_json", removed_meanwhile)
    assert Spool.all() == []


def test_the_spec_document_is_written_and_read(tmp_path: Path) -> None:
    """A run's spec comes back equal from its file."""
    spec = job("checkpoint.every_steps=5", "args={lr: 0.1}")
    write_json(tmp_path / "spec.json", to_document(spec))
    again = from_document(read_json(tmp_path / "spec.json") or {})
    assert isinstance(again, JobSpec)
    assert again == spec
