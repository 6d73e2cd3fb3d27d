"""A training step of the full network on the CPU: oneDNN's kernels, and what PyTorch can do.

`step_full_128` (batch 1) and `step_full_320` (batch 2): the whole step in float32 with
ONEDNN_MAX_CPU_ISA=AVX2, as muster sets it for CPU ranks, beside the same step without it. Where the
CPU has no AVX-512 both are the same and the ratio is about 1. `step_full_128_vs_torch`: ours as
before, beside the network's convolutions alone in PyTorch (`sides.torch_step`). The sides take
turns, each in a process of its own, one at a time, with two threads; compilation is not measured.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bench, Unavailable, in_turn
from tests.benchmarks.figures import Measurement, PeakMemory, Summary
from tests.benchmarks.sides import run_side

NAMES = ("step_full_128", "step_full_320")
TORCH_NAMES = ("step_full_128_vs_torch",)

THREADS = "2"
FAST = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
WARM = 4
"""Steps before those that count: MindSpore tries numbers of threads for each operator in them."""

TORCH_WARM, TORCH_STEPS = 2, 5
TIMEOUT = 900.0


@dataclass(frozen=True)
class Setting:
    """Side of the input, images a batch, turns, and measured steps of each side in a turn.

    The slow peer may take minutes a step, beside which what is special in a first one is nothing.
    """

    side: int
    batch: int
    rounds: int
    steps: int
    peer_warm: int
    peer_steps: int


SETTINGS = {
    "step_full_128": Setting(128, 1, rounds=3, steps=6, peer_warm=1, peer_steps=2),
    "step_full_320": Setting(320, 2, rounds=2, steps=3, peer_warm=0, peer_steps=1),
}


@dataclass(frozen=True)
class Steps:
    """What one process found: seconds a step, CPU seconds of all its threads, peak memory in GB."""

    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    memory: float

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Steps:
        """From what a side reports."""
        return cls(tuple(found["seconds"]), tuple(found["cpu"]), found["memory"])


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """With and without AVX2."""
    return {name: measure_one(bench, SETTINGS[name]) for name in NAMES if name in wanted}


def measure_one(bench: Bench, setting: Setting) -> Measurement:
    """One setting, both sides in turn."""
    cache = compiled(bench, setting)
    ours, peer = in_turn(
        setting.rounds,
        lambda _: our_steps(bench, setting, cache),
        lambda _: peer_steps(bench, setting, cache),
    )
    return compared(ours, peer, "the same without ONEDNN_MAX_CPU_ISA=AVX2")


def measure_vs_torch(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Our whole step beside PyTorch's convolutions."""
    if importlib.util.find_spec("torch") is None:
        raise Unavailable("PyTorch is not installed; `make bench` does it")
    [name] = TORCH_NAMES
    setting = SETTINGS["step_full_128"]
    cache, shapes = compiled(bench, setting), convolutions(bench, setting)
    ours, peer = in_turn(
        setting.rounds,
        lambda _: our_steps(bench, setting, cache),
        lambda _: torch_steps(bench, shapes),
    )
    return {name: compared(ours, peer, "its convolutions in PyTorch")}


def compiled(bench: Bench, setting: Setting) -> Path:
    """A compile cache that holds the graph: all processes that are measured load it alike."""
    cache = bench.folder("graphs")
    with bench.progress.doing(f"compiling for {setting.side} x {setting.side}"):
        network_steps(bench, setting, cache, 0, 0, FAST)
    return cache


def our_steps(bench: Bench, setting: Setting, cache: Path) -> Steps:
    """Steps of the full network as muster runs it."""
    what = f"{setting.side} x {setting.side}, batch {setting.batch}, AVX2"
    with bench.progress.doing(what):
        found = network_steps(bench, setting, cache, WARM, setting.steps, FAST)
    return told(bench, what, found)


def peer_steps(bench: Bench, setting: Setting, cache: Path) -> Steps:
    """Steps of the same with the kernels that oneDNN chooses by itself."""
    what = f"{setting.side} x {setting.side}, batch {setting.batch}, oneDNN's own choice"
    with bench.progress.doing(what):
        found = network_steps(bench, setting, cache, setting.peer_warm, setting.peer_steps, {})
    return told(bench, what, found)


def network_steps(
    bench: Bench, setting: Setting, cache: Path, warm: int, steps: int, own: Mapping[str, str]
) -> Steps:
    """Run `sides.network_step`; it loads its graph from `cache` or compiles it into that."""
    # Empty counts as unset: what the caller's environment says must not reach the peer.
    variables = {"ONEDNN_MAX_CPU_ISA": "", "OMP_NUM_THREADS": THREADS, **own}
    arguments = (setting.side, setting.batch, warm, steps, cache)
    return Steps.read(run_side(bench, "network_step", *arguments, timeout=TIMEOUT, **variables))


def convolutions(bench: Bench, setting: Setting) -> Path:
    """A file with the geometry of the network's convolutions."""
    shapes = run_side(bench, "network_step", "shapes", setting.side, timeout=TIMEOUT, **FAST)
    file = bench.directory / "convolutions.json"
    file.write_text(json.dumps(shapes))
    bench.progress.say(f"{len(shapes)} convolutions")
    return file


def torch_steps(bench: Bench, shapes: Path) -> Steps:
    """Steps of the same convolutions in PyTorch."""
    with bench.progress.doing("PyTorch"):
        arguments = (shapes, TORCH_WARM, TORCH_STEPS, THREADS)
        found = run_side(bench, "torch_step", *arguments, timeout=TIMEOUT, OMP_NUM_THREADS=THREADS)
    return told(bench, "PyTorch", Steps.read(found))


def told(bench: Bench, what: str, found: Steps) -> Steps:
    """Say what it took."""
    times = ", ".join(f"{seconds:.2f}" for seconds in found.seconds)
    cpu = statistics.median(found.cpu)
    bench.progress.say(f"{what}: {times} s; {cpu:.2f} s of CPU, {found.memory:.1f} GB at most")
    return found


def compared(ours: Sequence[Steps], peer: Sequence[Steps], name: str) -> Measurement:
    """Seconds a step beside those of the peer, with the peak memory of both."""
    return Measurement(
        "s",
        Summary.of([seconds for steps in ours for seconds in steps.seconds]),
        Summary.of([seconds for steps in peer for seconds in steps.seconds]),
        name,
        memory=PeakMemory(max(s.memory for s in ours), max(s.memory for s in peer)),
    )
