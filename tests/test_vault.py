"""The vault: each checkpoint read once, the choice read again, retention by what was seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import checkpoints
from orchestrator.checkpoints import Broken, Verified
from orchestrator.layout import RunDirectory
from orchestrator.vault import Vault
from tests.support_core import edit_manifest, write_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run directory with an empty place for checkpoints."""
    directory = RunDirectory(tmp_path)
    directory.checkpoints.mkdir()
    return directory


def steps(run: RunDirectory) -> list[int]:
    """What lies there, newest first."""
    return [c.step for c in checkpoints.catalogue(run.checkpoints)]


def test_each_checkpoint_is_reported_once(run: RunDirectory) -> None:
    """Oldest first, and only what is new since the last look."""
    vault = Vault(run, keep=5)
    for step in (20, 10):
        write_checkpoint(run.checkpoints, step)
    assert [result.step for result in vault.verify_new()] == [10, 20]
    assert vault.verify_new() == []
    write_checkpoint(run.checkpoints, 30)
    assert [result.step for result in vault.verify_new()] == [30]


def test_the_choice_reads_again(run: RunDirectory) -> None:
    """What verified once and was damaged since is not chosen."""
    vault = Vault(run, keep=5)
    for step in (10, 20):
        write_checkpoint(run.checkpoints, step)
    assert all(isinstance(result, Verified) for result in vault.verify_new())
    os.truncate(run.checkpoints / "step-00000020" / "model.ckpt", 3)
    assert [(type(r), r.step) for r in vault.newest(2)] == [(Broken, 20), (Verified, 10)]


def test_retention_waits_for_verified_successors(run: RunDirectory) -> None:
    """Nothing goes before newer ones have been read and are whole."""
    vault = Vault(run, keep=2)
    for step in (10, 20, 30, 40):
        write_checkpoint(run.checkpoints, step)
    os.truncate(run.checkpoints / "step-00000040" / "model.ckpt", 3)
    tended = vault.tend()
    assert [result.step for result in tended.results] == [10, 20, 30, 40]
    assert [path.name for path in tended.retired] == ["step-00000010"]
    assert tended.problem == ""
    assert steps(run) == [40, 30, 20]
    assert vault.tend() == ([], [], "")


def test_the_only_whole_checkpoint_stays(run: RunDirectory) -> None:
    """However many broken ones are newer, the last that can be used is kept."""
    vault = Vault(run, keep=1)
    write_checkpoint(run.checkpoints, 10)
    for step in (20, 30, 40):
        path = write_checkpoint(run.checkpoints, step)
        (path / "MANIFEST.json").unlink()
    assert vault.tend().retired == []
    assert steps(run) == [40, 30, 20, 10]


def test_what_best_names_stays_as_long_as_it_is_named(run: RunDirectory) -> None:
    """Retention spares it; when the link moves on, it goes; where the link leads, nothing does."""
    vault = Vault(run, keep=1)
    link = run.checkpoints / checkpoints.BEST
    outside = write_checkpoint(run.root / "outside", 10)
    for step in (10, 20, 30):
        write_checkpoint(run.checkpoints, step)
    link.symlink_to("step-00000010")
    assert [path.name for path in vault.tend().retired] == ["step-00000020"]
    assert steps(run) == [30, 10]
    link.unlink()
    link.symlink_to(outside)
    assert [path.name for path in vault.tend().retired] == ["step-00000010"]
    assert steps(run) == [30]
    assert outside.is_dir() and link.is_symlink()


def test_what_cannot_be_deleted_is_no_failure(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that will not go is named; the verified ones are reported all the same."""

    def refuse(_: Path) -> None:
        raise OSError(39, "Directory not empty")

    vault = Vault(run, keep=1)
    for step in (10, 20):
        write_checkpoint(run.checkpoints, step)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "delete", refuse)
        tended = vault.tend()
    assert len(tended.results) == 2
    assert "not empty" in tended.problem
    assert [path.name for path in vault.tend().retired] == ["step-00000010"]


def test_a_directory_that_cannot_be_listed_is_no_failure(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared storage that stutters is named; the next look finds everything."""

    def refuse(_: Path) -> list[checkpoints.Checkpoint]:
        raise OSError(116, "Stale file handle")

    vault = Vault(run, keep=1)
    write_checkpoint(run.checkpoints, 10)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "catalogue", refuse)
        assert "Stale" in vault.tend().problem
    assert [result.step for result in vault.tend().results] == [10]


def test_what_was_moved_aside_can_come_again(run: RunDirectory) -> None:
    """A step that was quarantined and trained again is read as a new checkpoint."""
    vault = Vault(run, keep=5)
    path = write_checkpoint(run.checkpoints, 10)
    (path / "model.ckpt").unlink()
    (broken,) = vault.verify_new()
    assert isinstance(broken, Broken)
    assert vault.quarantine(broken).parent == run.quarantine
    write_checkpoint(run.checkpoints, 10)
    (again,) = vault.verify_new()
    assert isinstance(again, Verified)


def test_what_vanished_while_it_was_read_can_come_again(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint moved away in the middle of its verification is forgotten, not remembered."""
    vault = Vault(run, keep=5)
    path = write_checkpoint(run.checkpoints, 10)
    real = checkpoints.verify

    def moved_meanwhile(checkpoint: checkpoints.Checkpoint) -> Verified | Broken:
        os.rename(path, run.root / "elsewhere")
        return real(checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "verify", moved_meanwhile)
        vault.verify_new()
    assert vault.verify_new() == []
    write_checkpoint(run.checkpoints, 10)
    assert [type(result) for result in vault.verify_new()] == [Verified]


def test_a_damaged_checkpoint_cannot_stop_the_reading_of_others(run: RunDirectory) -> None:
    """One manifest without its world size leaves the rest verified."""
    vault = Vault(run, keep=5)
    edit_manifest(write_checkpoint(run.checkpoints, 10), world_size=None)
    write_checkpoint(run.checkpoints, 20)
    assert [type(result) for result in vault.verify_new()] == [Broken, Verified]
