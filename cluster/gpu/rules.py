"""From what NVML states of a GPU to: may it be given work, why not, what may hinder. One table.

Taken from NVIDIA's documentation of NVML, Xid errors and memory error management; tried on no
hardware. What is merely not offered (a desktop GPU has no ECC) speaks neither for nor against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.gpu.values import Gpu, RemappedRows, Switch
from cluster.measured import Memory

_UNSEEN_MB = 2048  # more than a driver keeps for itself where it counts that as used

XID: dict[int, str] = {
    46: "the GPU stopped processing",
    48: "double-bit ECC error",
    62: "internal micro-controller halt",
    63: "a page was retired or a row remapped",
    64: "retiring a page or remapping a row failed",
    74: "NVLink error",
    79: "the GPU fell off the bus",
    92: "many single-bit ECC errors",
    94: "contained ECC error",
    95: "uncontained ECC error",
    119: "the GPU's system processor did not answer",
    120: "the GPU's system processor failed",
}
"""Xid codes that speak of the GPU and not of a program on it."""


@dataclass(frozen=True)
class Rule:
    """`says` gives the reason, empty where the rule does not apply; `bars` keeps work away."""

    says: Callable[[Gpu], str]
    bars: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a GPU may be given work, why not, and what may hinder work on it."""

    usable: bool
    why: str
    concerns: tuple[str, ...]


def judge(gpu: Gpu) -> Verdict:
    """Every rule that applies is told."""
    said = [(rule.bars, rule.says(gpu)) for rule in RULES]
    why = "; ".join(text for bars, text in said if bars and text)
    return Verdict(not why, why, tuple(text for bars, text in said if text and not bars))


def _failed(gpu: Gpu) -> str:
    return "; ".join(one.text + _REMEDIES.get(one.kind, "") for one in gpu.failures)


_REMEDIES = {
    "GpuIsLost": ": it fell off the bus, restart the node",
    "InsufficientPower": ": look at its power cables",
    "NoPermission": ": this user, or this container, may not open it",
    "ResetRequired": ": `nvidia-smi -r -i` and its number, as root, resets it",
}


def _above_zero(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _reset(gpu: Gpu) -> str:
    return f"with nothing running on it, `nvidia-smi -r -i {gpu.index}` as root resets it"


def _mig(gpu: Gpu) -> str:
    if not (isinstance(gpu.mig, Switch) and gpu.mig.on):
        return ""
    return (
        "in MIG mode, and muster gives out whole GPUs: "
        f"`nvidia-smi -i {gpu.index} -mig 0` as root ends it"
    )


def _mig_later(gpu: Gpu) -> str:
    later = isinstance(gpu.mig, Switch) and gpu.mig.after_reset and not gpu.mig.on
    return "will be in MIG mode after its next reset" if later else ""


def _uncorrected(gpu: Gpu) -> str:
    if not _above_zero(gpu.uncorrected):
        return ""
    return f"{gpu.uncorrected} uncorrected ECC errors since the driver was loaded; {_reset(gpu)}"


def _uncorrected_ever(gpu: Gpu) -> str:
    if not _above_zero(gpu.uncorrected_ever) or _above_zero(gpu.uncorrected):
        return ""
    return f"{gpu.uncorrected_ever} uncorrected ECC errors in its life"


def _retirement(gpu: Gpu) -> str:
    return f"pages wait to be retired; {_reset(gpu)}" if gpu.retirement_pending is True else ""


def _retired(gpu: Gpu) -> str:
    return f"{gpu.retired_pages} pages retired" if _above_zero(gpu.retired_pages) else ""


def _remapping(gpu: Gpu) -> str:
    rows = gpu.remapped_rows
    if not isinstance(rows, RemappedRows):
        return ""
    return "remapping a row of its memory failed: have the GPU replaced" if rows.failed else ""


def _remapping_later(gpu: Gpu) -> str:
    """By NVIDIA's account new work may be started: the bad rows are kept from it."""
    rows = gpu.remapped_rows
    pending = isinstance(rows, RemappedRows) and rows.pending and not rows.failed
    return f"rows of its memory wait to be remapped; {_reset(gpu)}" if pending else ""


def _remapped(gpu: Gpu) -> str:
    rows = gpu.remapped_rows
    if not isinstance(rows, RemappedRows) or not rows.uncorrectable:
        return ""
    return f"{rows.uncorrectable} rows remapped after uncorrectable errors"


def _recovery(gpu: Gpu) -> str:
    asked = isinstance(gpu.recovery, str) and gpu.recovery
    return f"the driver asks for it: {gpu.recovery}" if asked else ""


def _prohibited(gpu: Gpu) -> str:
    if gpu.compute_mode != "prohibited":
        return ""
    return f"compute mode prohibited: `nvidia-smi -i {gpu.index} -c 0` as root permits work"


def _fabric(gpu: Gpu) -> str:
    if gpu.fabric not in ("not started", "in progress", "failed"):
        return ""
    return f"NVSwitch fabric {gpu.fabric}: CUDA may not start before nvidia-fabricmanager is done"


def _slowed(gpu: Gpu) -> str:
    by = gpu.slowed_by if isinstance(gpu.slowed_by, tuple) else ()
    return f"slowed down by {', '.join(by)}" if by else ""


def _unseen(gpu: Gpu) -> str:
    held = gpu.memory.used if isinstance(gpu.memory, Memory) else 0
    if gpu.processes != () or held <= _UNSEEN_MB:
        return ""
    return f"{held} MB in use by nobody who can be seen from here (another container?)"


def _xid(gpu: Gpu) -> str:
    codes = gpu.xid if isinstance(gpu.xid, tuple) else ()
    told = [f"{code} ({XID[code]})" for code in codes if code in XID]
    return f"the kernel log has Xid {', '.join(told)} since the start" if told else ""


RULES: tuple[Rule, ...] = (
    Rule(_failed, bars=True),
    Rule(_recovery, bars=True),
    Rule(_uncorrected, bars=True),
    Rule(_retirement, bars=True),
    Rule(_remapping, bars=True),
    Rule(_mig, bars=True),
    Rule(_prohibited, bars=True),
    Rule(_fabric, bars=False),
    Rule(_slowed, bars=False),
    Rule(_unseen, bars=False),
    Rule(_xid, bars=False),
    Rule(_uncorrected_ever, bars=False),
    Rule(_retired, bars=False),
    Rule(_remapped, bars=False),
    Rule(_remapping_later, bars=False),
    Rule(_mig_later, bars=False),
)
"""The most telling first."""
