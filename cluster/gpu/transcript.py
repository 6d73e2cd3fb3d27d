"""What the asking program said, before anybody makes sense of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.gpu.values import Failure
from cluster.measured import Measured, Unmeasured

Subject = tuple[int, ...]
"""No number: the node; one: a GPU; two: a pair."""

NODE: Subject = ()

NOT_OFFERED = frozenset(
    {
        "ArgumentVersionMismatch",
        "Deprecated",
        "FunctionNotFound",
        "InvalidArgument",
        "NoData",
        "NoPermission",
        "NotFound",
        "NotSupported",
        "VgpuEccNotSupported",
    }
)
"""Errors by which NVML says that it does not tell, of a GPU that may be well all the same."""

_NEVER_WELL = frozenset({"GpuIsLost", "InsufficientPower", "IrqIssue", "ResetRequired"})
_ALWAYS_OFFERED = frozenset({"name", "uuid", "bus_id", "memory"})


@dataclass(frozen=True)
class Transcript:
    """Answers by subject and question; NUMA nodes by bus id, names of processes by pid.

    `silence` says why there are no more answers, empty if the program came to its end.
    """

    answers: Mapping[tuple[Subject, str], Any] = field(default_factory=dict)
    failures: Mapping[tuple[Subject, str], Failure] = field(default_factory=dict)
    silence: str = ""
    numa: Mapping[str, Measured[int]] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    xid: Measured[Mapping[str, tuple[int, ...]]] = Unmeasured("not read")

    def said(self, of: Subject, asked: str) -> Measured[Any]:
        """NVML's answer, or why there is none."""
        if (of, asked) in self.answers:
            return self.answers[of, asked]
        failure = self.failures.get((of, asked)) or self.failures.get((of, "handle"))
        if failure is not None:
            return Unmeasured(f"NVML: {failure.text}")
        return Unmeasured(self.silence or "not asked")

    def failed(self, of: Subject) -> tuple[Failure, ...]:
        """What NVML says of no GPU that is well, each once; not to get at it at all is one."""
        found = [
            failure
            for (subject, asked), failure in self.failures.items()
            if subject == of and _tells(asked, failure.kind)
        ]
        return tuple(dict.fromkeys(found))

    def complete(self, of: Subject, questions: Iterable[str]) -> bool:
        """Whether each question was answered, if only by a failure."""
        return all((of, q) in self.answers or (of, q) in self.failures for q in questions)


def _tells(asked: str, kind: str) -> bool:
    if kind in _NEVER_WELL or asked == "handle":
        return True
    return asked in _ALWAYS_OFFERED and kind not in NOT_OFFERED


def parse(text: str, failure: str) -> Transcript:
    """Read the program's lines; `failure` says how it ended, empty for well."""
    answers: dict[tuple[Subject, str], Any] = {}
    failures: dict[tuple[Subject, str], Failure] = {}
    last = ""
    for key, line in _lines(text):
        if "error" in line:
            failures[key] = Failure(str(line["error"]), str(line.get("text", "")))
        else:
            answers[key] = line.get("value")
        last = f", after {_word(*key)}"
    ended = (NODE, "end") in answers or (NODE, "init") in failures
    silence = failure or ("" if ended else "the program that asks NVML stopped")
    return Transcript(answers, failures, silence and silence + last)


def _lines(text: str) -> Iterator[tuple[tuple[Subject, str], dict[str, Any]]]:
    """Every whole line that is one of ours; a driver's library may print what it likes."""
    for line in text.splitlines():
        try:
            held = json.loads(line)
            yield (tuple(map(int, held["of"])), str(held["asked"])), held
        except (ValueError, TypeError, KeyError, RecursionError):
            continue


def _word(of: Subject, asked: str) -> str:
    return f"{asked} of {', '.join(f'GPU {one}' for one in of)}" if of else asked
