"""Values of an Ascend device as its tools state them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cluster.measured import Measured, Memory, Unmeasured

__all__ = ["Absent", "Health", "Link", "Measured", "Memory", "NetHealth", "Process", "Unmeasured"]


@dataclass(frozen=True)
class Absent(Unmeasured):
    """The tool was asked and said that there is none: known, and still nothing to work with."""


class Health(enum.Enum):
    """The health words of npu-smi, from well to worst; the most severe active alarm wins."""

    OK = "OK"
    WARNING = "Warning"
    ALARM = "Alarm"
    CRITICAL = "Critical"
    UNKNOWN = "UNKNOWN"

    @property
    def severity(self) -> int:
        """0 for OK, rising. UNKNOWN (absent or not started) is above all."""
        return list(Health).index(self)


class Link(enum.Enum):
    """The state of a device's network port as `hccn_tool -link -g` prints it."""

    UP = "UP"
    DOWN = "DOWN"


class NetHealth(enum.Enum):
    """What `hccn_tool -net_health -g` prints."""

    SUCCESS = "Success"
    INIT = "Init"
    FAULT = "Fault"
    SOCKET_FAILED = "Socket failed"
    RECEIVE_TIMEOUT = "Receive timeout"
    UNREACHABLE = "Unreachable"
    TIME_EXCEEDED = "Time exceeded"
    DETECT_IP_SET = "Detect ip set"

    @property
    def well(self) -> bool:
        """Whether the network can be relied on, or has not been checked by the device yet."""
        return self in (NetHealth.SUCCESS, NetHealth.INIT)


@dataclass(frozen=True)
class Process:
    """A process that holds a device; `memory` in MB on the device."""

    pid: int
    name: str
    memory: int
