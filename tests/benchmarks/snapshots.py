"""What a snapshot every ten steps costs the rehearsal job's network, in percent of its step time.

Beside it: the same state saved with `ms.save_checkpoint` into tmpfs as often. One rank, one thread,
the job's batch; all that the job's rank 0 saves. The cost for the full network is printed.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from pathlib import Path

import yaml

from tests.benchmarks.bench import Bench, Unavailable
from tests.benchmarks.figures import Measurement, Summary
from tests.benchmarks.sides import run_side

NAMES = ("snapshot",)

JOB = Path(__file__).resolve().parents[2] / "jobs" / "rehearsal_8p_cpu.yaml"
EVERY = 10
ROUNDS = 5
TIMEOUT = 600.0
_TMPFS = Path("/dev/shm")
_NETWORK = (
    "per_batch_size", "training_shape", "testing_shape", "res2net_block", "res2net_in_channels",
    "res2net_out_channels", "backbone_shape", "anchor_scales", "freeze_backbone", "backbone_bn",
)  # fmt: skip


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Both sides in turn in one process, ten steps before each save."""
    if not os.access(_TMPFS, os.W_OK):
        raise Unavailable("there is no tmpfs in /dev/shm")
    place = Path(tempfile.mkdtemp(prefix="benchmark-", dir=_TMPFS))
    try:
        with bench.progress.doing("the full network's state"):
            say_full(bench, place)
        with bench.progress.doing(f"{2 * ROUNDS} times {EVERY} steps of the rehearsal's network"):
            found = run_side(
                bench, "snapshot", "rehearsal", ROUNDS, EVERY, bench.folder("graphs"), place,
                *network(), timeout=TIMEOUT, OMP_NUM_THREADS="1", ONEDNN_MAX_CPU_ISA="AVX2",
            )  # fmt: skip
    finally:
        shutil.rmtree(place)
    ours, peer = Summary.of(found["ours"]), Summary.of(found["peer"])
    return {"snapshot": Measurement("%", ours, peer, "ms.save_checkpoint into tmpfs")}


def network() -> list[str]:
    """The arguments of the rehearsal job that say what is trained."""
    given = yaml.safe_load(JOB.read_text())["args"]
    values = {name: given[name] for name in _NETWORK}
    lists = {n: ",".join(map(str, v)) for n, v in values.items() if isinstance(v, list)}
    return [f"--{name}={lists.get(name, value)}" for name, value in values.items()]


def say_full(bench: Bench, place: Path) -> None:
    """Print what it takes of the full network."""
    found = run_side(
        bench, "snapshot", "full", ROUNDS, EVERY, bench.directory, place,
        timeout=TIMEOUT, OMP_NUM_THREADS="1",
    )  # fmt: skip
    copy, digests, peer = (statistics.median(found[key]) for key in ("copy", "digests", "peer"))
    bench.progress.say(
        f"full network, {found['bytes'] >> 20} MiB: {copy:.3f} s between two steps, "
        f"{digests:.2f} s in a thread, the first one {found['first']:.2f} s; "
        f"ms.save_checkpoint {peer:.2f} s (medians of {ROUNDS})"
    )
    for file in place.rglob("*"):
        if file.is_file():
            file.unlink()
