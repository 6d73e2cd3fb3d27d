"""The queue: who starts now, who is stopped for whom, and why the others wait."""

from orchestrator.queueing.schedule import schedule
from orchestrator.queueing.values import (
    Cluster,
    Decisions,
    Preemption,
    Quota,
    Running,
    Start,
    Waiting,
)
from orchestrator.queueing.words import Line, lines

__all__ = [
    "Cluster",
    "Decisions",
    "Line",
    "Preemption",
    "Quota",
    "Running",
    "Start",
    "Waiting",
    "lines",
    "schedule",
]
