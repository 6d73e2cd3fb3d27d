"""Checkpoints on disk: verified byte by byte, fallen back from, moved aside, retained."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import checkpoints
from orchestrator.checkpoints import (
    Broken,
    Checkpoint,
    Verified,
    best,
    catalogue,
    delete,
    expendable,
    fallbacks,
    newest_usable,
    quarantine,
    verify,
)
from tests.support_core import edit_manifest, write_checkpoint


def look(path: Path) -> Verified | Broken:
    """Verify the checkpoint at a path, by its name's step."""
    return verify(Checkpoint(path, int(path.name.removeprefix("step-"))))


def test_a_whole_checkpoint_verifies(tmp_path: Path) -> None:
    """Step, world size, and as digest the sha256 of the manifest."""
    path = write_checkpoint(tmp_path, 40, world_size=8)
    result = look(path)
    assert isinstance(result, Verified)
    assert (result.step, result.world_size, result.path) == (40, 8, path)
    assert len(result.digest) == 64
    (path / "not-listed.txt").write_text("what the manifest does not name is never loaded")
    assert look(path) == result


def flip(path: Path) -> None:
    """One bit of the model changes."""
    data = bytearray((path / "model.ckpt").read_bytes())
    data[3] ^= 1
    (path / "model.ckpt").write_bytes(data)


def cut(path: Path) -> None:
    """The model loses its last byte."""
    os.truncate(path / "model.ckpt", (path / "model.ckpt").stat().st_size - 1)


def grow(path: Path) -> None:
    """The model gains a byte."""
    with open(path / "model.ckpt", "ab") as file:
        file.write(b"x")


def names_outside(name: str) -> Callable[[Path], None]:
    """The manifest lists a file that is elsewhere."""

    def change(path: Path) -> None:
        (path.parent / "outside").write_bytes(b"")
        manifest = json.loads((path / "MANIFEST.json").read_bytes())
        empty = {"size": 0, "sha256": checkpoints.hashlib.sha256(b"").hexdigest()}
        edit_manifest(path, files={**manifest["files"], name: empty})

    return change


def manifest_of(text: bytes) -> Callable[[Path], None]:
    """The manifest is something else."""
    return lambda path: (path / "MANIFEST.json").write_bytes(text) and None


def without(name: str) -> Callable[[Path], None]:
    """A file is missing."""
    return lambda path: (path / name).unlink()


def fields(**changed: object) -> Callable[[Path], None]:
    """Fields of the manifest differ; None removes one."""
    return lambda path: edit_manifest(path, **changed)


def model_is_a_directory(path: Path) -> None:
    """A directory stands where the model should be."""
    (path / "model.ckpt").unlink()
    (path / "model.ckpt").mkdir()


DAMAGE = {
    "one flipped bit": (flip, "model.ckpt: its sha256"),
    "truncated": (cut, "model.ckpt: 17 bytes, the manifest says 18"),
    "grown": (grow, "model.ckpt: 19 bytes"),
    "missing file": (without("rank-1.ckpt"), "rank-1.ckpt"),
    "missing manifest": (without("MANIFEST.json"), "MANIFEST.json"),
    "empty manifest": (manifest_of(b""), "MANIFEST.json"),
    "half a manifest": (manifest_of(b'{"format": 1, "step": 40, "fi'), "MANIFEST.json"),
    "binary manifest": (manifest_of(b"\0\xff\xfe" * 5), "MANIFEST.json"),
    "a list": (manifest_of(b"[]"), "not a JSON object"),
    "nested without end": (manifest_of(b"[" * 200_000), "MANIFEST.json"),
    "future format": (fields(format=2), "format 2"),
    "another step": (fields(step=41), "step 41"),
    "no files": (fields(files={}), "lists no file"),
    "files are a list": (fields(files=["model.ckpt"]), "MANIFEST.json"),
    "no format": (fields(format=None), "MANIFEST.json"),
    "no step": (fields(step=None), "MANIFEST.json"),
    "no world size": (fields(world_size=None), "MANIFEST.json"),
    "world size of words": (fields(world_size="eight"), "MANIFEST.json"),
    "entry without size": (fields(files={"model.ckpt": {}}), "MANIFEST.json"),
    "entry of text": (fields(files={"model.ckpt": "x"}), "MANIFEST.json"),
    "parent directory": (names_outside("../outside"), "not a file name"),
    "absolute path": (names_outside("/etc/hostname"), "not a file name"),
    "dots": (names_outside(".."), "not a file name"),
    "nothing": (names_outside(""), "not a file name"),
    "a NUL": (names_outside("a\0b"), ""),
    "a directory for a file": (model_is_a_directory, "model.ckpt"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(tmp_path: Path, name: str) -> None:
    """A checkpoint that is not as its manifest says is broken, with the file and the reason."""
    path = write_checkpoint(tmp_path, 40)
    damage, reason = DAMAGE[name]
    damage(path)
    result = look(path)
    assert isinstance(result, Broken)
    assert reason in result.reason
    assert result.reason


def test_only_finished_directories_are_in_the_catalogue(tmp_path: Path) -> None:
    """Temporary names, files and strangers are left out; newest step first."""
    for step in (5, 100_000_000, 40):
        write_checkpoint(tmp_path, step)
    for name in (".step-00000050.tmp", "step-00000060.tmp", "step-70", "step--0000001", "x"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000080").write_text("a file")
    assert [c.step for c in catalogue(tmp_path)] == [100_000_000, 40, 5]
    assert catalogue(tmp_path / "none") == []


def test_no_link_is_a_checkpoint(tmp_path: Path) -> None:
    """Neither `best` nor a link with a checkpoint's name counts, wherever it leads."""
    path = write_checkpoint(tmp_path / "here", 10)
    elsewhere = write_checkpoint(tmp_path / "elsewhere", 20)
    (path.parent / "best").symlink_to(path.name)
    (path.parent / elsewhere.name).symlink_to(elsewhere)
    assert [c.path for c in catalogue(path.parent)] == [path]


def test_best_is_what_its_link_says(tmp_path: Path) -> None:
    """The bare name of a checkpoint, be it there or not; None without a link."""
    assert best(tmp_path) is None
    assert best(tmp_path / "none") is None
    (tmp_path / "best").symlink_to("step-00000010")
    assert best(tmp_path) == tmp_path / "step-00000010"
    write_checkpoint(tmp_path, 10)
    assert best(tmp_path) == tmp_path / "step-00000010"


@pytest.mark.parametrize(
    "target",
    ["/etc", "../step-00000010", "./step-00000010", "step-00000010/", "step-00000010/..", "best",
     "step-10", ".step-00000010.deleted", "step-00000010\n"],
)  # fmt: skip
def test_a_link_that_leads_elsewhere_is_no_best(tmp_path: Path, target: str) -> None:
    """Only the bare name of a checkpoint is believed."""
    (tmp_path / "best").symlink_to(target)
    assert best(tmp_path) is None


def test_a_directory_called_best_is_no_link(tmp_path: Path) -> None:
    """It is somebody's own, and tells nothing."""
    write_checkpoint(tmp_path, 10).rename(tmp_path / "best")
    assert best(tmp_path) is None
    assert catalogue(tmp_path) == []


def test_a_link_that_cannot_be_read_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage that stutters must not cost the best checkpoint."""

    def stale(*_: object) -> str:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "readlink", stale)
    with pytest.raises(OSError, match="Stale"):
        best(tmp_path)


def test_the_newest_that_is_whole_is_taken(tmp_path: Path) -> None:
    """What is broken comes first with its reason, then the first whole one, and no more."""
    paths = [write_checkpoint(tmp_path, step) for step in (10, 20, 30, 40)]
    flip(paths[3])
    cut(paths[2])
    results = list(newest_usable(tmp_path, world_size=2))
    assert [type(result) for result in results] == [Broken, Broken, Verified]
    assert [result.step for result in results] == [40, 30, 20]


def test_nothing_usable_yields_no_checkpoint(tmp_path: Path) -> None:
    """All broken, or none there: nothing is chosen."""
    flip(write_checkpoint(tmp_path, 10))
    assert all(isinstance(r, Broken) for r in newest_usable(tmp_path, world_size=2))
    assert list(newest_usable(tmp_path / "none", world_size=2)) == []


def test_a_checkpoint_of_another_world_is_not_usable(tmp_path: Path) -> None:
    """Saved by eight ranks, of no use to two; the reason names both numbers."""
    write_checkpoint(tmp_path, 10, world_size=8)
    (result,) = newest_usable(tmp_path, world_size=2)
    assert isinstance(result, Broken)
    assert "8 ranks" in result.reason and "2" in result.reason


def test_refused_checkpoints_are_passed_over(tmp_path: Path) -> None:
    """What a rank could not load is not offered again."""
    write_checkpoint(tmp_path, 10)
    newest = write_checkpoint(tmp_path, 20)
    (result,) = newest_usable(tmp_path, world_size=2, refused=[newest])
    assert result.step == 10


def test_quarantine_keeps_content_and_reason(tmp_path: Path) -> None:
    """A broken checkpoint is moved, not deleted, and says why; twice gives two places."""
    targets = []
    for _ in range(3):
        path = write_checkpoint(tmp_path / "checkpoints", 10)
        flip(path)
        targets.append(quarantine(Broken(path, 10, "its sha256"), tmp_path / "quarantine"))
        assert not path.exists()
    assert len(set(targets)) == 3
    for target in targets:
        assert (target / "model.ckpt").exists()
        assert json.loads((target / "REASON.json").read_bytes())["reason"] == "its sha256"
    assert catalogue(tmp_path / "checkpoints") == []


def test_quarantine_survives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the reason the checkpoint is out of the way all the same."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_json", full)
    path = write_checkpoint(tmp_path / "checkpoints", 10)
    target = quarantine(Broken(path, 10, "r"), tmp_path / "quarantine")
    assert target.is_dir() and not path.exists()


def test_deleting_loses_the_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delete that is cut short leaves nothing that looks like a checkpoint; a second ends it."""
    path = write_checkpoint(tmp_path, 10)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            delete(path)
    with monkeypatch.context() as patch:
        real = checkpoints.shutil.rmtree
        calls = iter([real, die])
        patch.setattr(checkpoints.shutil, "rmtree", lambda *a, **k: next(calls)(*a, **k))
        with pytest.raises(KeyboardInterrupt):
            delete(path)
    assert catalogue(tmp_path) == []
    delete(write_checkpoint(tmp_path, 10))
    assert list(tmp_path.iterdir()) == []


def made(kinds: list[bool]) -> list[Verified | Broken]:
    """Checkpoints newest first; True is verified."""
    steps = range(len(kinds), 0, -1)
    return [
        Verified(Path(f"/c/{step}"), step, "d", 2)
        if good
        else Broken(Path(f"/c/{step}"), step, "r")
        for step, good in zip(steps, kinds, strict=True)
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=20), st.integers(-1, 8))
def test_retention_keeps_what_may_be_needed(kinds: list[bool], keep: int) -> None:
    """The newest verified ones stay, at least one; nothing newer than them ever goes."""
    present = made(kinds)
    gone = set(expendable(present, keep))
    left = [checkpoint for checkpoint in present if checkpoint.path not in gone]
    verified = [c for c in present if isinstance(c, Verified)]
    kept = [c for c in left if isinstance(c, Verified)]
    assert kept == verified[: max(1, keep)]
    assert left == present[: len(left)]
    if len(verified) < max(1, keep):
        assert not gone
    else:
        assert left[-1] == verified[max(1, keep) - 1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=12), st.integers(1, 5))
def test_retention_is_done_once(kinds: list[bool], keep: int) -> None:
    """What is left gives up nothing more."""
    present = made(kinds)
    gone = set(expendable(present, keep))
    assert expendable([c for c in present if c.path not in gone], keep) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.booleans(), max_size=12),
    st.integers(1, 3),
    st.sets(st.integers(0, 14), min_size=1, max_size=4),
)
def test_retention_leaves_what_ranks_agreed_on(
    kinds: list[bool], keep: int, agreed: set[int]
) -> None:
    """Whichever of these steps is the last that is trusted, what is newest before it is there."""
    present = made(kinds)
    gone = set(expendable(present, keep, fallbacks(present, agreed)))
    verified = [c for c in present if isinstance(c, Verified)]
    left = [c.step for c in verified if c.path not in gone]
    for step in agreed:
        assert max((c.step for c in verified if c.step <= step), default=0) in (0, *left)
    usual = set(expendable(present, keep))
    assert gone <= usual
    assert len(usual - gone) <= len(agreed)
    assert expendable(present, keep, fallbacks(present, ())) == expendable(present, keep)


def test_the_oldest_stays_where_none_is_old_enough() -> None:
    """What ranks will be found to have agreed on last may come after it."""
    present = made([True] * 5)
    assert fallbacks(present, {0}) == {Path("/c/1")}
    assert fallbacks(present, {0, 3}) == {Path("/c/1"), Path("/c/3")}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 5), st.data())
def test_retention_spares_the_best(kinds: list[bool], keep: int, data: st.DataObject) -> None:
    """It stays, however old it is, and changes nothing for all others."""
    present = made(kinds)
    spared = data.draw(st.sampled_from(present)).path
    usual = expendable(present, keep)
    assert expendable(present, keep, [spared]) == [path for path in usual if path != spared]
    assert expendable(present, keep, [Path("/c/gone")]) == usual
