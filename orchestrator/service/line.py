"""Those that wait, as the queue's decisions want them: made once a job, kept while it waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.affinity import Bind
from cluster.allocate import Request
from cluster.device import DeviceKind
from orchestrator.queueing import Waiting
from orchestrator.queueing.records import waiting_of
from orchestrator.store import Store
from orchestrator.store.values import JobRecord


class Line:
    """The waiting jobs of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[tuple[Any, ...], Waiting]] = {}

    def waiting(self, records: Iterable[JobRecord]) -> list[Waiting]:
        """One value a record, the same one as long as the record says the same."""
        known = {record.job: self._of(record) for record in records}
        self._known = known
        return [waiting for _, waiting in known.values()]

    def _of(self, record: JobRecord) -> tuple[tuple[Any, ...], Waiting]:
        says = (record.place, record.front, record.queued_at, record.priority)
        known = self._known.get(record.job)
        if known is not None and known[0] == says:
            return known
        request = known[1].request if known else request_of(self._store.job_file(record.job).spec)
        return says, waiting_of(record, request)


def request_of(spec: Mapping[str, Any]) -> Request:
    """What a stored job asks the allocator for; as `plan.request_for`, without reading it all."""
    resources = spec["resources"]
    cpus = resources["cpus_per_rank"]
    return Request(
        kind=DeviceKind(resources["device"]),
        ranks=resources["ranks"],
        ranks_per_node=resources["ranks_per_node"],
        cpus_per_rank=None if cpus == "auto" else cpus,
        bind=Bind(spec["launch"]["bind"]),
    )
