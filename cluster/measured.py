"""A value that was measured, or the reason why it was not; what probes of all devices share."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeAlias, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Unmeasured:
    """What could not be found out, and why: neither zero, nor absent, nor healthy."""

    why: str


Measured: TypeAlias = _T | Unmeasured
"""`Measured[int]`: a number, or the reason why there is none."""


_IDLE_SHARE = 0.10


@dataclass(frozen=True)
class Memory:
    """A device's memory in MB."""

    used: int
    total: int

    @property
    def free(self) -> bool:
        """Whether nobody uses it: a 910B shows 5 % in use all the same."""
        return self.used <= _IDLE_SHARE * self.total

    def __str__(self) -> str:
        return f"{self.used / 1024:.1f} of {self.total / 1024:.0f} GB in use"


def as_document(value: Any) -> Any:
    """Values as JSON has them; what was not measured is `{"unmeasured": why}`."""
    if isinstance(value, Unmeasured):
        return {"unmeasured": value.why}
    if isinstance(value, enum.Enum):
        return value.value
    if is_dataclass(value):
        return {field.name: as_document(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [as_document(one) for one in value]
    if isinstance(value, Mapping):
        return {name: as_document(one) for name, one in value.items()}
    return value
