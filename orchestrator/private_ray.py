"""A Ray of the run's own: it comes up with the run and goes down with it.

Ray runs in a process of its own (`cluster.ray_node`), so that neither its start-up nor its
death is felt here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from cluster.allocate import Placement
from cluster.ray_client import Event, RayNode, Start
from cluster.reservation import Book
from orchestrator.job_ray import JobRay, raylets_of
from orchestrator.layout import RunDirectory, Spool

_CLOSE_TIMEOUT = 15.0


class PrivateRay(JobRay):
    """Ray for one run on this machine."""

    def __init__(self, *, job: str, directory: RunDirectory, spool: Spool) -> None:
        super().__init__(_OwnLine(job, str(spool.ray), directory.ray_log), directory.ray_log)


class _OwnLine:
    """The only line to a Ray that nobody else uses."""

    def __init__(self, job: str, temp_dir: str, log: Path) -> None:
        self._job = job
        self._temp_dir = temp_dir
        self._log = log
        self._book = Book({})
        self._node: RayNode | None = None

    def fileno(self) -> int:
        assert self._node is not None
        return self._node.fileno()

    def poll(self) -> tuple[Event, ...]:
        return self._node.poll() if self._node else ()

    def open(self, resources: Mapping[str, float]) -> bool:
        self._book = Book(dict(resources))
        self._node = RayNode.start(temp_dir=self._temp_dir, resources=resources, log=self._log)
        return True

    def start_supervisor(self, start: Start, serial: int) -> None:
        assert self._node is not None
        self._node.start_supervisor(self._job, start, serial)

    def reserve(self, placement: Placement, serial: int, *, simulated: bool) -> None:
        if self._node is not None:
            bundles = self._book.take(self._job, placement, simulated=simulated)
            self._node.reserve(self._job, bundles, self._book.resources, serial)

    def raylets(self) -> tuple[int, ...]:
        return raylets_of(self._temp_dir)

    def close(self) -> None:
        """Take Ray down; after a time-out it goes on ending by itself."""
        if self._node is not None:
            with contextlib.suppress(TimeoutError):
                self._node.close(_CLOSE_TIMEOUT)
