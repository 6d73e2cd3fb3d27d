"""The queue's decisions, pure: who starts now, who is stopped for whom, why the others wait."""

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

__all__ = [
    "Cluster",
    "Decisions",
    "Preemption",
    "Quota",
    "Running",
    "Start",
    "Waiting",
    "schedule",
]
