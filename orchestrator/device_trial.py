"""One device put to the test by a process of its own: `python -m orchestrator.device_trial`.

Started by orchestrator.trials with an Order in MUSTER_TRIAL; prints JSON lines on stdout: how far
it has come, and one result. All values are small whole numbers, whose products and sums float32
holds exactly in any order: any difference from the expected result is a wrong result. Run on the
CPU backend only; on Ascend and GPU, where it would take the device of its order, it was never run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.processes import die_with_parent

if TYPE_CHECKING:
    import numpy as np

ORDER = "MUSTER_TRIAL"
PHASE = "phase"
"""The only key of lines before the result; the last one says how far a trial came that hangs."""

_GROUPS = {"CPU": "mccl", "Ascend": "hccl", "GPU": "nccl"}
_REDUCED = 1 << 14
_UNTIL_KILLED = 3600.0


@dataclass(frozen=True)
class Order:
    """What a trial does: `role` product, all-reduce or scheduler; `target` CPU, Ascend or GPU.

    `cpus` to be bound to, if any. `slow` (times the work) and `wrong` are faults of a rehearsal
    node. `parent` is the process that the trial must not outlive.
    """

    role: str
    target: str
    device_id: int
    parent: int
    cpus: tuple[int, ...] = ()
    size: int = 640
    repetitions: int = 7
    slow: int = 1
    wrong: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        values = json.loads(text)
        return cls(**{**values, "cpus": tuple(values["cpus"])})


def main() -> None:
    """Do what MUSTER_TRIAL orders; whatever MindSpore raises ends the process with a traceback."""
    order = Order.from_json(os.environ[ORDER])
    die_with_parent(order.parent)
    if order.cpus:
        os.sched_setaffinity(0, order.cpus)
    _tell({PHASE: "it started"})
    _ROLES[order.role](order)


def _product(order: Order) -> None:
    """Multiply two matrices several times; tells seconds of each and how many values are wrong."""
    import mindspore
    import numpy as np

    _take(order)
    # Whole numbers of at most 4: a sum of `size` products stays far below 2 ** 24.
    numbers = np.random.default_rng(order.size)
    left, right = numbers.integers(-4, 5, (2, order.size, order.size))
    expected = (left.astype(np.float64) @ right.astype(np.float64)).astype(np.float32)
    one, other = (mindspore.Tensor(side.astype(np.float32)) for side in (left, right))
    clock = time.process_time if order.target == "CPU" else time.perf_counter
    times = []
    for _ in range(order.repetitions + 1):
        begun = clock()
        for _ in range(order.slow):
            found = mindspore.ops.matmul(one, other).asnumpy()
        times.append(clock() - begun)
    found = _spoilt(found, order)
    # The first one compiles.
    _tell({"times": times[1:], **_differences(found, expected)})


def _all_reduce(order: Order) -> None:
    """Add up what every rank gives; tells when the others were reached and what was given."""
    import mindspore
    import numpy as np
    from mindspore.communication import get_group_size, get_rank, init

    _take(order)
    init(_GROUPS[order.target])
    _tell({PHASE: "it joined the cluster"})
    rank, ranks = get_rank(), get_group_size()
    pattern = np.arange(_REDUCED, dtype=np.float32) % 64
    given = mindspore.Tensor(_spoilt(pattern * (rank + 1), order))
    arrived = time.time()
    begun = time.perf_counter()
    found = mindspore.ops.AllReduce()(given).asnumpy()
    took = time.perf_counter() - begun
    expected = pattern * (ranks * (ranks + 1) // 2)
    gave = _differences(given.asnumpy(), pattern * (rank + 1))
    _tell(
        {
            "rank": rank,
            "arrived": arrived,
            "took": took,
            "gave_wrong": gave["wrong"],
            **_differences(found, expected),
        }
    )
    # The others may still be reading from this rank; whoever ordered the trial ends it.
    time.sleep(_UNTIL_KILLED)


def _scheduler(order: Order) -> None:
    from orchestrator import scheduler

    scheduler.main()


def _take(order: Order) -> None:
    import mindspore

    if order.target == "CPU":
        mindspore.set_device("CPU")
    else:
        mindspore.set_device(order.target, order.device_id)
    _tell({PHASE: "it took the device"})


def _spoilt(values: np.ndarray, order: Order) -> np.ndarray:
    """The values; on a rehearsal node's device that computes wrongly, one of them is off."""
    if not order.wrong:
        return values
    spoilt = values.copy()
    spoilt.flat[spoilt.size // 3] += 1
    return spoilt


def _differences(found: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    import numpy as np

    places = np.flatnonzero(found != expected)
    example = ""
    if len(places):
        place = int(places[0])
        example = f"value {place} is {found.flat[place]:g} instead of {expected.flat[place]:g}"
    return {"wrong": len(places), "of": int(expected.size), "example": example}


def _tell(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


_ROLES: dict[str, Callable[[Order], None]] = {
    "product": _product,
    "all-reduce": _all_reduce,
    "scheduler": _scheduler,
}


if __name__ == "__main__":
    main()
