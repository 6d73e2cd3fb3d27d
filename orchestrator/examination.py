"""A supervisor's look at ranks that are suspected to hang, taken before they are stopped.

It goes on in small steps beside everything else that a supervisor does. A rank with the handler
of `stack_signal` is asked for its stacks; no other process ever gets that signal, since it would
end of it. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import process_facts, processes
from orchestrator.stack_signal import STACK_SIGNAL

_STILL = 0.1
"""Seconds without growth after which a file of stacks counts as whole."""


@dataclass
class Subject:
    """One process under examination; `stacks` is where its stacks would come."""

    rank: int
    pid: int
    stacks: Path
    begin: int = 0
    size: int = 0
    grown_at: float | None = None
    asked: bool = False
    silent_because: str = "it was not asked"
    cpu_before: float | None = None

    def ask(self) -> None:
        """Have it write its stacks, if it is sure to survive that."""
        self.cpu_before = process_facts.cpu_seconds(self.pid)
        self.begin = self.size = _size(self.stacks)
        target = process_facts.nearest_that_catches(self.pid, STACK_SIGNAL)
        if target is None or not self.stacks.exists():
            self.silent_because = "it has no handler that writes them"
        elif process_facts.stopped(target):
            self.silent_because = "its process is stopped"
        else:
            processes.kill_quietly(target, STACK_SIGNAL)
            self.asked = True

    def told(self, now: float) -> bool:
        """Whether nothing more is to be expected of it."""
        size = _size(self.stacks)
        if size != self.size:
            self.size, self.grown_at = size, now
        return not self.asked or (self.grown_at is not None and now - self.grown_at >= _STILL)

    def finding(self, seconds: float) -> dict[str, Any]:
        """What was found after `seconds`; of no time at all: without its threads."""
        found = process_facts.facts(self.pid, with_threads=seconds > 0)
        before, after = self.cpu_before, found.get("cpu_seconds")
        used = None if before is None or after is None else round(after - before, 3)
        why = self.silent_because
        if self.asked:
            why = "it wrote none" if self.size == self.begin else ""
        return {
            "rank": self.rank,
            **found,
            "cpu_used": used,
            "watched_seconds": round(seconds, 3),
            "stacks": [self.begin, self.size] if self.asked else [0, 0],
            "no_stacks": why,
        }


@dataclass
class Examination:
    """A look at one attempt, begun at `begun_at` and over at `ends_at` (CLOCK_MONOTONIC)."""

    attempt: int
    subjects: Sequence[Subject]
    begun_at: float
    ends_at: float
    _left: list[Subject] = field(default_factory=list)

    def begin(self) -> None:
        """Ask every rank for its stacks; without time only the kernel is asked."""
        for subject in self.subjects if self.ends_at > self.begun_at else ():
            subject.ask()
        self._left = list(self.subjects)

    def over(self, now: float) -> bool:
        """Whether all have answered, or there is no more time."""
        self._left = [subject for subject in self._left if not subject.told(now)]
        return not self._left or now >= self.ends_at

    def findings(self, now: float) -> dict[str, Any]:
        """The message that tells a controller."""
        seconds = now - self.begun_at if self.ends_at > self.begun_at else 0.0
        return {
            "event": "examined",
            "attempt": self.attempt,
            "ranks": [subject.finding(seconds) for subject in self.subjects],
        }


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
