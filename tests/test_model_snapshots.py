"""Snapshots of the trainer: the very files of a checkpoint, sealed, or no seal at all."""

from __future__ import annotations

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from model.checkpoint import MODEL, split_average, statistics_of
from model.checkpoint_frame import Frame, mapped
from model.restore import load
from model.snapshots import Snapshots
from orchestrator import snapshots as found_by_muster
from orchestrator.checkpoints import Verified
from orchestrator.rank import CheckpointUnusable, Rank
from orchestrator.snapshot_slots import Slots
from tests.test_model_checkpoint import STATE, Network, same, values


def rank_in(place: Path, rank: int = 0, size: int = 1, resume_from: Path | None = None) -> Rank:
    """A rank that is to take a snapshot every 10 steps."""
    told = {"snapshots": str(place), "snapshot_every_steps": 10}
    return Rank(
        {
            "RANK_ID": str(rank),
            "RANK_SIZE": str(size),
            "MUSTER_ATTEMPT": "1",
            "MUSTER_CHECKPOINT": json.dumps(told),
            "MUSTER_RESUME_FROM": str(resume_from or ""),
        }
    )


def take(snapshots: Snapshots, step: int, loss: float = 1.0) -> None:
    """What the trainer does around a step, and the seal awaited."""
    snapshots.before(step)
    snapshots.after(step, loss, lambda: STATE.__class__(**{**vars(STATE), "step": step}))
    snapshots.close()


def train(network: nn.Cell, seed: int) -> None:
    """Change every parameter in place, as a step does."""
    draw = np.random.default_rng(seed)
    for row in network.get_parameters():
        row.set_data(Tensor(draw.random(row.shape).astype(row.asnumpy().dtype)))


def saved(network: nn.Cell, rank: int, folder: Path) -> bytes:
    """What MindSpore writes of this rank's share."""
    parameters = split_average(network)[0]
    share = statistics_of(parameters) if rank else parameters
    rows = [{"name": name, "data": row} for name, row in share.items()]
    ms.save_checkpoint(rows, str(folder / "reference.ckpt"))
    return (folder / "reference.ckpt").read_bytes()


@pytest.mark.parametrize("rank", [0, 1])
def test_each_file_is_what_mindspore_would_write(tmp_path: Path, rank: int) -> None:
    """Byte for byte, in both slots, the first time and when a slot is written over."""
    place = tmp_path / "place"
    place.mkdir()
    network = Network(1, rank)
    snapshots = Snapshots(network, rank_in(place, rank, 2))
    name = MODEL if rank == 0 else "rank-1.ckpt"
    for number, step in enumerate((10, 20, 30, 40)):
        train(network, seed=step)
        take(snapshots, step)
        written = (place / f"slot-{number % 2}" / name).read_bytes()
        assert written == saved(network, rank, tmp_path), step
        assert Frame.read(place / f"slot-{number % 2}" / name).size == len(written)


def test_a_snapshot_is_loaded_as_a_checkpoint_is(tmp_path: Path) -> None:
    """With the manifest that muster gives it; and what goes on from it spares that slot."""
    network = Network(1)
    snapshots = Snapshots(network, rank_in(tmp_path))
    for step in (10, 20):
        train(network, seed=step)
        take(snapshots, step)
    newest = found_by_muster.found(tmp_path)[0]
    chosen = found_by_muster.verified(newest, 1)
    assert isinstance(chosen, Verified) and chosen.step == 20
    other = Network(7)
    loaded = load(chosen.path, other, rank_in(tmp_path))
    assert (loaded.digest, loaded.state.step) == (chosen.digest, 20)
    assert same(values(network), values(other))
    resumed = Snapshots(other, rank_in(tmp_path, resume_from=chosen.path))
    train(other, seed=30)
    take(resumed, 30)
    assert [one.step for one in found_by_muster.found(tmp_path)] == [30, 20]
    assert (tmp_path / "slot-0" / MODEL).read_bytes() == saved(other, 0, tmp_path)


def test_what_is_not_finite_gets_no_seal(tmp_path: Path) -> None:
    """A bad loss leaves its slot alone; a parameter that overflowed takes the seal back."""
    network = Network(1)
    snapshots = Snapshots(network, rank_in(tmp_path))
    take(snapshots, 10)
    take(snapshots, 20, loss=float("nan"))
    assert not (tmp_path / "slot-1").exists()
    take(snapshots, 30)
    row = next(iter(network.get_parameters()))
    row.set_data(Tensor(np.full(row.shape, np.inf, np.float32)))
    take(snapshots, 40)
    assert [one.step for one in found_by_muster.found(tmp_path)] == [30]


def test_what_is_not_finite_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that is killed before it has looked leaves a seal; the next one refuses the state."""
    network = Network(1)
    snapshots = Snapshots(network, rank_in(tmp_path))
    row = next(iter(network.get_parameters()))
    row.set_data(Tensor(np.full(row.shape, np.nan, np.float32)))
    monkeypatch.setattr(snapshots, "_seal", lambda *_: None)
    take(snapshots, 10)
    chosen = found_by_muster.verified(found_by_muster.found(tmp_path)[0], 1)
    with pytest.raises(CheckpointUnusable, match="is not finite"):
        load(chosen.path, Network(2), rank_in(tmp_path))


def test_without_room_there_are_none_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says so, and nothing is written, then or later."""
    monkeypatch.setattr(Slots, "lack", lambda slots, size: "tmpfs has 1 MiB free")
    monkeypatch.setattr("model.snapshots.LOGGER.propagate", True)
    snapshots = Snapshots(Network(1), rank_in(tmp_path))
    for step in (10, 20):
        take(snapshots, step)
    assert list(tmp_path.iterdir()) == []
    # The same record may have reached the list by two loggers.
    told = {id(r): r.message for r in caplog.records if "tmpfs has 1 MiB free" in r.message}
    assert list(told.values()) == [
        "no snapshots are taken, training goes on without: tmpfs has 1 MiB free"
    ]


def test_a_file_of_another_kind_has_no_frame(tmp_path: Path) -> None:
    """Text, or half a checkpoint, is refused and never guessed at."""
    file = tmp_path / "x.ckpt"
    file.write_bytes(b"no checkpoint at all")
    with pytest.raises(ValueError):
        Frame.read(file)
    whole = saved(Network(1), 0, tmp_path)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError):
        Frame.read(file)


def test_a_large_tensor_lies_in_several_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MindSpore cuts what is above a limit; the frame knows where each piece begins."""
    monkeypatch.setattr("mindspore.train.serialization.SLICE_SIZE", 1)  # KiB
    row = Parameter(Tensor(np.arange(1000, dtype=np.float32)), name="large")
    ms.save_checkpoint([{"name": "large", "data": row}], str(tmp_path / "a.ckpt"))
    frame = Frame.read(tmp_path / "a.ckpt")
    assert len(frame.pieces) > 1 and frame.fits({"large": row})
    target = mapped(tmp_path / "b.ckpt", frame.size)
    frame.write(target, {"large": row})
    assert (tmp_path / "b.ckpt").read_bytes() == (tmp_path / "a.ckpt").read_bytes()
