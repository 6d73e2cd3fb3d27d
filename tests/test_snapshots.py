"""Snapshots as muster sees them: whole or none, promoted whole or not at all, never in the way."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import snapshot_place, snapshots
from orchestrator.checkpoints import Broken, Checkpoint, Verified, verify
from orchestrator.journal import Journal
from orchestrator.keeper import CheckpointKeeper
from orchestrator.layout import RunDirectory
from orchestrator.recorder import Recorder
from orchestrator.room import shortage
from orchestrator.snapshot_slots import Slots
from orchestrator.states import JobState
from tests.support_core import python, write_checkpoint


class Nobody:
    """Shows nothing."""

    def event(self, event: object) -> None:
        """Nobody looks."""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    """A run directory, and its place in tmpfs."""
    directory = RunDirectory(tmp_path / "run")
    directory.checkpoints.mkdir(parents=True)
    Journal(directory.events).append("created", "", state=JobState.QUEUED)
    assert snapshot_place.prepare(directory) is not None
    yield directory
    snapshot_place.remove(directory)


def place(run: RunDirectory) -> Path:
    """Where its snapshots are."""
    found = snapshot_place.of(run)
    assert found is not None
    return found


def take(slot: int, where: Path, step: int, ranks: int = 2, *, digests: bool = True) -> Path:
    """A snapshot in a slot, as its ranks leave it."""
    for rank in range(ranks):
        slots = Slots(where, 5, rank, ranks, attempt=1)
        path = where / f"slot-{slot}"
        slots.open(path)
        name = "model.ckpt" if rank == 0 else f"rank-{rank}.ckpt"
        content = f"{step} of rank {rank}".encode()
        (path / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest() if digests else None
        slots.seal(path, step, {name: digest})
    return where / f"slot-{slot}"


def keeper(run: RunDirectory, ranks: int = 2) -> CheckpointKeeper:
    """A keeper of a job that takes snapshots."""
    recorder = Recorder(Journal(run.events), Nobody())
    return CheckpointKeeper(run, recorder, keep=5, world_size=ranks)


def events(run: RunDirectory, kind: str) -> list[dict[str, Any]]:
    """What was recorded of a kind."""
    lines = run.events.read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["kind"] == kind]


SEAL = {"format": 1, "step": 5, "attempt": 1, "world_size": 2}


def seal_of(rank: int, **changed: Any) -> dict[str, Any]:
    """A seal as a rank writes it, but for what is changed."""
    return {**SEAL, "rank": rank, "files": {f"{rank}": {"size": 1, "sha256": None}}, **changed}


def test_seals_that_agree_make_a_snapshot() -> None:
    """Step, attempt and every file of every rank."""
    whole = snapshots.whole(Path("x"), {0: seal_of(0), 1: seal_of(1)})
    assert whole is not None
    assert (whole.step, whole.attempt, whole.size) == (5, 1, 2)


@pytest.mark.parametrize(
    "seals",
    [
        {},
        {0: seal_of(0)},
        {1: seal_of(1)},
        {0: seal_of(0), 1: seal_of(1, step=10)},
        {0: seal_of(0), 1: seal_of(1, attempt=2)},
        {0: seal_of(0), 1: seal_of(1, world_size=4)},
        {0: seal_of(0), 1: seal_of(0)},
        {0: seal_of(0, format=2), 1: seal_of(1, format=2)},
        {0: [], 1: seal_of(1)},
        {0: seal_of(0, files=[]), 1: seal_of(1)},
        {0: seal_of(0, world_size="many"), 1: seal_of(1, world_size="many")},
    ],
)
def test_seals_that_differ_make_none(seals: dict[int, Any]) -> None:
    """A kill between two seals, another attempt, or rubbish."""
    assert snapshots.whole(Path("x"), seals) is None


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["format", "step", "files", "rank", "world_size", "attempt"]), x)))  # fmt: skip
def test_any_rubbish_is_no_snapshot(document: Any) -> None:
    """Whatever JSON a seal holds, nothing is raised."""
    assert snapshots.whole(Path("x"), {0: document}) is None


@pytest.mark.parametrize("digests", [True, False])
def test_a_whole_one_is_a_checkpoint_to_resume_from(run: RunDirectory, digests: bool) -> None:
    """Newer than the durable ones; its digest is that of its manifest, each time the same."""
    write_checkpoint(run.checkpoints, 10)
    slot = take(0, place(run), 15, digests=digests)
    chosen = keeper(run).choose(2)
    assert chosen is not None and (chosen.path, chosen.step) == (slot, 15)
    assert chosen == verify(Checkpoint(slot, 15)) == keeper(run).choose(2)


def test_at_the_same_step_the_durable_one_is_taken(run: RunDirectory) -> None:
    """And a newer durable one anyway."""
    take(0, place(run), 10)
    take(1, place(run), 5)
    path = write_checkpoint(run.checkpoints, 10)
    chosen = keeper(run).choose(2)
    assert chosen is not None and chosen.path == path


def test_a_broken_one_is_dropped_and_told(run: RunDirectory) -> None:
    """The older slot is used, and what is broken is no checkpoint of record."""
    take(0, place(run), 15)
    broken = take(1, place(run), 20)
    (broken / "rank-1.ckpt").write_bytes(b"20 of rank X")
    chosen = keeper(run).choose(2)
    assert chosen is not None and chosen.step == 15
    [note] = events(run, "note")
    assert "the snapshot of step 20 is dropped: rank-1.ckpt: its sha256" in note["reason"]
    assert not broken.exists() and not run.quarantine.exists()


def test_with_both_broken_the_durable_one_is_used(run: RunDirectory) -> None:
    """However old; and a broken durable one that is newer is moved aside as ever."""
    path = write_checkpoint(run.checkpoints, 5)
    (write_checkpoint(run.checkpoints, 25) / "model.ckpt").unlink()
    for slot in (take(0, place(run), 15), take(1, place(run), 20)):
        os.truncate(slot / "model.ckpt", 1)
    chosen = keeper(run).choose(2)
    assert chosen is not None and chosen.path == path
    assert len(events(run, "note")) == 2 and len(events(run, "quarantined")) == 1


def test_one_of_another_world_size_is_dropped(run: RunDirectory) -> None:
    """It cannot be loaded."""
    take(0, place(run), 15, ranks=3)
    assert keeper(run).choose(2) is None
    assert "taken by 3 ranks" in events(run, "note")[0]["reason"]


def test_one_that_a_rank_could_not_load_is_dropped(run: RunDirectory) -> None:
    """It is not moved into quarantine, which is for checkpoints."""
    slot = take(0, place(run), 15)
    keeper(run).quarantine(Broken(slot, 15, "a rank said so"))
    assert not slot.exists() and not run.quarantine.exists()


def end(run: RunDirectory, state: JobState) -> None:
    """A controller of the run ends with a job in this state."""
    one = keeper(run)
    one._recorder.ledger.state = state
    one.close()


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.HELD, JobState.QUEUED])
def test_a_run_that_may_go_on_keeps_its_newest_state(run: RunDirectory, state: JobState) -> None:
    """As a checkpoint of record, byte for byte; the memory is given back."""
    write_checkpoint(run.checkpoints, 10)
    slot = take(0, place(run), 15)
    model = (slot / "model.ckpt").read_bytes()
    where = place(run)
    end(run, state)
    path = run.checkpoints / "step-00000015"
    assert isinstance(verify(Checkpoint(path, 15)), Verified)
    assert (path / "model.ckpt").read_bytes() == model
    [told] = events(run, "promoted")
    assert (told["data"]["step"], told["data"]["path"]) == (15, str(path))
    assert not where.exists() and snapshot_place.of(run) is None
    chosen = keeper(run).choose(2)
    assert chosen is not None and chosen.path == path


def test_what_a_checkpoint_holds_is_not_promoted(run: RunDirectory) -> None:
    """Only a step that no verified one has."""
    write_checkpoint(run.checkpoints, 20)
    take(0, place(run), 20)
    end(run, JobState.FAILED)
    assert events(run, "promoted") == [] and snapshot_place.of(run) is None


def test_a_broken_checkpoint_of_the_same_step_does_not_keep_it_from_that(run: RunDirectory) -> None:
    """It is moved aside, and the snapshot takes its name."""
    (write_checkpoint(run.checkpoints, 20) / "model.ckpt").unlink()
    take(0, place(run), 20)
    end(run, JobState.FAILED)
    assert isinstance(verify(Checkpoint(run.checkpoints / "step-00000020", 20)), Verified)


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.CANCELLED])
def test_a_run_that_is_over_gives_its_memory_back(run: RunDirectory, state: JobState) -> None:
    """Nothing is promoted."""
    take(0, place(run), 15)
    where = place(run)
    end(run, state)
    assert not where.exists() and not list(run.checkpoints.iterdir())


def test_ranks_that_may_live_keep_theirs(run: RunDirectory) -> None:
    """Another controller takes the run over."""
    slot = take(0, place(run), 15)
    end(run, JobState.RUNNING)
    assert slot.exists() and not list(run.checkpoints.iterdir())


def test_a_promotion_that_fails_leaves_all_as_it_was(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot stays for a later attempt, and the reason is told."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    take(0, place(run), 15)
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.snapshots.shutil.copyfile", full)
        end(run, JobState.FAILED)
    assert "No space left" in events(run, "note")[-1]["reason"]
    assert not list(run.checkpoints.iterdir())
    chosen = keeper(run).choose(2)
    assert chosen is not None and chosen.step == 15


def test_what_could_not_be_promoted_outlasts_a_preemption(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That ends as a cancel does, but the run is to be resumed."""
    slot = take(0, place(run), 15)
    one = keeper(run)
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.snapshots.os.rename", lambda *_: os.stat("/nonexistent"))
        one.promote()
    one._recorder.ledger.state = JobState.CANCELLED
    one.close()
    assert slot.exists()


def test_a_place_is_private_and_found_again(run: RunDirectory) -> None:
    """By the run directory alone; another one's is not taken for it."""
    assert place(run).stat().st_mode & 0o777 == 0o700
    assert snapshot_place.prepare(run) == place(run)
    other = RunDirectory(run.root.parent / "other")
    other.root.mkdir()
    other.snapshots.write_bytes(run.snapshots.read_bytes())
    assert snapshot_place.of(other) is None


def test_places_of_dead_runs_are_removed(run: RunDirectory) -> None:
    """Of a run directory that is gone, of a run that has succeeded; after a minute, no other."""
    where = place(run)

    def stale() -> bool:
        os.utime(where, (1, 1))
        snapshot_place.remove_stale()
        return not where.exists()

    snapshot_place.remove_stale()
    assert where.exists()
    assert not stale()
    os.rename(run.root, run.root.with_name("moved"))
    assert stale()
    os.rename(run.root.with_name("moved"), run.root)
    where = snapshot_place.prepare(run) or where
    Journal(run.events).append("succeeded", "", state=JobState.SUCCEEDED)
    assert stale()


def test_slots_take_turns_and_spare_what_was_resumed_from(tmp_path: Path) -> None:
    """The first after a resume goes to the other slot."""
    fresh = Slots(tmp_path, 5, 0, 1, 1)
    assert [fresh.next().name for _ in range(3)] == ["slot-0", "slot-1", "slot-0"]
    for number in range(2):
        resumed = Slots(tmp_path, 5, 0, 1, 2, tmp_path / f"slot-{number}")
        assert resumed.next().name == f"slot-{1 - number}"


def test_a_tmpfs_that_is_too_small_is_told(tmp_path: Path) -> None:
    """Two slots and a reserve must fit; what is written over needs no room."""
    code = """
import sys
from pathlib import Path
from orchestrator.snapshot_slots import Slots
slots = Slots(Path(sys.argv[1]), 5, 0, 1, 1)
print(slots.lack(30 << 20))
print(slots.lack(1 << 20))
"""
    script = 'mount -t tmpfs -o size=80m none "$1" && exec "$2" -c "$3" "$1"'
    argv = ["unshare", "-rm", "sh", "-c", script, "sh", tmp_path, sys.executable, code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == f"the file system of {tmp_path} has 80 MiB free, two of them need 92 MiB"
    assert second == ""


RANKS = """
import hashlib, sys
from pathlib import Path
from orchestrator.snapshot_slots import Slots
place, every = Path(sys.argv[1]), int(sys.argv[2])
ranks = [Slots(place, every, rank, 2, 1) for rank in range(2)]
for step in range(1, 10**9):
    print(step, flush=True)
    for rank, slots in enumerate(ranks):
        if slots.due(step):
            slot, name = slots.next(), f"rank-{rank}.ckpt"
            slots.open(slot)
            (slot / name).write_bytes(str(step).encode() * 50_000)
            slots.seal(slot, step, {name: None})
            digest = hashlib.sha256((slot / name).read_bytes()).hexdigest()
            slots.seal(slot, step, {name: digest})
"""


def test_a_kill_at_any_moment_costs_no_more_than_promised(tmp_path: Path) -> None:
    """SIGKILL at twenty random moments: what is left verifies, and is recent enough."""
    every = 2
    for number in range(20):
        place = tmp_path / str(number)
        place.mkdir()
        process = python(RANKS, str(place), str(every), stdout=subprocess.PIPE)
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(random.randrange(2, 40))]
        process.kill()
        ended = int([*told, *process.stdout.read().splitlines()][-1])
        process.wait()
        found = snapshots.found(place)
        newest = found[0].step if found else 0
        assert newest >= ended - every, (number, newest, ended)
        for one in found:
            assert isinstance(snapshots.verified(one, 2), Verified), (number, one)


def test_a_full_disk_is_told_before_the_next_checkpoint(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, as a note, when a checkpoint has been looked at; of a snapshot's size before that."""
    little = os.statvfs_result((1, 1, 1, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr("orchestrator.room.os.statvfs", lambda _: little)
    one = keeper(run)
    take(0, place(run), 5)
    one.settle()
    write_checkpoint(run.checkpoints, 10)
    one.settle()
    [note] = events(run, "note")
    assert "the next checkpoint may not fit" in note["reason"]


@pytest.mark.parametrize(("free", "told"), [(119, True), (120, False), (0, True)])
def test_a_disk_too_full_for_the_next_checkpoint_is_told(free: int, told: bool) -> None:
    """A fifth more than the last one must be free."""
    text = shortage(Path("/x"), free << 20, 100 << 20)
    assert bool(text) == told
    assert not told or f"{free} MiB free, it needs about 120 MiB" in text


def test_of_an_unknown_size_nothing_is_told() -> None:
    """Before the first checkpoint, without snapshots."""
    assert shortage(Path("/x"), 0, 0) == ""
