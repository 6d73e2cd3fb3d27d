"""One training step: the original's arithmetic, and gradients averaged over ranks in buckets."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from model import step as steps
from model.architecture import SMALL
from model.arguments import parse
from model.averaging import MovingAverage
from model.checkpoint import split_average
from model.config import ConfigError
from model.loss import PARTS, DetectionLoss
from model.momentum import Momentum
from model.precision import precision_on
from model.step import FlatMean, TrainStep, build_step, gradient_mean
from model.training_network import TrainingNetwork
from model.yolo import YoloV3
from tests.golden_network import TARGET_NAMES, fill
from tests.golden_vectors import FORWARD, LATER, Golden, distance

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared" / "golden"
GOLDEN = Golden(SHARED if SHARED.exists() else HERE / "golden_data")


@pytest.fixture(autouse=True)
def _graphs() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)


class Linear(nn.Cell):
    """Loss w . x + 3 b, so that the gradients are x and 3; parts of a loss are all 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Parameter(Tensor([1.0, 2.0], ms.float32), name="a.weight")
        self.bias = Parameter(Tensor([0.5], ms.float32), name="a.bias")

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scalar loss for x (2,), and the shares (4, 3) of its parts."""
        return (self.weight * x).sum() + 3 * self.bias.sum(), ops.ones((4, 3), ms.float32)


def linear_step(clip_norm: float = 0.0, decay: float = 0.0, scale: float = 1.0) -> TrainStep:
    """A step of `Linear` at momentum 0.5, with weight decay of 0.25 for the weight only."""
    network = Linear()
    optimizer = Momentum([network.bias], [network.weight], weight_decay=0.25, momentum=0.5)
    average = MovingAverage(network, decay) if decay else None
    return TrainStep(network, optimizer, loss_scale=scale, clip_norm=clip_norm, average=average)


def values(step: TrainStep) -> dict[str, np.ndarray]:
    """Copies of all parameters by name."""
    return {row.name: row.asnumpy().copy() for row in step.get_parameters()}


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_step_is_momentum_with_decay_whatever_the_loss_scale(scale: float) -> None:
    """Two steps at different rates equal the formula; the rate changes nothing that compiles."""
    step = linear_step(scale=scale)
    weight, bias = np.array([1.0, 2.0]), np.array([0.5])
    moved, pushed = np.zeros(2), np.zeros(1)
    x = np.array([4.0, -8.0])
    for number, rate in enumerate((0.5, 0.125), start=1):
        outcome = step.train([x.astype(np.float32)], rate)
        assert outcome.loss == (weight * x).sum() + 3 * bias.sum()
        assert outcome.gradient_norm == pytest.approx(np.sqrt((x**2).sum() + 9))
        assert not outcome.skipped
        assert outcome.parts["m"] == dict.fromkeys(PARTS, 1.0)
        moved = 0.5 * moved + x + 0.25 * weight
        pushed = 0.5 * pushed + 3
        weight, bias = weight - rate * moved, bias - rate * pushed
        found = values(step)
        np.testing.assert_array_equal(found["a.weight"], weight)
        np.testing.assert_array_equal(found["a.bias"], bias)
        assert found["global_step"] == number
        assert found["learning_rate"] == np.float32(rate)
    assert len(step.compile_cache) == 1


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(poison: float) -> None:
    """Weights, momentum, step count and average stay as they are, and the next step is as ever."""
    step, undisturbed = linear_step(decay=0.9), linear_step(decay=0.9)
    good = np.array([4.0, -8.0], np.float32)
    for each in (step, undisturbed):
        each.train([good], 0.5)
    before = values(step)
    outcome = step.train([np.array([1.0, poison], np.float32)], 0.5)
    assert outcome.skipped
    assert all(np.array_equal(before[name], found) for name, found in values(step).items())
    assert step.train([good], 0.5) == undisturbed.train([good], 0.5)
    there = values(undisturbed)
    assert all(np.array_equal(there[name], found) for name, found in values(step).items())


def test_statistics_of_a_skipped_step_are_put_back() -> None:
    """The forward pass has changed them before the gradient turns out not to be finite."""
    arrays = GOLDEN.arrays("network.npz", "small/")
    batch = [arrays[name] for name in ("image", *TARGET_NAMES)]
    spoilt = [array.copy() for array in batch]
    spoilt[1].flat[0] = np.inf
    network = TrainingNetwork(YoloV3(SMALL), DetectionLoss(SMALL))
    step = build_step(network, parse(["--ema_decay=0.9"]), world_size=1, backend="cpu")
    step.keep_statistics()
    step.train(batch, 0.001)
    before = values(step)
    assert step.train(spoilt, 0.001).skipped
    after = values(step)
    assert all(np.array_equal(before[name], found) for name, found in after.items())
    assert any(name.endswith("moving_mean") for name in after)


def test_a_forward_pass_that_overflows_leaves_no_trace() -> None:
    """In 16 bits a convolution may overflow; a statistic that is not a number would stay so."""
    arrays = GOLDEN.arrays("network.npz", "small/")
    batch = [arrays[name] for name in ("image", *TARGET_NAMES)]
    network = TrainingNetwork(YoloV3(SMALL), DetectionLoss(SMALL))
    for row in network.get_parameters():
        if row.name.endswith("backblock0.conv3.0.weight"):
            row.set_data(Tensor(row.asnumpy() * 1e6))
    step = build_step(network, parse(["--precision=float16", "--loss_scale=1"]), 1, "cpu")
    step.keep_statistics()
    before = values(step)
    assert step.train(batch, 0.001).skipped
    after = values(step)
    assert all(np.array_equal(before[name], found) for name, found in after.items())
    assert all(np.isfinite(found).all() for found in after.values())


def test_a_long_gradient_is_shortened_and_a_short_one_is_not() -> None:
    """The mean gradient keeps its direction; decay is added after it was clipped."""
    x = np.array([4.0, -8.0], np.float32)
    norm = float(np.sqrt((x**2).sum() + 9))
    for limit, factor in ((norm / 4, 0.25), (norm * 4, 1.0)):
        step = linear_step(clip_norm=limit)
        before = values(step)
        assert step.train([x], 0.5).gradient_norm == pytest.approx(norm)
        after = values(step)
        np.testing.assert_allclose(after["a.bias"], before["a.bias"] - 0.5 * factor * 3, rtol=1e-6)
        pushed = factor * x + 0.25 * before["a.weight"]
        np.testing.assert_allclose(after["a.weight"], before["a.weight"] - 0.5 * pushed, rtol=1e-6)


def test_the_average_follows_slower_and_slower() -> None:
    """Its decay after update t is (1 + t) / (10 + t), up to the one that is asked for."""
    step = linear_step(decay=0.25)
    expected = values(step)["a.weight"].astype(np.float64)
    step.average.restart()
    for number in range(1, 5):
        step.train([np.array([4.0, -8.0], np.float32)], 0.5)
        decay = min((1 + number) / (10 + number), 0.25)
        found = values(step)
        expected = decay * expected + (1 - decay) * found["a.weight"]
        np.testing.assert_allclose(found["ema.a.weight"], expected, rtol=1e-6)


def test_an_average_begins_with_what_the_network_has() -> None:
    """After weights were loaded the average starts from those, in memory of its own."""
    step = linear_step(decay=0.9)
    step.network.weight.set_data(Tensor([7.0, 8.0], ms.float32))
    step.average.restart()
    np.testing.assert_array_equal(values(step)["ema.a.weight"], [7, 8])
    step.train([np.array([4.0, -8.0], np.float32)], 0.5)
    found = values(step)
    assert not np.array_equal(found["ema.a.weight"], found["a.weight"])


def test_half_precision_trains_and_keeps_weights_in_full() -> None:
    """With float16 convolutions the loss is close to that of float32, all parameters float32."""
    arrays = GOLDEN.arrays("network.npz", "small/")
    batch = [arrays[name] for name in ("image", *TARGET_NAMES)]
    losses = []
    for asked in ("float32", "float16"):
        network = TrainingNetwork(YoloV3(SMALL), DetectionLoss(SMALL))
        step = build_step(network, parse([f"--precision={asked}", "--loss_scale=1"]), 1, "cpu")
        outcomes = [step.train(batch, 0.001) for _ in range(2)]
        assert not any(outcome.skipped for outcome in outcomes)
        losses.append([outcome.loss for outcome in outcomes])
        kinds = {row.dtype for row in step.get_parameters() if row.name != "global_step"}
        assert kinds == {ms.float32}
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    assert losses[0] != losses[1]


def test_a_precision_that_the_backend_lacks_is_refused() -> None:
    """bfloat16 on the CPU is told as a mistake; auto is float16 on GPUs only."""
    with pytest.raises(ConfigError, match=r"precision=bfloat16.*float32, float16"):
        precision_on("cpu", "bfloat16")
    assert [precision_on(name, "auto") for name in ("cpu", "gpu", "ascend")] == [
        "float32", "float16", "float32"
    ]  # fmt: skip


def test_training_repeats_the_recorded_run_of_the_original() -> None:
    """Losses of three steps, parameters by name and kind: those of the original's small network."""
    recorded = GOLDEN.network["small"]
    arrays = GOLDEN.arrays("network.npz", "small/")
    network = TrainingNetwork(YoloV3(SMALL), DetectionLoss(SMALL))
    fill(network, GOLDEN.network["seed"])
    step = build_step(network, parse([]), world_size=1, backend="cpu")
    saved, _ = split_average(step)
    listed = {name: (list(row.shape), str(row.dtype)) for name, row in saved.items()}
    assert listed == {name: (shape, kind) for name, shape, kind in recorded["training_checkpoint"]}
    batch = [arrays[name] for name in ("image", *TARGET_NAMES)]
    for number, expected in enumerate(recorded["weight_decay_0.0005/losses"]):
        found = step.train(batch, 0.001).loss
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
