"""Both sides of `input_pipeline`: `pipeline DIRECTORY ROUNDS SIDE BATCH WORKERS`.

Each round is one epoch of the data set on each side; the first of each side is not measured.
Prints images a second, and milliseconds of processor time an image, of both sides for every round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.architecture import FULL
from model.coco import CocoDataset
from model.data import ImageCache, TrainingData
from tests.benchmarks.bench import in_turn
from tests.benchmarks.sides import peak_gigabytes, report
from tests.benchmarks.sides.modelzoo_pipeline import Source, batches

_PAGE = 1024
"""Numbers of four bytes in a page of memory."""


def ours(directory: Path, side: int, batch: int) -> TrainingData:
    """Our batches, without a cache: every image is read and decoded whenever it is asked for."""
    return TrainingData(
        CocoDataset.load(directory, "train2017"),
        batch_size=batch,
        side_or_sides=side,
        architecture=FULL,
        cache=ImageCache(0),
    )


def rate(epoch: Iterator[Sequence[np.ndarray]], batch: int, steps: int) -> tuple[float, float]:
    """Images a second, and milliseconds of processor time an image, from the first batch on.

    Asking for that one starts threads and fills queues, which a run does once and not every epoch.
    """
    count, since = 0, (0.0, 0.0)
    for arrays in epoch:
        count += 1
        for array in arrays:
            # Every page is looked at: memory that was never touched would come cheap.
            array.reshape(-1)[::_PAGE].sum()
        if count == 1:
            since = time.perf_counter(), time.process_time()
    if count != steps:
        raise RuntimeError(f"{count} batches instead of {steps}")
    images = (steps - 1) * batch
    wall, cpu = time.perf_counter() - since[0], time.process_time() - since[1]
    return images / wall, 1e3 * cpu / images


def measure(directory: Path, rounds: int, side: int, batch: int, workers: int) -> dict[str, Any]:
    """Epochs of both sides in turn."""
    cv2.setNumThreads(0)
    data, source = ours(directory, side, batch), Source(directory)
    steps = data.steps_per_epoch

    def mine(number: int) -> tuple[float, float]:
        epoch = data.iterate(number * steps, (number + 1) * steps, workers)
        return rate((found.inputs for found in epoch), batch, steps)

    def theirs(number: int) -> tuple[float, float]:
        return rate(batches(source, side, batch, workers), batch, steps)

    in_turn(1, lambda _: mine(0), theirs)
    found: dict[str, Any] = {"memory": peak_gigabytes()}
    for name, rates in zip(("ours", "peer"), in_turn(rounds, mine, theirs), strict=True):
        found |= {name: [pair[0] for pair in rates], f"{name}_cpu": [pair[1] for pair in rates]}
    return found


if __name__ == "__main__":
    report(measure(Path(sys.argv[1]), *map(int, sys.argv[2:])))
