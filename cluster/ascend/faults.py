"""From health and error codes to a fault level, and from that to: may a device be given work?

Codes and levels are those of MindCluster (its table of codes and its documentation of
resumable training, 2026-08), cut to the codes most worth knowing. Which level permits work
is ours: MindCluster isolates a chip from RestartRequest upwards while the alarm lasts.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.ascend.values import Health, Measured, Unmeasured


class Level(enum.Enum):
    """MindCluster's fault levels of a chip, from nothing to the worst (its order of precedence)."""

    NORMAL = "NormalNPU"
    NOT_HANDLE = "NotHandleFault"
    SUB_HEALTH = "SubHealthFault"
    RESTART_REQUEST = "RestartRequest"
    RESTART_BUSINESS = "RestartBusiness"
    FREE_RESTART = "FreeRestartNPU"
    RESTART = "RestartNPU"
    PRE_SEPARATE = "PreSeparateNPU"
    SEPARATE = "SeparateNPU"

    @property
    def precedence(self) -> int:
        """The highest of several decides."""
        return list(Level).index(self)

    @property
    def permits_work(self) -> bool:
        """Whether a device at this level may be given new work."""
        return self in (Level.NORMAL, Level.NOT_HANDLE, Level.SUB_HEALTH)


@dataclass(frozen=True)
class Fault:
    """What an error code stands for."""

    level: Level
    text: str


def _of(level: Level, **texts: str) -> dict[str, Fault]:
    return {code.lstrip("_"): Fault(level, text) for code, text in texts.items()}


FAULTS: dict[str, Fault] = {
    **_of(
        Level.NOT_HANDLE,
        # MindCluster makes it PreSeparateNPU after 20 s; one look cannot know how long it lasts.
        _81078603="RoCE port link went down",
        _80E00209="HBM high temperature alarm",
        _80E01809="HBM multi-bit ECC in patrol",
        _80E18401="HBM has 16 or more isolated lines",
        _8C2FA009="chip start-up completed",
        _8C1F8608="no text known",
        _4C1F8608="no text known",
    ),
    **_of(
        Level.SUB_HEALTH,
        _81078605="some lanes of the RoCE port are faulty",
        _80E20207="SoC non-fatal high temperature",
    ),
    **_of(
        Level.RESTART_REQUEST,
        _80C98000="AI Core instruction error",
        _80C98002="AI Core input error",
        _80C98003="AI Core configuration error",
        _80C98008="AI Core multi-bit ECC",
        _80C98009="AI Core bus error",
        _80C9800A="AI Core timeout",
        _80CB8002="AIV input error",
        _80CB8008="AIV ECC",
        _80CB8009="AIV bus error",
        _80BB8000="RoCE abnormal",
        _80BB8008="RoCE ECC",
        _80BB800A="RoCE timeout",
    ),
    **_of(
        Level.RESTART_BUSINESS,
        _80E01801="HBM multi-bit ECC on access",
        _8C204E00="tsdaemon heartbeat lost",
    ),
    **_of(Level.FREE_RESTART, _8C084E00="ADDA heartbeat lost"),
    **_of(
        Level.RESTART,
        _80E18404="HBM storm of uncorrectable errors",
        _80E18005="HBM controller parity",
        _80DE1801="DDR multi-bit ECC",
        _80C98001="AI Core reset failure",
        _8C03A000="ProcMgr heartbeat lost",
        _80FA4E00="TS heartbeat lost",
        _812E4E00="TS firmware heartbeat lost",
        _40F84E00="inter-board heartbeat lost",
        _80B98000="PCIe module fault",
        _80B98008="PCIe ECC",
    ),
    **_of(
        Level.SEPARATE,
        _80E0020B="HBM fatal high temperature",
        _80E18402="HBM has reached 64 isolated lines",
        _80818C00="computes imprecisely, high risk",
        _80818C05="computes imprecisely, high risk",
    ),
}
"""Error code, as npu-smi prints it, to what it stands for."""

ESCALATING = frozenset(
    {
        "80C98000",
        "80C98008",
        "80CB8008",
        "80BB8000",
        "80BB8008",
        "80E01801",
        "80DE1801",
        "80B98000",
        "80B98008",
    }
)
"""Of these the ECC and module faults for which MindCluster separates a chip by hand at the second
within 24 h (its faultCustomization.json, 2026). Patrol's 80E01809 and the bus errors of AI Core
and AIV are not among them.
"""


@dataclass(frozen=True)
class Judgement:
    """The level of a device, whether it may be given work, and a reason where there is one."""

    level: Measured[Level]
    usable: bool
    why: str = ""


def judge(health: Measured[Health], codes: Measured[tuple[str, ...]]) -> Judgement:
    """The worst known level decides; what nobody stated is never good enough for work.

    A Warning without a code of ours permits work (it is a minor alarm by npu-smi's account);
    an Alarm or Critical does not. MindCluster goes by severity there; its rule was not read.
    """
    if isinstance(health, Unmeasured):
        return Judgement(health, usable=False, why=health.why)
    if health is Health.UNKNOWN:
        return _unknown("npu-smi says UNKNOWN: absent or not started", usable=False)
    if isinstance(codes, Unmeasured):
        return Judgement(codes, usable=False, why=codes.why)
    worst = max(_levels(codes), key=lambda level: level.precedence, default=None)
    strange = [code for code in codes if code not in FAULTS]
    if worst is not None and (not worst.permits_work or not strange):
        return Judgement(worst, usable=worst.permits_work, why=describe(codes))
    if strange:
        return _unknown(f"{describe(codes)}: level unknown", usable=health is Health.WARNING)
    if health is Health.OK:
        return Judgement(Level.NORMAL, usable=True)
    return _unknown(f"{health.value} without an error code", usable=health is Health.WARNING)


def describe(codes: Iterable[str]) -> str:
    """The codes with their texts, for people."""
    return ", ".join(f"{c} ({FAULTS[c].text})" if c in FAULTS else f"{c} (unknown)" for c in codes)


def _levels(codes: Iterable[str]) -> list[Level]:
    return [FAULTS[code].level for code in codes if code in FAULTS]


def _unknown(why: str, *, usable: bool) -> Judgement:
    return Judgement(Unmeasured(why), usable=usable, why=why)
