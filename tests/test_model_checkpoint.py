"""Checkpoints of the trainer: complete or absent, loaded exactly or reported unusable."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from model import checkpoint as checkpoints
from model.averaging import PREFIX as AVERAGED
from model.checkpoint import (
    MANIFEST,
    MODEL,
    CheckpointWriter,
    TrainingState,
    link_original_name,
    measure,
    parts_of,
    save_own_copy,
    split_average,
    statistics_of,
)
from model.config import ConfigError
from model.restore import category_table, load, load_backbone, load_weights, read_state
from orchestrator.rank import CheckpointUnusable, Rank

STATE = TrainingState(
    step=40,
    epoch=1,
    batch=8,
    next_step=40,
    seed=1,
    learning_rate=0.001,
    loss_scale={"kind": "static", "value": 1024.0},
    categories=[{"index": 0, "id": 3, "name": "car"}],
    configuration="c",
    world_size=1,
    threads="1",
    backend="cpu",
    mindspore=ms.__version__,
)


class Network(nn.Cell):
    """A stand-in with the parameters that a training step has, filled from a seed."""

    def __init__(self, seed: int, rank: int = 0) -> None:
        super().__init__()
        shared = np.random.default_rng(seed)
        own = np.random.default_rng([seed, rank])
        # Setting parameters in a list keeps the names they are given.
        self.rows = ms.ParameterTuple(
            [
                Parameter(Tensor(draw.random(shape, np.float32)), name=name)
                for name, shape, draw in (
                    ("yolo_network.feature_map.backbone.conv1.weight", (4, 3, 3, 3), shared),
                    ("yolo_network.feature_map.backbone.bn1.moving_mean", (4,), own),
                    ("yolo_network.feature_map.backbone.bn1.moving_variance", (4,), own),
                    ("yolo_network.feature_map.head.bias", (5,), shared),
                    ("moments.yolo_network.feature_map.head.bias", (5,), shared),
                    ("learning_rate", (), shared),
                )
            ]
            + [Parameter(Tensor([40], ms.int32), name="global_step")]
        )


class Weights(nn.Cell):
    """The same network as evaluation has it: no prefix, no optimizer."""

    def __init__(self) -> None:
        super().__init__()
        network = Network(9)
        self.rows = ms.ParameterTuple(
            [
                Parameter(row.value(), name=row.name.removeprefix("yolo_network."))
                for row in network.get_parameters()
                if row.name.startswith("yolo_network.")
            ]
        )


def values(network: nn.Cell) -> dict[str, np.ndarray]:
    """A copy of every parameter by name."""
    return {row.name: row.asnumpy().copy() for row in network.get_parameters()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether all parameters are equal, bit for bit."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def rank_of(rank: int, size: int = 1) -> Rank:
    """A rank as the environment would make it."""
    return Rank({"RANK_ID": str(rank), "RANK_SIZE": str(size)})


def written(directory: Path, ranks: int = 1, attempt: int = 1, seed: int = 1) -> Path:
    """A checkpoint of `ranks` ranks, written as they would: at the same time."""
    state = replace(STATE, world_size=ranks)
    networks = [Network(seed, rank) for rank in range(ranks)]
    writers = [CheckpointWriter(directory, r, ranks, attempt, 20.0) for r in range(ranks)]
    others = [
        threading.Thread(target=writers[rank].save, args=(networks[rank], state))
        for rank in range(1, ranks)
    ]
    for other in others:
        other.start()
    final = writers[0].save(networks[0], state)
    for other in others:
        other.join(20.0)
        assert not other.is_alive()
    return final


def test_checkpoint_is_complete_and_its_manifest_true(tmp_path: Path) -> None:
    """All parts are there under their names, as large and with the digests that are listed."""
    final = written(tmp_path, ranks=3)
    assert final == tmp_path / "step-00000040"
    assert sorted(os.listdir(final)) == sorted([*parts_of(3), MANIFEST])
    manifest = json.loads((final / MANIFEST).read_bytes())
    assert (manifest["format"], manifest["step"], manifest["world_size"]) == (1, 40, 3)
    for name, entry in manifest["files"].items():
        assert (entry["size"], entry["sha256"]) == measure(final / name)
        assert (final / name).stat().st_mode & 0o444 == 0o444
    assert os.listdir(tmp_path) == ["step-00000040"]
    assert read_state(final) == replace(STATE, world_size=3)


@pytest.mark.parametrize("rank", [0, 2])
def test_each_rank_gets_its_own_statistics_back(tmp_path: Path, rank: int) -> None:
    """Loading restores every parameter bit for bit, the statistics of this very rank."""
    final = written(tmp_path, ranks=3)
    network = Network(seed=5, rank=7)
    loaded = load(final, network, rank_of(rank, 3))
    assert same(values(network), values(Network(1, rank)))
    assert loaded.digest == measure(final / MANIFEST)[1]
    assert loaded.state.step == 40


def test_ranks_differ_in_statistics_only() -> None:
    """What other ranks save is the moving statistics and nothing else."""
    names = list(statistics_of(split_average(Network(1))[0]))
    assert len(names) == 2
    assert all(name.endswith((".moving_mean", ".moving_variance")) for name in names)


class Averaged(Network):
    """The stand-in with a moving average of its weights."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.averages = ms.ParameterTuple(
            [
                Parameter(Tensor(row.asnumpy() / 2), name=AVERAGED + row.name)
                for row in self.rows
                if row.name.startswith("yolo_network.")
            ]
        )


def test_averaged_weights_have_a_file_of_their_own(tmp_path: Path) -> None:
    """They come back bit for bit, and a step directory is evaluated by them."""
    final = CheckpointWriter(tmp_path, 0, 1, 1).save(Averaged(1), STATE)
    assert sorted(os.listdir(final)) == sorted([*parts_of(1, averaged=True), MANIFEST])
    again = Averaged(5)
    load(final, again, rank_of(0))
    assert same(values(again), values(Averaged(1)))
    weights, last = Weights(), Weights()
    load_weights(final, weights)
    load_weights(final / MODEL, last)
    for name, value in values(weights).items():
        np.testing.assert_array_equal(value, values(last)[name] * 0.5)
    (final / "ema.ckpt").unlink()
    with pytest.raises(ConfigError, match=r"ema\.ckpt: no such checkpoint"):
        load_weights(final, weights)


def test_an_average_is_neither_dropped_nor_made_up(tmp_path: Path) -> None:
    """A run that averages does not resume from one that does not, nor the other way round."""
    with_it = CheckpointWriter(tmp_path / "a", 0, 1, 1).save(Averaged(1), STATE)
    without = written(tmp_path / "b")
    with pytest.raises(ConfigError, match=r"ema_decay=0: .* was written with a moving average"):
        load(with_it, Network(1), rank_of(0))
    with pytest.raises(ConfigError, match=r"ema_decay: .* was written without a moving average"):
        load(without, Averaged(1), rank_of(0))


def test_heads_may_be_left_as_drawn(tmp_path: Path) -> None:
    """With reset_head the convolutions that predict keep their values and are listed."""

    def network(classes: int, value: float) -> nn.Cell:
        cell = nn.Cell()
        cell.rows = ms.ParameterTuple(
            [
                Parameter(Tensor(np.full(shape, value, np.float32)), name=name)
                for name, shape in (
                    ("feature_map.backblock0.conv5.0.weight", (4, 2)),
                    ("feature_map.backblock0.conv6.weight", (3 * (classes + 5), 4)),
                    ("feature_map.backblock0.conv6.bias", (3 * (classes + 5),)),
                )
            ]
        )
        return cell

    file = tmp_path / "coco.ckpt"
    ms.save_checkpoint(network(80, 1.0), str(file))
    mine = network(4, 2.0)
    with pytest.raises(ConfigError, match=r"conv6"):
        load_weights(file, mine)
    left = load_weights(file, mine, reset_head=True)
    assert left == ["feature_map.backblock0.conv6.bias", "feature_map.backblock0.conv6.weight"]
    assert {name: float(v.flat[0]) for name, v in values(mine).items()} == {
        "feature_map.backblock0.conv5.0.weight": 1.0,
        "feature_map.backblock0.conv6.weight": 2.0,
        "feature_map.backblock0.conv6.bias": 2.0,
    }


def test_own_copies_go_with_their_checkpoints(tmp_path: Path) -> None:
    """A rank's copy of everything is kept as long as the common checkpoint of its step."""
    checkpoints_, folder = tmp_path / "checkpoints", tmp_path / "ckpt_1"
    for step in (20, 40):
        (checkpoints_ / f"step-{step:08d}").mkdir(parents=True)
        (checkpoints_ / f"step-{step:08d}" / "state.json").write_text('{"categories": []}')
        save_own_copy(Network(1), checkpoints_ / f"step-{step:08d}", folder, f"1-1_{step}.ckpt")
    os.rename(checkpoints_ / "step-00000020", checkpoints_ / "step-00000060")
    save_own_copy(Network(1, 1), checkpoints_ / "step-00000060", folder, "1-2_60.ckpt")
    assert sorted(os.listdir(folder)) == ["1-1_40.ckpt", "1-2_60.ckpt", "categories.json"]
    again = Network(5)
    ms.load_param_into_net(again, ms.load_checkpoint(str(folder / "1-2_60.ckpt")))
    assert same(values(again), values(Network(1, 1)))


def test_missing_rank_is_named(tmp_path: Path) -> None:
    """Rank 0 does not wait for ever, and says for whom it waited; no checkpoint appears."""
    writer = CheckpointWriter(tmp_path, rank=0, world_size=3, attempt=1, wait_seconds=0.2)
    with pytest.raises(TimeoutError, match="rank 1, 2"):
        writer.save(Network(1), replace(STATE, world_size=3))
    assert not list(tmp_path.glob("step-*"))


def test_leftovers_of_an_earlier_attempt_are_not_mixed_in(tmp_path: Path) -> None:
    """A part that a dead attempt left aside does not count for this one, and is removed."""
    stale = tmp_path / ".step-00000040.attempt-001.tmp"
    stale.mkdir()
    (stale / "rank-1.ckpt").write_bytes(b"old")
    writer = CheckpointWriter(tmp_path, rank=0, world_size=2, attempt=2, wait_seconds=0.2)
    with pytest.raises(TimeoutError, match="rank 1"):
        writer.save(Network(1), replace(STATE, world_size=2))
    later = tmp_path / ".step-00000080.attempt-003.tmp"
    later.mkdir()
    writer.clear_leftovers()
    assert os.listdir(tmp_path) == [later.name]


def test_step_reached_again_replaces_the_old_directory(tmp_path: Path) -> None:
    """After falling back, the newer checkpoint of the same step takes the place of the other."""
    written(tmp_path, seed=1)
    final = written(tmp_path, attempt=2, seed=2)
    network = Network(5)
    load(final, network, rank_of(0))
    assert same(values(network), values(Network(2)))
    assert os.listdir(tmp_path) == ["step-00000040"]


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """A limit on the size of files, which a write runs into like into a full disk.

    It holds for the whole process, the test report's own file included: only while it must.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Large(nn.Cell):
    """More than the small disk holds."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = ms.ParameterTuple([Parameter(Tensor(np.ones(5000, np.float32)), name="a")])


def test_disk_that_is_full_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """An OSError with its errno, the last good checkpoint, and no half-made file."""
    good = written(tmp_path)
    before = {file.name: measure(file) for file in good.iterdir()}
    writer = CheckpointWriter(tmp_path, rank=0, world_size=1, attempt=1)
    with small_files(), pytest.raises(OSError) as caught:
        writer.save(Large(), replace(STATE, step=80))
    assert caught.value.errno == errno.EFBIG
    assert {file.name: measure(file) for file in good.iterdir()} == before
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000040"]
    assert not list(tmp_path.glob(".step-00000080*/*"))


def test_no_space_left_is_reported_with_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC while the manifest is written: no final directory, and the errno to classify by."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(OSError) as caught:
        written(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.glob("step-*"))


def test_state_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    """A checkpoint with NaN would fail every attempt that starts from it."""
    network = Network(1)
    bias = next(row for row in network.get_parameters() if row.name.endswith("head.bias"))
    bias.set_data(Tensor(np.full(5, np.nan, np.float32)))
    with pytest.raises(FloatingPointError, match=r"head\.bias"):
        CheckpointWriter(tmp_path, 0, 1, 1).save(network, STATE)
    assert not list(tmp_path.glob("step-*"))


def flip(file: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def cut_short(file: Path) -> None:
    """Lose the last byte."""
    file.write_bytes(file.read_bytes()[:-1])


def spoil_format(file: Path) -> None:
    """Claim a format of the future."""
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("model.ckpt", flip, "model.ckpt has another sha256"),
        ("model.ckpt", cut_short, "bytes"),
        ("model.ckpt", Path.unlink, "model.ckpt is missing"),
        ("rank-1.ckpt", flip, "rank-1.ckpt has another sha256"),
        ("state.json", flip, "state.json"),
        ("MANIFEST.json", Path.unlink, "FileNotFoundError"),
        ("MANIFEST.json", cut_short, "JSONDecodeError"),
        ("MANIFEST.json", spoil_format, "format 2"),
    ],
)
def test_damaged_checkpoint_is_reported_unusable(
    tmp_path: Path, name: str, damage: object, told: str
) -> None:
    """Whatever is wrong with a file that is read: the directory and the reason are told."""
    final = written(tmp_path, ranks=2)
    damage(final / name)  # type: ignore[operator]
    with pytest.raises(CheckpointUnusable, match=told) as caught:
        load(final, Network(3), rank_of(1, 2))
    assert caught.value.directory == str(final)


def test_checkpoint_of_another_network_is_listed(tmp_path: Path) -> None:
    """Missing and unexpected names are told, and nothing is loaded."""
    final = written(tmp_path)
    network = Large()
    with pytest.raises(CheckpointUnusable, match=r"1 missing \(a\); 7 unexpected"):
        load(final, network, rank_of(0))
    assert (network.rows[0].asnumpy() == 1).all()


def test_original_name_is_a_link_that_goes_with_its_checkpoint(tmp_path: Path) -> None:
    """Users find `0-EPOCH_STEP.ckpt`; it does not keep the space of a deleted checkpoint."""
    folder = tmp_path / "ckpt_0"
    first = written(tmp_path / "checkpoints")
    link = link_original_name(first, folder, epoch=1, step=40)
    assert link.name == "0-1_40.ckpt"
    assert link.samefile(first / "model.ckpt")
    second = first.rename(first.with_name("step-00000080"))
    link_original_name(second, folder, epoch=2, step=80)
    assert sorted(os.listdir(folder)) == ["0-1_40.ckpt", "0-2_80.ckpt", "categories.json"]
    assert category_table(link) == STATE.categories
    (second / "model.ckpt").unlink()
    third = written(tmp_path / "checkpoints", attempt=2)
    for name in os.listdir(folder)[1:]:
        (folder / name).unlink()
    link_original_name(third, folder, epoch=3, step=120)
    assert os.listdir(folder) == ["0-3_120.ckpt", "categories.json"]


def test_weights_load_from_a_training_checkpoint(tmp_path: Path) -> None:
    """Evaluation drops the prefix and the optimizer's entries; a step directory will do."""
    final = written(tmp_path)
    for source in (final, final / "model.ckpt"):
        weights = Weights()
        load_weights(source, weights)
        trained = values(Network(1))
        found = values(weights)
        assert len(found) == 4
        assert all(np.array_equal(found[n], trained[f"yolo_network.{n}"]) for n in found)
    assert category_table(final) == category_table(final / "model.ckpt") == STATE.categories
    assert category_table(tmp_path) is None


def test_backbone_loads_alone_and_completely(tmp_path: Path) -> None:
    """The rest of the network stays; a backbone with a part missing is refused by name."""
    final = written(tmp_path)
    network = Network(2)
    load_backbone(final, network)
    mixed = values(network)
    assert np.array_equal(mixed["yolo_network.feature_map.head.bias"],
                          values(Network(2))["yolo_network.feature_map.head.bias"])  # fmt: skip
    name = "yolo_network.feature_map.backbone.conv1.weight"
    assert np.array_equal(mixed[name], values(Network(1))[name])
    part = tmp_path / "part.ckpt"
    ms.save_checkpoint([{"name": "conv1.weight", "data": network.rows[0]}], str(part))
    with pytest.raises(ConfigError, match=r"bn1\.moving_mean"):
        load_backbone(part, network)


def test_a_deeper_backbone_is_refused(tmp_path: Path) -> None:
    """Layers that the network lacks are named; a classifier's last layer is passed over."""
    rows = [
        {"name": parameter.name.rpartition("backbone.")[2], "data": parameter}
        for parameter in Network(1).rows
        if "backbone." in parameter.name
    ]
    classifier = {"name": "end_point.weight", "data": Network(1).rows[0]}
    file = tmp_path / "classifier.ckpt"
    ms.save_checkpoint([*rows, classifier], str(file))
    load_backbone(file, Network(2))
    ms.save_checkpoint([*rows, {**classifier, "name": "layer3.9.conv1.weight"}], str(file))
    with pytest.raises(ConfigError, match=r"1 unexpected \(layer3\.9\.conv1\.weight\)"):
        load_backbone(file, Network(2))


def test_weights_that_are_not_there_are_a_mistake_of_the_user(tmp_path: Path) -> None:
    """A wrong path and a file that is no checkpoint end with 64, not with a traceback."""
    with pytest.raises(ConfigError, match="no such checkpoint"):
        load_weights(tmp_path / "none.ckpt", Weights())
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"no checkpoint")
    with pytest.raises(ConfigError, match=r"broken\.ckpt"):
        load_weights(broken, Weights())


def test_a_checkpoint_that_was_being_replaced_is_not_lost(tmp_path: Path) -> None:
    """A kill between the two renames has left it without its name: it has it again."""
    replaced = tmp_path / ".step-00000040.attempt-001.replaced.tmp"
    for name in (replaced.name, ".step-00000040.attempt-001.tmp"):
        (tmp_path / name).mkdir()
    (replaced / MODEL).write_bytes(b"old")
    CheckpointWriter(tmp_path, 0, 1, attempt=2).clear_leftovers()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000040"]
    assert (tmp_path / "step-00000040" / MODEL).read_bytes() == b"old"
    replaced.mkdir()
    CheckpointWriter(tmp_path, 0, 1, attempt=2).clear_leftovers()
    assert (tmp_path / "step-00000040" / MODEL).read_bytes() == b"old"
    assert not replaced.exists(), "of no use any more"
