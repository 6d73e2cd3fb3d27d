"""Comparison of the whole network, its gradients and its training steps with recorded ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from model.architecture import FULL, HEADS, SMALL
from model.arguments import parse
from model.checkpoint import split_average
from model.decode import Decoder
from model.loss import DetectionLoss
from model.step import build_step
from model.training_network import TrainingNetwork, decay_groups
from model.yolo import YoloV3
from tests.golden_vectors import (
    AFTER_ONE,
    FORWARD,
    GRADIENT,
    LATER,
    Difference,
    Golden,
    deterministic_value,
    distance,
)

SIZES = {"small": SMALL, "full": FULL}
PREFIX = "yolo_network."
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.001, 0.9, 0.0005
TARGET_NAMES = tuple(f"{kind}_{head}" for kind in ("y_true", "gt") for head in HEADS)


def fill(network: nn.Cell, seed: int) -> None:
    """Give every parameter of `network` its deterministic value."""
    for parameter in network.get_parameters():
        name = parameter.name.removeprefix(PREFIX)
        parameter.set_data(Tensor(deterministic_value(name, parameter.shape, seed)))


class Step:
    """The training step of the trainer, taken apart: its gradients are wanted too."""

    def __init__(self, network: TrainingNetwork) -> None:
        """Prepare the step and its optimizer."""
        arguments = [f"--weight_decay={WEIGHT_DECAY}", f"--momentum={MOMENTUM}"]
        self.step = build_step(network, parse(arguments), world_size=1, backend="cpu")

    def run(self, batch: Sequence[Tensor]) -> tuple[float, dict[str, np.ndarray]]:
        """Make one step; return the loss and the gradients by name (without prefix)."""
        loss, _, _, gradients = self.step.gradients(*batch)
        names = [p.name.removeprefix(PREFIX) for p in self.step.optimizer.parameters]
        found = {
            name: values.asnumpy().copy() for name, values in zip(names, gradients, strict=True)
        }
        one, rate = Tensor(1.0, ms.float32), Tensor(LEARNING_RATE, ms.float32)
        self.step.update(rate, one, *gradients)
        return float(loss.asnumpy()), found


def check_network(golden: Golden, size: str) -> Iterator[Difference]:
    """Parameters, forward pass, decoding, gradients, training steps and checkpoint of a size."""
    if size not in golden.network:
        return
    recorded, arrays = golden.network[size], golden.arrays("network.npz", f"{size}/")
    architecture = SIZES[size]
    yolo = YoloV3(architecture)
    listed = [[p.name, list(p.shape), p.requires_grad] for p in yolo.get_parameters()]
    yield Difference(f"{size}: parameters listed", float(listed != recorded["params"]), 0.0)
    fill(yolo, golden.network["seed"])
    yield from _check_forward(size, yolo, arrays)
    yield from _check_training(size, TrainingNetwork(yolo, DetectionLoss(architecture)), golden)


def _check_forward(
    size: str, yolo: YoloV3, arrays: Mapping[str, np.ndarray]
) -> Iterator[Difference]:
    yolo.set_train(False)
    raws = yolo(Tensor(arrays["image"]))
    for head, raw in zip(HEADS, raws, strict=True):
        value = distance(raw.asnumpy(), arrays[f"raw_{head}"])
        yield Difference(f"{size}: raw_{head}", value, FORWARD)
    decoded = Decoder(yolo.architecture)(*raws)
    for head, boxes in zip(HEADS, decoded, strict=True):
        value = distance(boxes.asnumpy(), arrays[f"detect_{head}"])
        yield Difference(f"{size}: detect_{head}", value, FORWARD)


def _check_training(size: str, network: TrainingNetwork, golden: Golden) -> Iterator[Difference]:
    recorded, arrays = golden.network[size], golden.arrays("network.npz", f"{size}/")
    batch = [Tensor(arrays[name]) for name in ("image", *TARGET_NAMES)]
    before = _values(network)
    step = Step(network)
    losses = recorded[f"weight_decay_{WEIGHT_DECAY}/losses"]
    loss, gradients = step.run(batch)
    yield Difference(f"{size}: loss of step 1", distance(loss, losses[0]), FORWARD)
    yield Difference(f"{size}: gradients", _gradients(gradients, recorded["gradients"]), GRADIENT)
    after = _values(network)
    prefix = "after_1_step/"
    for name in (name for name in arrays if name.startswith(prefix)):
        value = distance(after[name.removeprefix(prefix)], arrays[name])
        yield Difference(f"{size}: {name}", value, AFTER_ONE)
    yield from _check_sums(size, recorded, 1, after, AFTER_ONE)
    yield from _check_strong_decay(size, recorded, network, before, after, gradients)
    for number, expected in enumerate(losses[1:], start=2):
        loss, _ = step.run(batch)
        yield Difference(f"{size}: loss of step {number}", distance(loss, expected), LATER)
    yield from _check_sums(size, recorded, len(losses), _values(network), LATER)
    if "training_checkpoint" in recorded:
        yield from _check_checkpoint(size, recorded["training_checkpoint"], step)


def _values(network: nn.Cell) -> dict[str, np.ndarray]:
    # Copied: what a parameter gives out changes when training goes on.
    return {p.name.removeprefix(PREFIX): p.asnumpy().copy() for p in network.get_parameters()}


def _gradients(ours: Mapping[str, np.ndarray], recorded: Mapping[str, Sequence[Any]]) -> float:
    """Largest difference, in parts of its tensor's norm, of a norm or of a sampled element."""
    if set(ours) != set(recorded):
        return float("inf")
    worst = 0.0
    for name, (norm, elements) in recorded.items():
        flat = ours[name].ravel()
        sample = flat[:: max(flat.size // 8, 1)][: len(elements)]
        if not norm:
            worst = max(worst, float("inf") if flat.any() else 0.0)
            continue
        apart = max(abs(np.linalg.norm(flat) - norm), np.abs(sample - np.array(elements)).max())
        worst = max(worst, float(apart) / norm)
    return worst


def _check_sums(
    size: str,
    recorded: Mapping[str, Any],
    steps: int,
    values: Mapping[str, np.ndarray],
    tolerance: float,
    decay: float = WEIGHT_DECAY,
) -> Iterator[Difference]:
    """Sum and sum of absolute values of each parameter, in parts of the latter."""
    worst = 0.0
    sums = recorded[f"weight_decay_{decay}/after_{steps}_steps_sum_abs"]
    for name, (total, absolute) in sums.items():
        if steps > 1 and "moving_" in name and "backbone" not in name:
            continue  # Differ by 15 % between two convolution kernels.
        value = values[name].astype(np.float64)
        difference = max(abs(value.sum() - total), abs(np.abs(value).sum() - absolute))
        worst = max(worst, difference / absolute if absolute else difference)
    yield Difference(f"{size}: parameters after {steps} steps, decay {decay}", worst, tolerance)


def _check_strong_decay(
    size: str,
    recorded: Mapping[str, Any],
    network: TrainingNetwork,
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray],
) -> Iterator[Difference]:
    """One step at decay 0.5, calculated from the groups instead of compiled once more."""
    decay = 0.5
    values = dict(after)
    for group, share in zip(decay_groups(network), (0.0, decay), strict=True):
        for parameter in group:
            name = parameter.name.removeprefix(PREFIX)
            decayed = gradients[name] + share * before[name]
            values[name] = before[name] - LEARNING_RATE * decayed
    yield from _check_sums(size, recorded, 1, values, AFTER_ONE, decay)


def _check_checkpoint(
    size: str, recorded: Sequence[Sequence[Any]], step: Step
) -> Iterator[Difference]:
    saved, _ = split_average(step.step)
    ours = {name: (list(p.shape), str(p.dtype).lower()) for name, p in saved.items()}
    theirs = {name: (shape, kind.lower()) for name, shape, kind in recorded}
    different = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
    yield Difference(f"{size}: training checkpoint, entries that differ", len(different), 0.0)


def check_initialisation(golden: Golden) -> Iterator[Difference]:
    """Statistics of the freshly initialised full network: deviation and bound, not the draw."""
    recorded = golden.network.get("initialisation")
    if recorded is None:
        return
    worst_deviation = worst_bound = 0.0
    for parameter in YoloV3(FULL).get_parameters():
        deviation, bound, _ = recorded[parameter.name]
        values = parameter.asnumpy()
        if values.size < 1000 and deviation > 0:
            continue  # Too few to estimate a deviation.
        worst_deviation = max(worst_deviation, distance(values.std(), deviation))
        worst_bound = max(worst_bound, distance(np.abs(values).max(), bound))
    yield Difference("initialisation: deviation", worst_deviation, 0.05)
    yield Difference("initialisation: bound", worst_bound, 0.05)
