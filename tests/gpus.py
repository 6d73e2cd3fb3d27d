"""Nodes with GPUs as NVML would describe them: what the asking program prints, made by hand.

Shapes of answers follow NVML's documentation; nothing here was recorded on hardware.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from cluster.gpu.ask import GPU_QUESTIONS
from cluster.gpu.assemble import assemble
from cluster.gpu.report import GpuNodeReport
from cluster.gpu.transcript import Transcript, parse
from cluster.measured import Measured

NOT_SUPPORTED = {"error": "NotSupported", "text": "Not Supported"}
Pairs = Mapping[tuple[int, int], tuple[Any, Any]]
"""Of pairs of GPUs: their common ancestor, and the status of the way over NVLink."""

SYS, NODE_LEVEL, PIX = 50, 40, 10
SWITCH, GPU = 2, 0
GB = 1 << 30

# Links between the GPUs of a DGX-1 with V100: six of each, one or two to a neighbour.
DGX1 = (
    "X1122...",
    "1X21.2..",
    "12X2..1.",
    "212X...1",
    "2...X112",
    ".2..1X21",
    "..1.12X2",
    "...12121",
)


def bus(index: int) -> str:
    """The address as NVML writes it: eight digits of domain, upper case."""
    return f"00000000:{0x1A + index:02X}:00.0"


def address(index: int) -> str:
    """The same as the kernel writes it."""
    return f"0000:{0x1A + index:02x}:00.0"


def uuid(index: int) -> str:
    """A name of the form NVML gives."""
    return f"GPU-0000000{index}-aaaa-bbbb-cccc-000000000000"


def well(index: int, **changes: Any) -> dict[str, Any]:
    """Everything that a data-centre GPU answers; a change is a value, or an error as a dict."""
    return {
        "handle": True,
        "name": "NVIDIA H200",
        "uuid": uuid(index),
        "bus_id": bus(index),
        "memory": [0, 141 * GB],
        "ecc": [1, 1],
        "uncorrected": 0,
        "uncorrected_ever": 0,
        "retired": NOT_SUPPORTED,
        "retirement_pending": NOT_SUPPORTED,
        "remapped": [0, 0, 0, 0],
        "recovery": 0,
        "fabric": [3, 0],
        "temperature": 31,
        "slowed_by": 1,
        "mig": [0, 0],
        "persistence": 1,
        "compute_mode": 0,
        "compute": [],
        "graphics": [],
        "nvlinks": [[True, SWITCH, "00000000:05:00.0"]] * 18,
        **changes,
    }


def bare(index: int, **changes: Any) -> dict[str, Any]:
    """A GPU that offers nothing beyond what it is."""
    known = {"handle": True, "name": "NVIDIA GeForce", "uuid": uuid(index), "bus_id": bus(index)}
    return {**dict.fromkeys(GPU_QUESTIONS, NOT_SUPPORTED), **known, **changes}


def lines(gpus: Sequence[Mapping[str, Any]], pairs: Pairs | None = None) -> list[str]:
    """The program's output; pairs not given meet at SYS and have no way over NVLink (5)."""
    said = _said(gpus, pairs or {})
    return [json.dumps({"of": of, "asked": asked, **_answer(value)}) for of, asked, value in said]


def _said(
    gpus: Sequence[Mapping[str, Any]], pairs: Pairs
) -> Iterator[tuple[tuple[int, ...], str, Any]]:
    yield (), "init", True
    yield (), "driver", "580.65.06"
    yield (), "cuda", 13000
    yield (), "nvml", "13.580.65.06"
    yield (), "count", len(gpus)
    for index, answers in enumerate(gpus):
        yield from (((index,), asked, value) for asked, value in answers.items())
    for pair in combinations(range(len(gpus)), 2):
        ancestor, peer = pairs.get(pair, (SYS, 5))
        yield pair, "ancestor", ancestor
        yield pair, "p2p", peer
    yield (), "end", True


def _answer(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"value": value}


def transcript(text: Sequence[str], failure: str = "", **more: Any) -> Transcript:
    """As the probe would have it, with NUMA node 0 for every GPU."""
    numa: dict[str, Measured[int]] = {address(index): 0 for index in range(16)}
    return replace(parse("\n".join(text), failure), **{"numa": numa, "xid": {}, **more})


def report(
    gpus: Sequence[Mapping[str, Any]],
    pairs: Pairs | None = None,
    environment: Mapping[str, str] | None = None,
    **more: Any,
) -> GpuNodeReport:
    """What the probe makes of a node."""
    return assemble(transcript(lines(gpus, pairs), **more), environment or {})


def nvswitch_box() -> GpuNodeReport:
    """Eight H200, each with eighteen links to switches."""
    every = dict.fromkeys(combinations(range(8), 2), (SYS, 0))
    return report([well(index) for index in range(8)], every)


def pairs_box() -> GpuNodeReport:
    """Four GPUs on PCIe, 0-1 and 2-3 joined by a bridge of four links."""

    def links(index: int) -> list[list[Any]]:
        return [[True, GPU, bus(index ^ 1)]] * 4

    gpus = [well(i, name="NVIDIA A40", nvlinks=links(i), fabric=NOT_SUPPORTED) for i in range(4)]
    return report(gpus, {(0, 1): (PIX, 0), (2, 3): (PIX, 0), (0, 2): (NODE_LEVEL, 5)})


def dgx1() -> GpuNodeReport:
    """Eight V100 in the hybrid cube mesh."""
    gpus = [
        well(
            index,
            name="Tesla V100-SXM2-16GB",
            remapped=NOT_SUPPORTED,
            retired=0,
            retirement_pending=0,
            fabric=NOT_SUPPORTED,
            mig=NOT_SUPPORTED,
            nvlinks=[
                [True, GPU, bus(other)]
                for other, count in enumerate(row)
                if count.isdigit() and other != index
                for _ in range(int(count))
            ],
        )
        for index, row in enumerate(DGX1)
    ]
    return report(gpus)
