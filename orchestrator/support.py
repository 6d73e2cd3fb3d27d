"""What `run` refuses by name because nothing acts on it yet: a given field is never ignored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.jobfile import Problem
from orchestrator.spec import JobSpec, to_document


@dataclass(frozen=True)
class _Gap:
    """A field whose behaviour is missing, and the values of it that can run all the same."""

    path: str
    allowed: str
    works: Callable[[JobSpec], bool] = lambda spec: False


_LEAVE_OUT = "leaving it out"

GAPS: tuple[_Gap, ...] = (
    _Gap(
        "resources.ranks_per_node",
        "the number of resources.ranks: one node",
        lambda spec: spec.resources.nodes == 1,
    ),
    _Gap("resources.memory_per_rank", _LEAVE_OUT),
    _Gap("resources.nodes", _LEAVE_OUT),
    _Gap("notify", _LEAVE_OUT),
)
"""In the order of the job file. Remove a line when its behaviour is built."""


def not_built(spec: JobSpec) -> tuple[Problem, ...]:
    """The fields given in the job file that `run` cannot honour yet; defaults are never among them.

    The problems have paths but no lines. Empty: the job can run.
    """
    gaps = [gap for gap in GAPS if gap.path in spec.given and not gap.works(spec)]
    document = to_document(spec) if gaps else {}
    return tuple(
        Problem(None, None, gap.path, _found(document, gap.path), gap.allowed, _HINT)
        for gap in gaps
    )


_HINT = "it is valid, but `run` does not act on it yet"


def _found(document: dict[str, Any], path: str) -> str:
    value: Any = document
    for name in path.split("."):
        value = value[name]
    return "a section" if isinstance(value, (dict, list)) else str(value)
