"""Training batches a second at 416 x 416, beside the ModelZoo trainer's calls.

The data set is made by the benchmark: JPEGs of 300 to 640 pixels a side with about seven boxes
each. Ours is `model.data.TrainingData.iterate` with two worker threads and a cache of no bytes, so
that every image is read and decoded in every epoch; the peer (`sides.modelzoo_pipeline`) has two
workers too. Timed is an epoch from having looked at its first batch to having looked at the last;
the first epoch of each side, which also brings the files into memory, is not measured. Batches are
not compared, as both sides draw their augmentation from other generators. Processor time is said
beside the ratio: on a machine that others use too, the side with more threads gets more of it.
"""

from __future__ import annotations

import statistics

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Better, Measurement, Summary
from tests.benchmarks.sides import run_side

NAMES = ("input_pipeline",)

IMAGES, ROUNDS, SIDE, BATCH, WORKERS = 480, 5, 416, 16, 2
TIMEOUT = 300.0


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Both sides in turn in one process, on a data set that goes with the benchmark."""
    data = bench.directory / "photographs"
    with bench.progress.doing(f"{IMAGES} photographs are made"):
        run_side(bench, "photographs", data, IMAGES, timeout=TIMEOUT)
    with bench.progress.doing(f"{ROUNDS} epochs of {IMAGES} images at {SIDE} x {SIDE}"):
        found = run_side(bench, "pipeline", data, ROUNDS, SIDE, BATCH, WORKERS, timeout=TIMEOUT)
    ours, peer = (statistics.median(found[f"{side}_cpu"]) for side in ("ours", "peer"))
    bench.progress.say(
        f"processor time an image: {ours:.1f} ms, the peer {peer:.1f} ms, {peer / ours:.2f} times"
    )
    return {
        "input_pipeline": Measurement(
            "images/s",
            Summary.of(found["ours"]),
            Summary.of(found["peer"]),
            "the ModelZoo's calls",
            better=Better.HIGHER,
        )
    }
