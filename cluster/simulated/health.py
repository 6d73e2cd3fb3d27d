"""Health and error codes of a simulated device, by the faults that are on."""

from __future__ import annotations

from cluster.simulated.node import SimulatedDevice, SimulatedNode

_WORDS = {"warning": "Warning", "alarm": "Alarm", "critical": "Critical", "unknown": "UNKNOWN"}


def health_of(node: SimulatedNode, device: SimulatedDevice) -> tuple[str, tuple[str, ...]]:
    """The word of npu-smi and the codes of the device."""
    for kind, word in _WORDS.items():
        fault = node.fault(kind, device.physical)
        if fault is not None:
            return word, tuple(code.upper() for code in fault.value.split(",") if code)
    return "OK", ()
