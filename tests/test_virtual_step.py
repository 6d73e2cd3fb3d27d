"""Virtual ranks: the step of the full world, made by fewer processes."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from model.architecture import SMALL, Architecture
from model.arguments import parse
from model.averaging import MovingAverage
from model.coco import CocoDataset
from model.data import TrainingData
from model.loss import PARTS, DetectionLoss
from model.momentum import Momentum
from model.rehearsal_data import Recipe, make
from model.step import Gradients, TrainStep, Update, build_step, ingredients
from model.training_network import TrainingNetwork
from model.virtual_data import VirtualData
from model.virtual_step import VirtualStep
from model.yolo import YoloV3
from orchestrator.rank import Rank
from tests.golden_network import TARGET_NAMES
from tests.golden_vectors import Golden

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared" / "golden"
GOLDEN = Golden(SHARED if SHARED.exists() else HERE / "golden_data")


@pytest.fixture(autouse=True)
def _graphs() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)


class Normalised(nn.Cell):
    """Loss w . norm(x) + 3 b: gradients that differ by batch, and statistics that do too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2, momentum=0.5)
        self.weight = Parameter(Tensor([1.0, 2.0], ms.float32), name="a.weight")
        self.bias = Parameter(Tensor([0.5], ms.float32), name="a.bias")

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scalar loss for x (B, 2), and the shares (4, 3) of its parts."""
        loss = (self.weight * x * self.norm(x)).sum() + 3 * self.bias.sum()
        return loss, ops.ones((4, 3), ms.float32)


def parts_of(network: Normalised) -> Momentum:
    """An optimizer of its two parameters of its own, the weight decayed."""
    return Momentum([network.bias], [network.weight], weight_decay=0.25, momentum=0.5)


def virtual_step(virtual: int, **more: float) -> VirtualStep:
    """A step of `virtual` ranks; `decay` gives it a moving average."""
    network = Normalised()
    average = MovingAverage(network, 0.9) if more.pop("decay", 0) else None
    step = VirtualStep(network, parts_of(network), virtual=virtual, average=average, **more)
    step.keep_statistics()
    return step


def values(step: nn.Cell) -> dict[str, np.ndarray]:
    """Copies of all parameters by name but the sums."""
    rows = step.get_parameters()
    return {row.name: row.asnumpy().copy() for row in rows if not row.name.startswith("kept.")}


def batches(seed: int, virtual: int) -> list[list[np.ndarray]]:
    """A batch for each virtual rank, each about a mean of its own."""
    numbers = np.random.default_rng(seed)
    return [[numbers.normal(rank, 1, (4, 2)).astype(np.float32)] for rank in range(virtual)]


@pytest.mark.parametrize("more", [{}, {"loss_scale": 1024.0}, {"clip_norm": 0.5}])
def test_one_virtual_rank_is_a_plain_step(more: dict[str, float]) -> None:
    """With v = 1 both kinds of step end with the same parameters, statistics and norm."""
    network = Normalised()
    plain = TrainStep(network, parts_of(network), **more)
    plain.keep_statistics()
    virtual = virtual_step(1, **more)
    for seed in range(3):
        (batch,) = batches(seed, 1)
        expected, found = plain.train(batch, 0.1), virtual.train([batch], 0.1)
        assert found.loss == expected.loss and found.parts == expected.parts
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-6)
    there = values(plain)
    for name, row in values(virtual).items():
        np.testing.assert_allclose(row, there[name], rtol=1e-6, err_msg=name)


def test_gradients_are_averaged_and_statistics_are_each_ranks_own() -> None:
    """Three virtual ranks: the mean gradient moves the weights, nobody sees another's batch."""
    step = virtual_step(3)
    given = batches(1, 3)
    before = values(step)
    alone = [virtual_step(1) for _ in given]
    for one, batch in zip(alone, given, strict=True):
        one.train([batch], 1.0)
    outcome = step.train(given, 1.0)
    assert outcome.parts["s"] == dict.fromkeys(PARTS, 1.0)
    moved = [values(one)["a.weight"] - before["a.weight"] for one in alone]
    found = values(step)
    np.testing.assert_allclose(
        found["a.weight"] - before["a.weight"], np.mean(moved, axis=0), rtol=1e-5
    )
    assert found["global_step"] == 1
    statistics = [{n: row for n, row in values(one).items() if "moving" in n} for one in alone]
    for name, row in statistics[0].items():
        np.testing.assert_array_equal(found[name], row, err_msg=name)
    for own, other in zip(statistics[1:], step.statistics_of_others(), strict=True):
        assert own.keys() == other.keys()
        for name, row in own.items():
            np.testing.assert_array_equal(other[name].asnumpy(), row, err_msg=name)
    assert not np.array_equal(statistics[0]["norm.moving_mean"], statistics[1]["norm.moving_mean"])


@pytest.mark.parametrize("spoilt", [0, 1])
def test_an_overflow_of_one_virtual_rank_skips_the_step_of_all(spoilt: int) -> None:
    """Weights, momentum, average and the statistics of all stay; the next step is as ever."""
    step, undisturbed = virtual_step(2, decay=1), virtual_step(2, decay=1)
    for each in (step, undisturbed):
        each.train(batches(1, 2), 0.1)
    before, others = values(step), step.statistics_of_others()
    poison = batches(2, 2)
    poison[spoilt][0][0, 0] = np.inf
    assert step.train(poison, 0.1).skipped
    assert all(np.array_equal(before[name], row) for name, row in values(step).items())
    for mine, its in zip(others, step.statistics_of_others(), strict=True):
        assert all(np.array_equal(mine[n].asnumpy(), its[n].asnumpy()) for n in mine)
    for each in (step, undisturbed):
        each.train(batches(3, 2), 0.1)
    there = values(undisturbed)
    assert all(np.array_equal(there[name], row) for name, row in values(step).items())


def test_the_moving_average_follows_the_statistics_of_the_first() -> None:
    """A checkpoint's average is rank 0's, whatever rank came last in this process."""
    step, alone = virtual_step(2, decay=1), virtual_step(1, decay=1)
    given = batches(1, 2)
    step.train(given, 0.1)
    alone.train(given[:1], 0.1)
    name = "ema.norm.moving_mean"
    np.testing.assert_array_equal(values(step)[name], values(alone)[name])


def test_the_real_network_is_trained_as_by_two_ranks() -> None:
    """Two ranks, each with its network, and one process as both: equal in every digit (v = 2)."""
    arrays = GOLDEN.arrays("network.npz", "small/")
    first = [arrays[name] for name in ("image", *TARGET_NAMES)]
    given = [first, [np.ascontiguousarray(first[0][::-1]) * 0.5, *first[1:]]]
    config = parse(["--clip_norm=1"])
    ranks = [TrainingNetwork(YoloV3(SMALL), DetectionLoss(SMALL)) for _ in given]
    full = [build_step(network, config, 1, "cpu") for network in ranks]
    gradients = [Gradients(one.network, one.optimizer.parameters, 1.0, None, "cpu") for one in full]
    update = Update(full[0].optimizer, scaled=True, average=None)
    network = TrainingNetwork(YoloV3(SMALL), DetectionLoss(SMALL))
    step = VirtualStep(network, virtual=2, **ingredients(network, config, 1, "cpu"))
    step.keep_statistics()
    for _ in range(2):
        found = [cell(*map(Tensor, batch)) for cell, batch in zip(gradients, given, strict=True)]
        rows = zip(*(one[-1] for one in found), strict=True)
        means = [(mine.asnumpy() + its.asnumpy()) * np.float32(0.5) for mine, its in rows]
        outcome = step.train(given, 0.001)
        # The two ranks' norms are of the same mean: that of the process stands for them.
        factor = np.float32(1.0) / np.maximum(np.float32(outcome.gradient_norm), np.float32(1.0))
        update(Tensor(0.001, ms.float32), Tensor(factor), *map(Tensor, means))
        for mine, its in zip(
            full[0].optimizer.parameters, full[1].optimizer.parameters, strict=True
        ):
            its.set_data(Tensor(mine.asnumpy().copy()))
        length = np.sqrt(sum(float((row.astype(np.float64) ** 2).sum()) for row in means))
        assert outcome.gradient_norm == pytest.approx(length, rel=1e-5)
        assert outcome.loss == pytest.approx(np.mean([float(one[0].asnumpy()) for one in found]))
    there = values(full[0])
    assert there["global_step"] == 2
    for name, row in values(step).items():
        np.testing.assert_array_equal(row, there[name], err_msg=name)
    (other,) = step.statistics_of_others()
    there = values(full[1])
    for name, row in other.items():
        np.testing.assert_array_equal(row.asnumpy(), there[name], err_msg=name)


def test_virtual_data_are_those_of_the_ranks(tmp_path: Path) -> None:
    """Every rank has the batches that it would have alone, in the order of ranks and steps."""
    make(tmp_path, Recipe(images=24, val_images=1, seed=3, size=64))
    dataset = CocoDataset.load(tmp_path, "train2017")
    architecture: Architecture = parse([]).architecture(len(dataset.categories))
    alone = [
        TrainingData(
            dataset, batch_size=2, side_or_sides=64, architecture=architecture,
            rank=rank, world_size=4,
        )
        for rank in range(4)
    ]  # fmt: skip
    joined = VirtualData(alone[2:])
    assert joined.sample_ids(1) == (*alone[2].sample_ids(1), *alone[3].sample_ids(1))
    for workers in (0, 2):
        found = list(joined.iterate(1, 4, workers))
        assert [one.global_step for one in found] == [1, 2, 3]
        for step, one in enumerate(found, 1):
            for rank, inputs in zip((2, 3), one.inputs, strict=True):
                expected = alone[rank].batch(step).inputs
                assert all(map(np.array_equal, inputs, expected))


def test_a_process_knows_its_virtual_ranks() -> None:
    """Process 1 of 2 has ranks 4 to 7 of 8; without MUSTER_RANKS it is one rank."""
    small = Rank({"RANK_ID": "1", "RANK_SIZE": "2", "MUSTER_RANKS": "8"})
    assert (small.size, small.world_size, small.virtual_ranks) == (2, 8, range(4, 8))
    full = Rank({"RANK_ID": "1", "RANK_SIZE": "2"})
    assert (full.world_size, full.virtual_ranks) == (2, range(1, 2))
