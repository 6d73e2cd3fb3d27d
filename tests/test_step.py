"""One training step: the original's arithmetic, and gradients averaged over ranks in buckets."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from model import step as steps
from model.architecture import SMALL
from model.arguments import parse
from model.loss import DetectionLoss
from model.step import FlatMean, TrainStep, build_step, gradient_mean
from model.training_network import TrainingNetwork
from model.yolo import YoloV3
from tests.golden_network import TARGET_NAMES, fill
from tests.golden_vectors import FORWARD, LATER, Golden, distance

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared" / "golden"
GOLDEN = Golden(SHARED if SHARED.exists() else HERE / "golden_data")
SCALE = 1024.0


@pytest.fixture(autouse=True)
def _graphs() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)


class Linear(nn.Cell):
    """Loss w . x + 3 b, so that the gradients are x and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Parameter(Tensor([1.0, 2.0], ms.float32), name="a.weight")
        self.bias = Parameter(Tensor([0.5], ms.float32), name="a.bias")

    def construct(self, x: Tensor) -> Tensor:
        """Return the scalar loss for x (2,)."""
        return (self.weight * x).sum() + 3 * self.bias.sum()


def test_step_is_momentum_with_scaled_decay() -> None:
    """Two steps at different rates equal the formula; the rate changes nothing that compiles."""
    network = Linear()
    optimizer = nn.Momentum(
        [{"params": [network.bias], "weight_decay": 0.0},
         {"params": [network.weight], "weight_decay": 0.25}],
        learning_rate=0.5, momentum=0.5, loss_scale=SCALE,
    )  # fmt: skip
    step = TrainStep(network, optimizer, SCALE, None)
    weight, bias = np.array([1.0, 2.0]), np.array([0.5])
    moved, pushed = np.zeros(2), np.zeros(1)
    x = np.array([4.0, -8.0])
    for number, rate in enumerate((0.5, 0.125), start=1):
        step.set_learning_rate(rate)
        loss = step(Tensor(x, ms.float32))
        assert float(loss.asnumpy()) == (weight * x).sum() + 3 * bias.sum()
        moved = 0.5 * moved + x + 0.25 * weight
        pushed = 0.5 * pushed + 3
        weight, bias = weight - rate * moved, bias - rate * pushed
        np.testing.assert_array_equal(network.weight.asnumpy(), weight)
        np.testing.assert_array_equal(network.bias.asnumpy(), bias)
        assert step.steps_done == number
        assert float(optimizer.learning_rate.asnumpy()) == rate
    assert len(step.compile_cache) == 1


def test_training_repeats_the_recorded_run_of_the_original() -> None:
    """Losses of three steps, parameters by name and kind: those of the original's small network."""
    recorded = GOLDEN.network["small"]
    arrays = GOLDEN.arrays("network.npz", "small/")
    network = TrainingNetwork(YoloV3(SMALL), DetectionLoss(SMALL))
    fill(network, GOLDEN.network["seed"])
    step = build_step(network, parse([]), world_size=1, backend="cpu")
    listed = {row.name: (list(row.shape), str(row.dtype)) for row in step.get_parameters()}
    assert listed == {name: (shape, kind) for name, shape, kind in recorded["training_checkpoint"]}
    batch = [Tensor(arrays[name]) for name in ("image", *TARGET_NAMES)]
    for number, expected in enumerate(recorded["weight_decay_0.0005/losses"]):
        found = float(step(*batch).asnumpy())
        assert distance(found, expected) <= (LATER if number else FORWARD)


class Doubled(nn.Cell):
    """Stands for the all-reduce of two ranks with equal gradients."""

    def construct(self, x: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        return x + x


@pytest.mark.parametrize(("limit", "buckets"), [(1 << 20, 1), (40, 2), (4, 4)])
def test_mean_over_ranks_keeps_order_and_shapes(
    monkeypatch: pytest.MonkeyPatch, limit: int, buckets: int
) -> None:
    """Whatever the size of buckets, every gradient comes back in its place."""
    monkeypatch.setattr(steps, "BUCKET_BYTES", limit)
    shapes = [(2, 3), (4,), (1, 1, 1, 5), (3,)]
    mean = FlatMean(shapes, world_size=2)
    mean.all_reduce = Doubled()
    assert len(mean.ranges) == buckets
    numbers = np.random.default_rng(0)
    gradients = tuple(Tensor(numbers.random(shape, np.float32)) for shape in shapes)
    means = mean(gradients)
    for gradient, found in zip(gradients, means, strict=True):
        np.testing.assert_array_equal(found.asnumpy(), gradient.asnumpy())


def test_single_rank_reduces_nothing() -> None:
    """Alone there is no all-reduce in the graph."""
    assert gradient_mean([], 1, "cpu") is None
