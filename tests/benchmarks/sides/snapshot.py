"""What snapshots cost a training: `snapshot rehearsal ROUNDS EVERY CACHE PLACE ARGUMENT...`.

Steps of the network that the arguments describe, with one rank and one thread, on a batch of noise;
after every EVERY steps the state is saved, in turn by `model.snapshots` and by `ms.save_checkpoint`
into the same tmpfs. Prints the share of the time of those steps, in percent, that each save took:
the copy, and for ours the digests too, which a thread works out while training goes on, as if
training had waited for them. `snapshot full ROUNDS EVERY CACHE PLACE` prints the seconds of copy,
digests and `ms.save_checkpoint` for the full network, without a step.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn

from model.architecture import FULL
from model.arguments import parse
from model.checkpoint import TrainingState, split_average
from model.compile_cache import CompileCache
from model.config import Config
from model.loss import DetectionLoss
from model.snapshots import Snapshots
from model.step import build_step
from model.training_network import TrainingNetwork
from model.yolo import YoloV3
from orchestrator.rank import Rank
from tests.benchmarks.sides import report
from tests.benchmarks.sides.network_step import LEARNING_RATE, random_batch

STATE = TrainingState(
    step=0, epoch=0, batch=0, next_step=0, seed=1, learning_rate=LEARNING_RATE, loss_scale={},
    categories=[], configuration="", world_size=1, threads="1", backend="cpu", mindspore="",
)  # fmt: skip
WARM = 4
"""Steps that do not count: MindSpore tries numbers of threads for each operator in them."""


def snapshots_of(network: nn.Cell, place: Path, every: int) -> Snapshots:
    """Those of a single rank."""
    told = {"snapshots": str(place), "snapshot_every_steps": every}
    return Snapshots(network, Rank({"MUSTER_CHECKPOINT": json.dumps(told)}))


def take(snapshots: Snapshots, step: int) -> tuple[float, float]:
    """Seconds of the copy, and of what the thread does after it."""
    since = time.perf_counter()
    snapshots.before(step)
    snapshots.after(step, 1.0, lambda: STATE)
    copied = time.perf_counter()
    snapshots.close()
    return copied - since, time.perf_counter() - copied


def save(network: nn.Cell, place: Path) -> float:
    """Seconds that MindSpore takes for the same."""
    since = time.perf_counter()
    rows = [{"name": name, "data": row} for name, row in split_average(network)[0].items()]
    ms.save_checkpoint(rows, str(place / "peer.ckpt"))
    return time.perf_counter() - since


def shares(
    config: Config, rounds: int, every: int, cache: Path, place: Path
) -> dict[str, list[float]]:
    """Percent of the time of `every` steps that a save took, by who saved."""
    architecture = config.architecture(config.classes(3))
    network = TrainingNetwork(YoloV3(architecture, config.seed), DetectionLoss(architecture))
    step = build_step(network, config, world_size=1, backend="cpu")
    [side] = config.training_sides
    inputs = random_batch(side, config.per_batch_size, architecture)
    shapes = [tuple(array.shape for array in inputs)]
    CompileCache(cache, "snapshot", 0).compile(lambda: step.compile_for(shapes))
    snapshots = snapshots_of(step, place, every)
    for _ in range(WARM):
        step.train(inputs, LEARNING_RATE)
    take(snapshots, every)  # the first of each slot makes the files
    take(snapshots, 2 * every)
    found: dict[str, list[float]] = {"ours": [], "peer": []}
    for number in range(2 * rounds):
        since = time.perf_counter()
        for _ in range(every):
            step.train(inputs, LEARNING_RATE)
        trained = time.perf_counter() - since
        ours = number % 2 == 0
        spent = sum(take(snapshots, (number + 3) * every)) if ours else save(step, place)
        found["ours" if ours else "peer"].append(100.0 * spent / (trained + spent))
        print(json.dumps({"trained": trained, "spent": spent, "ours": ours}), flush=True)
    return found


def full(rounds: int, every: int, place: Path) -> dict[str, Any]:
    """Seconds for the full network: copy and digests in turn, and MindSpore's save."""
    network = TrainingNetwork(YoloV3(FULL), DetectionLoss(FULL))
    step = build_step(network, parse([]), world_size=1, backend="cpu")
    snapshots = snapshots_of(step, place, every)
    taken = [take(snapshots, (number + 1) * every) for number in range(rounds + 2)]
    return {
        "bytes": sum(row.nbytes for row in split_average(step)[0].values()),
        "first": sum(taken[0]),
        "copy": [copied for copied, _ in taken[2:]],
        "digests": [sealed for _, sealed in taken[2:]],
        "peer": [save(step, place) for _ in range(rounds)],
    }


if __name__ == "__main__":
    what, rounds, every, cache, place, *arguments = sys.argv[1:]
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    if what == "full":
        report(full(int(rounds), int(every), Path(place)))
    else:
        report(shares(parse(arguments), int(rounds), int(every), Path(cache), Path(place)))
