"""The queues of a head, from `queues.yaml` in MUSTER_HOME: which there are, and their quotas.

    queues:
      default: {}
      night: {quota: {ascend: 16, cpu: 4}, priority_max: 60}

Without the file there is only `default`, without a quota; `default` is there in any case.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.device import DeviceKind
from orchestrator import spec
from orchestrator.jobfile.fields import Integer, did_you_mean
from orchestrator.jobfile.loading import text_of
from orchestrator.jobfile.problems import JobFileError, Problem, Report, in_words, quoted
from orchestrator.jobfile.reading import read
from orchestrator.jobfile.sections import Entries, Section
from orchestrator.queueing.values import Quota

DEFAULT = spec.Queue().name
MAX_DEVICES = 1_000_000
HIGHEST = 100

_FILE = Section(
    required=("queues",),
    fields={
        "queues": Entries(
            keys=r"[a-z0-9][a-z0-9._-]{0,62}",  # what `queue.name` of a job file may be
            keys_called="1 to 63 of a-z 0-9 . _ -, the first a letter or digit",
            values=Section(
                fields={
                    "quota": Section(
                        fields={kind.value: Integer(low=0, high=MAX_DEVICES) for kind in DeviceKind}
                    ),
                    "priority_max": Integer(low=0, high=HIGHEST),
                }
            ),
        )
    },
)


@dataclass(frozen=True)
class QueueRule:
    """What holds in a queue: devices by kind (a kind not named has no quota), highest priority."""

    quota: Mapping[DeviceKind, int] = field(default_factory=dict)
    priority_max: int = HIGHEST


@dataclass(frozen=True)
class Queues:
    """All queues of a head by name."""

    rules: Mapping[str, QueueRule] = field(default_factory=lambda: {DEFAULT: QueueRule()})

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """Those of the queues that have one, as `schedule` takes them."""
        return tuple(Quota(name, rule.quota) for name, rule in self.rules.items() if rule.quota)

    def problems(self, queue: spec.Queue) -> tuple[Problem, ...]:
        """Why a job may not be in this queue; empty if it may."""
        if queue.name not in self.rules:
            names = tuple(sorted(self.rules))
            hint = did_you_mean(queue.name, names)
            return (_problem("queue.name", quoted(queue.name), in_words(names), hint),)
        most = self.rules[queue.name].priority_max
        if queue.priority > most:
            hint = f"it is the priority_max of queue {queue.name}"
            return (_problem("queue.priority", str(queue.priority), f"integer 0..{most}", hint),)
        return ()


def load(path: Path) -> Queues:
    """The queues of the file, or only `default` if there is none. Raises JobFileError."""
    if not os.path.lexists(path):
        return Queues()
    return loads(text_of(os.fspath(path)), os.fspath(path))


def loads(text: str, file: str = "queues.yaml") -> Queues:
    """The queues of a text. Raises JobFileError with every mistake."""
    report = Report()
    node = read(text, report)
    values = {} if node is None else _FILE.read(node, "", report)
    if report:
        raise report.error(file)
    rules = {name: _rule(fields) for name, fields in values.get("queues", {}).items()}
    return Queues({DEFAULT: QueueRule(), **rules})


def check(queues: Queues, queue: spec.Queue, file: str) -> None:
    """Raises JobFileError if a job of this file may not be in the queue that it names."""
    problems = queues.problems(queue)
    if problems:
        raise JobFileError(file, problems)


def _rule(fields: Mapping[str, Any]) -> QueueRule:
    quota = {DeviceKind(kind): number for kind, number in fields.get("quota", {}).items()}
    return QueueRule(quota, fields.get("priority_max", HIGHEST))


def _problem(path: str, found: str, allowed: str, hint: str) -> Problem:
    return Problem(None, None, path, found, allowed, hint)
