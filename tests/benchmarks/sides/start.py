"""From nothing to the first step of the full network: `start CACHE CHECKPOINTS SINCE`.

Resumes from the checkpoint of step 1 in the directory CHECKPOINTS, or makes it where there is
none; loads the graph from the directory CACHE, or compiles it into that. SINCE is the time
(CLOCK_MONOTONIC) at which this process was started. Prints the seconds and CPU seconds of each part
of the way, of all of it, and the peak memory.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIDE, BATCH = 128, 1


@dataclass
class Parts:
    """Seconds and CPU seconds from each mark to the next, by name."""

    since: float
    used: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """What was done since the last mark is called `name`."""
        now, used = time.monotonic(), time.process_time()
        self.seconds[name], self.cpu[name] = now - self.since, used - self.used
        self.since, self.used = now, used


def start(cache: Path, checkpoints: Path, since: float) -> dict[str, Any]:
    """Go the way once; the parts are in the order of `model.train`."""
    parts = Parts(since)
    parts.mark("interpreter")
    from model import backend, checkpoint
    from model.architecture import FULL
    from model.arguments import parse
    from model.compile_cache import CompileCache
    from model.loss import DetectionLoss
    from model.restore import load
    from model.step import build_step
    from model.training_network import TrainingNetwork
    from model.yolo import YoloV3
    from orchestrator.rank import Rank
    from tests.benchmarks.sides import peak_gigabytes
    from tests.benchmarks.sides.network_step import random_batch

    parts.mark("imports")
    backend.prepare("cpu", 0)
    parts.mark("set-up")
    network = TrainingNetwork(YoloV3(FULL), DetectionLoss(FULL))
    parts.mark("network")
    step = build_step(network, parse([]), world_size=1, backend="cpu")
    parts.mark("optimizer")
    source = checkpoints / "step-00000001"
    resumes = source.is_dir()
    if resumes:
        load(source, step, Rank.from_env())
        parts.mark("checkpoint")
    inputs = random_batch(SIDE, BATCH)
    parts.mark("batch")
    shapes = [tuple(array.shape for array in inputs)]
    CompileCache(cache, "start", 0).compile(lambda: step.compile_for(shapes))
    parts.mark("graph")
    step.train(inputs, 0.001)
    parts.mark("first step")
    if not resumes:
        state = checkpoint.TrainingState(
            step=1, epoch=0, batch=1, next_step=1, seed=1, learning_rate=0.001, loss_scale={},
            categories=[], configuration="", world_size=1, threads="", backend="cpu", mindspore="",
        )  # fmt: skip
        checkpoint.CheckpointWriter(checkpoints, rank=0, world_size=1, attempt=1).save(step, state)
    return {"seconds": parts.seconds, "cpu": parts.cpu, "memory": peak_gigabytes()}


if __name__ == "__main__":
    found = start(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
    from tests.benchmarks.sides import report

    report(found)
