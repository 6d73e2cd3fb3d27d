"""A Ray for tests that are not about Ray: supervisors are started at once, devices are had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.allocate import Placement
from cluster.detach import detach
from cluster.ray_client import Event, Failed, ProcessId, Ready, Reserved, Start
from orchestrator.job_ray import JobRay
from orchestrator.service.mailbox import Mailbox


class PlainRay:
    """What a head wants of its Ray; the supervisors and their ranks are real."""

    address = None
    state: Mapping[str, Any] = {"state": "up", "address": None}

    def start(self, _: Mapping[str, float], *, simulated: bool = False) -> None:
        """It is there already."""

    def for_job(self, job: str) -> JobRay:
        """A job's share of it."""
        ray = JobRay(PlainLine(job), Path("/dev/null"))
        ray.there = True
        return ray

    def close(self) -> None:
        """Nothing is left of it."""


class PlainLine:
    """Starts supervisors as Ray's tasks do: detached, so that they belong to nobody."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._mail: Mailbox[Event] = Mailbox()

    def fileno(self) -> int:
        return self._mail.fileno()

    def poll(self) -> tuple[Event, ...]:
        return self._mail.take()

    def open(self, _: Mapping[str, float]) -> bool:
        return True

    def start_supervisor(self, start: Start, serial: int) -> None:
        try:
            process = ProcessId(**detach(asdict(start)))
        except (OSError, RuntimeError) as error:
            self._mail.put(Failed(self._job, str(error), serial))
        else:
            self._mail.put(Ready(self._job, "here", "", "", process, {}, serial))

    def reserve(self, _: Placement, serial: int, *, simulated: bool) -> None:
        self._mail.put(Reserved(self._job, 0.0, serial))

    def raylets(self) -> tuple[int, ...]:
        return ()

    def close(self) -> None:
        self._mail.close()
