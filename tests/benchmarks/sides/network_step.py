"""Training steps of the full network alone: `network_step SIDE BATCH WARM STEPS CACHE`.

The whole step as `model.train` makes it (loss, gradients, momentum with weight decay), float32, on
a batch of noise with boxes. The graph is loaded from the directory CACHE, or compiled into it; that
and the first WARM steps are not measured. Prints seconds a step, CPU seconds a step of all threads,
and the peak memory. `network_step shapes SIDE` prints the geometry of every convolution instead.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from model.architecture import FULL, Architecture
from model.arguments import parse
from model.compile_cache import CompileCache
from model.loss import DetectionLoss
from model.step import build_step
from model.targets import make_targets, stack
from model.training_network import TrainingNetwork
from model.yolo import YoloV3
from tests.benchmarks.sides import peak_gigabytes, report

BOXES = 7
LEARNING_RATE = 0.001


def random_batch(side: int, batch: int, architecture: Architecture = FULL) -> list[np.ndarray]:
    """Images and targets as the training network takes them."""
    rng = np.random.default_rng(1)
    targets = []
    for _ in range(batch):
        low = rng.uniform(0, 0.6 * side, (BOXES, 2))
        high = low + rng.uniform(8, 0.4 * side, (BOXES, 2))
        classes = rng.integers(0, architecture.num_classes, (BOXES, 1))
        targets.append(
            make_targets(np.concatenate([low, high, classes], axis=1), side, architecture)
        )
    images = rng.standard_normal((batch, 3, side, side)).astype(np.float32)
    return [images, *stack(targets).arrays()]


def timed_steps(side: int, batch: int, warm: int, steps: int, cache: Path) -> dict[str, Any]:
    """Seconds and CPU seconds of `steps` steps after `warm` others, and the peak memory in GB."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    network = TrainingNetwork(YoloV3(FULL), DetectionLoss(FULL))
    step = build_step(network, parse([]), world_size=1, backend="cpu")
    inputs = random_batch(side, batch)
    shapes = [tuple(array.shape for array in inputs)]
    CompileCache(cache, f"step_{side}_{batch}", 0).compile(lambda: step.compile_for(shapes))
    seconds, cpu = [], []
    for _ in range(warm + steps):
        since, used = time.perf_counter(), time.process_time()
        loss = step.train(inputs, LEARNING_RATE).loss
        seconds.append(time.perf_counter() - since)
        cpu.append(time.process_time() - used)
        print(json.dumps({"loss": loss, "seconds": seconds[-1], "cpu": cpu[-1]}), flush=True)
    return {"seconds": seconds[warm:], "cpu": cpu[warm:], "memory": peak_gigabytes()}


def convolutions(side: int) -> list[dict[str, Any]]:
    """Geometry of every convolution in one image's way through the network, in its order."""
    ms.set_context(mode=ms.PYNATIVE_MODE, device_target="CPU")
    network = YoloV3(FULL).set_train()
    found: list[dict[str, Any]] = []

    def note(cell: Any, inputs: tuple[Any, ...], output: Any) -> None:
        found.append(
            {
                "inputs": list(inputs[0].shape[1:]),
                "outputs": list(output.shape[1:]),
                "kernel": int(cell.kernel_size[0]),
                "stride": int(cell.stride[0]),
                "trained": bool(cell.weight.requires_grad),
            }
        )

    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            cell.register_forward_hook(note)
    network(Tensor(random_batch(side, 1)[0]))
    return found


if __name__ == "__main__":
    if sys.argv[1] == "shapes":
        report(convolutions(int(sys.argv[2])))
    else:
        report(timed_steps(*map(int, sys.argv[1:5]), Path(sys.argv[5])))
