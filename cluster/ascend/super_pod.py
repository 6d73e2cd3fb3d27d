"""Where an A3 chip is in its super-pod: `npu-smi info -t spod-info`. Pure; nothing raises.

The labels are those of the tool's documentation. What it prints for a server that is in no
super-pod was not seen: a number of 32 set bits, or none, is taken for "not in one".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.ascend.values import Absent, Measured, Unmeasured

_NUMBER = re.compile(r"[0-9]{1,10}")
_NOBODY = (1 << 32) - 1


@dataclass(frozen=True)
class SuperPodAnswer:
    """The SDID, which a rank table calls super_device_id, and the id of the super-pod."""

    sdid: Measured[int]
    pod: Measured[int]


def parse_super_pod(text: str) -> SuperPodAnswer:
    """Read the answer for one chip."""
    split = (line.partition(":") for line in text.splitlines())
    pairs = [(label.strip(), value.strip()) for label, colon, value in split if colon]
    return SuperPodAnswer(_stated(pairs, "SDID"), _stated(pairs, "Super Pod ID"))


def _stated(pairs: list[tuple[str, str]], label: str) -> Measured[int]:
    """The one number under a label; what stands twice is two chips' answer."""
    found = [value for name, value in pairs if name == label]
    if len(found) != 1 or not _NUMBER.fullmatch(found[0]):
        return Unmeasured(f"npu-smi -t spod-info states no {label}: {str(found)[:60]}")
    number = int(found[0])
    if number >= _NOBODY:
        return Absent(f"npu-smi -t spod-info states {label} {number}: not in a super-pod")
    return number
