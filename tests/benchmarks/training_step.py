"""A training step of the full network on the CPU: oneDNN's kernels, and what PyTorch can do.

`step_full_128` (batch 1) and `step_full_320` (batch 2): the whole step in float32 with
ONEDNN_MAX_CPU_ISA=AVX2, as muster sets it for CPU ranks, beside the same step without it. Where the
CPU has no AVX-512 both are the same and the ratio is about 1. `step_full_128_vs_torch`: ours as
before, beside the network's convolutions alone in PyTorch (`sides.torch_step`). Every side has a
process of its own, one at a time, and two threads; compilation is not measured.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.bench import Bench, Unavailable
from tests.benchmarks.figures import Measurement, Summary
from tests.benchmarks.sides import run_side

NAMES = ("step_full_128", "step_full_320")
TORCH_NAMES = ("step_full_128_vs_torch",)

THREADS = "2"
FAST = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
STEPS, TORCH_STEPS, WARM = 5, 5, 2
TIMEOUT = 900.0


@dataclass(frozen=True)
class Setting:
    """Side of the input, images a batch, and steps of the slow peer: it may take minutes each."""

    side: int
    batch: int
    peer_steps: int


SETTINGS = {"step_full_128": Setting(128, 1, 2), "step_full_320": Setting(320, 2, 1)}


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """With and without AVX2, one after the other."""
    found = {}
    for name in (name for name in NAMES if name in wanted):
        setting = SETTINGS[name]
        ours = our_steps(bench, setting, WARM, STEPS, FAST, "AVX2")
        peer = our_steps(bench, setting, 1, setting.peer_steps, {}, "oneDNN's own choice")
        found[name] = compared(ours, peer, "the same without ONEDNN_MAX_CPU_ISA=AVX2")
    return found


def measure_vs_torch(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Our whole step beside PyTorch's convolutions."""
    if importlib.util.find_spec("torch") is None:
        raise Unavailable("PyTorch is not installed; `make bench` does it")
    [name] = TORCH_NAMES
    setting = SETTINGS["step_full_128"]
    ours = our_steps(bench, setting, WARM, STEPS, FAST, "AVX2")
    return {name: compared(ours, torch_steps(bench, setting), "its convolutions in PyTorch")}


def our_steps(
    bench: Bench, setting: Setting, warm: int, steps: int, environment: Mapping[str, str], what: str
) -> list[float]:
    """Seconds a step of the full network."""
    text = f"{setting.side} x {setting.side}, batch {setting.batch}, {what}"
    with bench.progress.doing(f"{steps} steps at {text}"):
        # Empty counts as unset: what the caller's environment says must not reach the peer.
        variables = {"ONEDNN_MAX_CPU_ISA": "", "OMP_NUM_THREADS": THREADS, **environment}
        arguments = (setting.side, setting.batch, warm, steps)
        found = run_side(bench, "network_step", *arguments, timeout=TIMEOUT, **variables)
    return told(bench, text, found)


def torch_steps(bench: Bench, setting: Setting) -> list[float]:
    """Seconds a step of the same convolutions in PyTorch."""
    with bench.progress.doing(f"{TORCH_STEPS} steps in PyTorch"):
        shapes = run_side(bench, "network_step", "shapes", setting.side, timeout=TIMEOUT, **FAST)
        file = bench.directory / "convolutions.json"
        file.write_text(json.dumps(shapes))
        arguments = (file, WARM, TORCH_STEPS, THREADS)
        found = run_side(bench, "torch_step", *arguments, timeout=TIMEOUT, OMP_NUM_THREADS=THREADS)
    return told(bench, f"{found['convolutions']} convolutions in PyTorch", found)


def told(bench: Bench, what: str, found: dict[str, Any]) -> list[float]:
    """Say what it took; returns the seconds."""
    times = ", ".join(f"{seconds:.2f}" for seconds in found["seconds"])
    bench.progress.say(f"{what}: {times} s, {found['memory']:.1f} GB at most")
    seconds: list[float] = found["seconds"]
    return seconds


def compared(ours: list[float], peer: list[float], name: str) -> Measurement:
    """Seconds a step beside those of the peer."""
    return Measurement("s", Summary.of(ours), Summary.of(peer), name)
