"""Records of the store as the documents that the API answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.service.head import Place
from orchestrator.states import JobState
from orchestrator.store.values import IncidentRecord, JobRecord, Told

SCHEMA = 1


def row(record: JobRecord, waiting: Mapping[str, Place]) -> dict[str, Any]:
    """A job in a list. What is not known is null, never zero."""
    line = waiting.get(record.job) if record.state is JobState.QUEUED else None
    return {
        "job": record.job,
        "name": record.name,
        "user": record.user,
        "queue": record.queue,
        "priority": record.priority,
        "device": record.device.value,
        "ranks": record.ranks,
        "state": record.state.value,
        "reason": _reason(record, line),
        "position": line.position if line else None,
        "attempt": record.attempt,
        "submitted_at": record.submitted_at,
        "queued_at": record.queued_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "run_dir": record.run_dir,
    }


def _reason(record: JobRecord, line: Place | None) -> str | None:
    """Why a job waits, or why it is where it is. Of a new one nothing is known yet."""
    if line is not None:
        return line.reason
    return None if record.last_event == 1 else record.reason or None


def submitted(record: JobRecord, waiting: Mapping[str, Place]) -> dict[str, Any]:
    """The answer to a submission."""
    line = waiting.get(record.job)
    return {
        "schema": SCHEMA,
        "job": record.job,
        "name": record.name,
        "state": record.state.value,
        "run_dir": record.run_dir,
        "position": line.position if line else None,
    }


def event(told: Told) -> dict[str, Any]:
    """An event with its sequence number."""
    one = told.event
    return {
        "sequence": told.sequence,
        "time": one.time,
        "kind": one.kind,
        "attempt": one.attempt,
        "state": one.state.value if one.state else None,
        "reason": one.reason,
        "data": one.data,
    }


def incident(job: str, record: IncidentRecord) -> dict[str, Any]:
    """An incident as `muster incidents --json` has it, and whose."""
    return {
        **record.document,
        "job": job,
        "incident": record.incident,
        "attempt": record.attempt,
        "class": record.failure.value,
        "fault_at": record.fault_at,
    }
