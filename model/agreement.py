"""Digests of the trainable parameters, told now and then: on all ranks they must be the same.

Statistics of batch normalisation are left out: every rank has its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from orchestrator.rank import Rank

if TYPE_CHECKING:
    from mindspore import Parameter

EVERY_STEPS = 50
PART_BYTES = 64 << 20
"""About how much is read for one digest: some 20 ms of 50 steps, whatever the network's size."""


class Agreement:
    """Tells digests of one part of the parameters after another; all ranks of the same part."""

    def __init__(self, parameters: Sequence[Parameter], rank: Rank, start: int) -> None:
        """`start` is the step after which all ranks had the same: they had just loaded it."""
        ends = accumulate(parameter.nbytes for parameter in parameters)
        parts: dict[int, list[Parameter]] = {}
        for parameter, end in zip(parameters, ends, strict=True):
            parts.setdefault((end - parameter.nbytes) // PART_BYTES, []).append(parameter)
        self.parts = tuple(parts.values())
        self._rank = rank
        self._compared = [start] * len(self.parts)

    def after(self, step: int) -> None:
        """Tell a digest if global step `step` is one after which all ranks do."""
        number, rest = divmod(step, EVERY_STEPS)
        if rest or self._rank.size == 1 or not self.parts:
            return
        part = number % len(self.parts)
        self._rank.digest(step, digest(self.parts[part]), since=self._compared[part])
        self._compared[part] = step


def digest(parameters: Sequence[Parameter]) -> int:
    """The CRC-32 of the values of `parameters`, one after the other."""
    value = 0
    for parameter in parameters:
        value = zlib.crc32(parameter.asnumpy(), value)
    return value
