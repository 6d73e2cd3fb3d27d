"""From decoded heads to detections, beside the loops of the ModelZoo trainer's evaluation.

5000 images of 416 x 416 in rounds: few distinct synthetic heads (`sides.heads`) stand for all of
them, so that memory stays bounded. Ours is `model.decode.detections`; the peer is described in
`sides.modelzoo_decode`. Both get the same heads and must find the same detections, or the ratio
is 0.
"""

from __future__ import annotations

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Measurement, Summary
from tests.benchmarks.sides import run_side

NAMES = ("decode_nms",)

ROUNDS, IMAGES_A_ROUND, DISTINCT, BATCH = 5, 1000, 64, 16
TOLERANCE = 1e-9
TIMEOUT = 600.0


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Both sides in turn in one process."""
    with bench.progress.doing(f"detections of {ROUNDS} times {IMAGES_A_ROUND} images"):
        found = run_side(
            bench, "decode", ROUNDS, IMAGES_A_ROUND, DISTINCT, BATCH, timeout=TIMEOUT
        )  # fmt: skip
    count, apart = found["detections"], found["difference"]
    same = apart is not None and apart <= TOLERANCE
    bench.progress.say(
        f"{count} detections, {'equal' if same else 'NOT equal'} (largest difference {apart}), "
        f"{found['memory']:.1f} GB at most"
    )
    return {
        "decode_nms": Measurement(
            "ms/image",
            Summary.of(found["ours"]),
            Summary.of(found["peer"]),
            "the ModelZoo's loops over boxes",
            verdict=None if same else False,
        )
    }
