"""Faults of a rehearsal node: `KIND[:DEVICE][=VALUE]`, DEVICE being a physical id."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class _Kind:
    """What a fault needs: a device (`must`, `may`, or `none`), a value, and what it does."""

    device: str
    does: str
    value: str = ""
    default: str = ""


_CODES = r"[0-9A-Fa-f]{8}(,[0-9A-Fa-f]{8})*"
_PROCESS = r"\d{1,7}/[A-Za-z0-9_.-]{1,24}/\d{1,6}"
_FACTOR = r"[2-9]|[1-9]\d"
_TAKES = {
    _CODES: "codes of 8 hexadecimal digits, by comma",
    _PROCESS: "PID/NAME/MB",
    _FACTOR: "a whole number from 2 to 99",
}

KINDS: dict[str, _Kind] = {
    "lost": _Kind("must", "npu-smi no longer lists the device; /dev/davinciN stays"),
    "warning": _Kind("must", "health Warning, with codes", _CODES, "80E20207"),
    "alarm": _Kind("must", "health Alarm, with codes", _CODES, "80C98000"),
    "critical": _Kind("must", "health Critical, with codes", _CODES, "80E18402"),
    "unknown": _Kind("must", "health UNKNOWN"),
    "driver-down": _Kind("none", "npu-smi ends with 187: the driver does not answer"),
    "denied": _Kind("none", "npu-smi and hccn_tool refuse: not permitted"),
    "hang": _Kind("may", "the tools do not answer, for the device or at all"),
    "no-ip": _Kind("must", "hccn_tool prints no address"),
    "dashes-ip": _Kind("must", "hccn_tool prints the address -.-.-.-"),
    "link-down": _Kind("must", "the link is DOWN"),
    "unreachable": _Kind("must", "the network's health is Unreachable"),
    "foreign": _Kind(
        "must", "a process PID/NAME/MB holds the device", _PROCESS, "4711/python/2048"
    ),
    "slow": _Kind("must", "computes that many times slower in `devices check`", _FACTOR, "3"),
    "wrong": _Kind("must", "computes wrongly in `devices check`"),
}


class BadFault(ValueError):
    """A text that is no fault: says what was found and what is allowed."""


@dataclass(frozen=True)
class Fault:
    """One fault that is on; `device` None means the whole node."""

    kind: str
    device: int | None = None
    value: str = ""

    def __str__(self) -> str:
        where = "" if self.device is None else f":{self.device}"
        return self.kind + where + (f"={self.value}" if self.value else "")

    @property
    def place(self) -> tuple[str, int | None]:
        """What two faults may not share: switching one on replaces the other."""
        group = "health" if self.kind in ("warning", "alarm", "critical", "unknown") else self.kind
        return ("ip" if group.endswith("-ip") else group), self.device


def parse(text: str, devices: Collection[int]) -> Fault:
    """The fault of a text. Raises BadFault for an unknown kind, device or value."""
    match = re.fullmatch(r"([a-z-]+)(?::(\d{1,4}))?(?:=(.*))?", text, re.ASCII)
    kind = KINDS.get(match[1]) if match else None
    if match is None or kind is None:
        raise BadFault(f"{text!r}: expected KIND[:DEVICE][=VALUE] with KIND one of {_kinds()}")
    device = int(match[2]) if match[2] else None
    if device is None and kind.device == "must":
        raise BadFault(
            f"{text!r}: {match[1]} is of a device: {match[1]}:N, N one of {_ids(devices)}"
        )
    if device is not None and kind.device == "none":
        raise BadFault(f"{text!r}: {match[1]} is of the whole node; leave :{device} out")
    if device is not None and device not in devices:
        raise BadFault(f"{text!r}: there is no device {device}; this node has {_ids(devices)}")
    value = match[3] if match[3] is not None else kind.default
    if not re.fullmatch(kind.value, value, re.ASCII):
        raise BadFault(f"{text!r}: {_expected(match[1], kind)}")
    return Fault(match[1], device, value)


def switch_on(faults: Iterable[Fault], new: Fault) -> tuple[Fault, ...]:
    """The faults with `new`, in place of one that it contradicts."""
    return (*(fault for fault in faults if fault.place != new.place), new)


def switch_off(faults: Iterable[Fault], text: str) -> tuple[Fault, ...]:
    """The faults without those of `KIND[:DEVICE]`, or without any for `all`.

    Raises BadFault if nothing of the kind is on.
    """
    held = tuple(faults)
    kind, _, device = text.partition("=")[0].partition(":")
    left = tuple(
        fault
        for fault in held
        if text != "all" and (fault.kind != kind or device not in ("", str(fault.device)))
    )
    if len(left) == len(held) and text != "all":
        on = ", ".join(map(str, held)) or "none"
        raise BadFault(f"{text!r}: no such fault is on; on are: {on}")
    return left


def _expected(name: str, kind: _Kind) -> str:
    if not kind.value:
        return f"{name} takes no value"
    return f"{name} takes {_TAKES[kind.value]}, e.g. {name}:0={kind.default}"


def _kinds() -> str:
    return ", ".join(KINDS)


def _ids(devices: Collection[int]) -> str:
    return ",".join(map(str, sorted(devices)))
