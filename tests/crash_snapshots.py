"""Snapshots and their promotion as durable writes: what a kill leaves of them.

A snapshot is relied upon after the death of processes, never after that of the machine: tmpfs is
gone then, so there is nothing to fsync. A promotion goes to disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from orchestrator import checkpoints, snapshot_place, snapshots
from orchestrator.checkpoints import Verified
from orchestrator.journal import Journal
from orchestrator.keeper import CheckpointKeeper
from orchestrator.layout import RunDirectory
from orchestrator.recorder import Recorder
from orchestrator.snapshot_slots import Slots
from orchestrator.states import JobState
from tests.crash_kind import Kind, checkpoint, old_or_new, tmpfs_beside

RANKS = 2
OLDER, OLD, NEW = 5, 10, 15
"""Steps of snapshots: two that are there, and the one that takes the place of the first."""


# -- by ranks of any kind ---------------------------------------------------------------------


def _content(step: int, rank: int) -> bytes:
    return f"{step:08d} of rank {rank} ".encode() * 100


def _name(rank: int) -> str:
    return f"rank-{rank}.ckpt" if rank else "model.ckpt"


def copy_in_halves(path: Path, content: bytes) -> None:
    """In place, as the trainer does: a kill may land in the middle."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for half in (content[: len(content) // 2], content[len(content) // 2 :]):
            os.write(descriptor, half)
    finally:
        os.close(descriptor)


def _resumed(place: Path) -> Path | None:
    newest = snapshots.found(place)[:1]
    return newest[0].path if newest else None


def _ranks(place: Path, attempt: int) -> list[Slots]:
    return [Slots(place, 5, rank, RANKS, attempt, _resumed(place)) for rank in range(RANKS)]


def write(rank: Slots, slot: Path, step: int) -> None:
    """A rank's part of a snapshot."""
    copy_in_halves(slot / _name(rank.rank), _content(step, rank.rank))


def take(ranks: list[Slots], step: int) -> None:
    """Every rank copies and seals; then come the digests."""
    slots = [one.next() for one in ranks]
    for one, slot in zip(ranks, slots, strict=True):
        one.open(slot)
        write(one, slot, step)
        one.seal(slot, step, {_name(one.rank): None})
    for one, slot in zip(ranks, slots, strict=True):
        digest = hashlib.sha256(_content(step, one.rank)).hexdigest()
        one.seal(slot, step, {_name(one.rank): digest})


def _two_snapshots(place: Path) -> None:
    ranks = _ranks(place, 1)
    for step in (OLDER, OLD):
        take(ranks, step)


def _another_snapshot(place: Path) -> None:
    take(_ranks(place, 2), NEW)


def _newest_snapshot(place: Path) -> str:
    """Whatever counts as whole has every byte of its step."""
    found = snapshots.found(place)
    for one in found:
        kept = [(one.path / _name(rank)).read_bytes() for rank in range(RANKS)]
        right = [_content(one.step, rank) for rank in range(RANKS)]
        assert kept == right, f"half: what is sealed as step {one.step}"
        assert isinstance(snapshots.verified(one, RANKS), Verified)
    return old_or_new(found[0].step if found else None, OLD, NEW)


# -- by the trainer ---------------------------------------------------------------------------


class _Stepwise(dict[str, Any]):
    """Parameters of which each that is copied is a step too, at which a kill may land."""

    def __getitem__(self, name: str) -> Any:
        with open(os.devnull, "wb"):
            pass
        return super().__getitem__(name)


def _trained(place: Path, attempt: int, steps: tuple[int, ...]) -> None:
    """Snapshots of the trainer's own, of a network all of whose numbers are the step."""
    import mindspore as ms
    import numpy as np

    from model.snapshots import Snapshots
    from orchestrator.rank import Rank
    from tests.crash_trainer import Small, state_of

    told = {"snapshots": str(place), "snapshot_every_steps": 5}
    environment = {"RANK_ID": "0", "RANK_SIZE": "1", "MUSTER_ATTEMPT": str(attempt)}
    environment |= {"MUSTER_CHECKPOINT": json.dumps(told)}
    environment |= {"MUSTER_RESUME_FROM": str(_resumed(place) or "")}
    network = Small()
    hand = Snapshots(network, Rank(environment))
    hand._shares = {name: _Stepwise(share) for name, share in hand._shares.items()}
    for step in steps:
        for row in network.get_parameters():
            row.set_data(ms.Tensor(np.full(row.shape, step, np.float32)))
        hand.before(step)
        hand.after(step, 1.0, lambda step=step: state_of(step))  # type: ignore[misc]
        hand.close()


def _newest_trained(place: Path) -> str:
    import mindspore as ms

    found = snapshots.found(place)
    for one in found:
        assert isinstance(snapshots.verified(one, 1), Verified)
        rows = ms.load_checkpoint(str(one.path / checkpoints.MODEL)).values()
        kept = {float(number) for row in rows for number in row.asnumpy().reshape(-1)}
        kept.add(json.loads((one.path / "state.json").read_bytes())["step"])
        assert kept == {one.step}, f"half: {kept}, sealed as step {one.step}"
    return old_or_new(found[0].step if found else None, OLD, NEW)


# -- promotion --------------------------------------------------------------------------------


class _Nobody:
    def event(self, event: object) -> None:
        """Nobody looks."""


def _run_with_snapshots(folder: Path) -> None:
    """A run of one checkpoint whose snapshots are newer."""
    checkpoint(folder, 1, RANKS)
    directory = RunDirectory(folder)
    Journal(directory.events).append("created", "a run", state=JobState.QUEUED)
    with tmpfs_beside(folder):
        place = snapshot_place.prepare(directory)
        assert place is not None
        _two_snapshots(place)


def _promote(folder: Path) -> None:
    """As a controller does when its run stops."""
    directory = RunDirectory(folder)
    recorder = Recorder(Journal(directory.events), _Nobody())
    with tmpfs_beside(folder):
        CheckpointKeeper(directory, recorder, keep=5, world_size=RANKS).promote()


def _promoted(folder: Path) -> str:
    """At no moment is the newest state in neither place."""
    found = [checkpoints.verify(one) for one in checkpoints.catalogue(folder / "checkpoints")]
    assert all(isinstance(one, Verified) for one in found), f"half: {found}"
    with tmpfs_beside(folder):
        place = snapshot_place.of(RunDirectory(folder))
        kept = snapshots.found(place)
    steps = [one.step for one in found]
    if OLD not in steps:  # else what is left of the snapshot is being removed, and nobody's choice
        assert kept and kept[0].step == OLD, "the newest state is lost"
        assert isinstance(snapshots.verified(kept[0], RANKS), Verified)
    return "new" if steps == [OLD, 1] and place is None else "old"


KINDS = {
    "a snapshot": Kind(_two_snapshots, _another_snapshot, _newest_snapshot, relied=False),
    "a promotion": Kind(_run_with_snapshots, _promote, _promoted),
    "a snapshot of the trainer": Kind(
        lambda place: _trained(place, 1, (OLDER, OLD)),
        lambda place: _trained(place, 2, (NEW,)),
        _newest_trained,
        relied=False,
    ),
}
"""By name; the last one needs MindSpore."""
