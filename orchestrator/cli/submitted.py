"""A submitted job as the controller tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.cli.remote import controller
from orchestrator.client import ENDED

_PERIOD = 1.0


class SubmittedJob:
    """What reading commands ask of a job id. Raises ClientError."""

    def __init__(self, job: str, *, watching: bool = False) -> None:
        self._job = job
        self._client = controller(watching=watching)

    def status(self) -> dict[str, Any]:
        """The document of `status --json`."""
        return self._client.status(self._job)

    def watch(self) -> Iterator[dict[str, Any]]:
        """Documents of `status --json` until the job has ended: at every event, and each second."""
        document = self._client.status(self._job)
        yield document
        while document["state"] not in ENDED:
            after = document["last_event"]
            document = self._client.status(self._job, after=after, wait=_PERIOD)
            yield document

    def wait(self, timeout: float | None) -> dict[str, Any]:
        """The document once the job has ended. Raises TimeoutError after so many seconds."""
        return self._client.wait(self._job, timeout)

    def logs(
        self, *, rank: int | None, attempt: int | None, scheduler: bool, follow: bool
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Lines, each with the name of what wrote it (empty where only one did)."""
        alone = scheduler or rank is not None or self._client.job(self._job)["ranks"] == 1
        for line in self._client.logs(
            self._job, rank=rank, attempt=attempt, scheduler=scheduler, follow=follow
        ):
            yield "" if alone else f"rank-{line['rank']}", dict(line)

    def events(self) -> list[dict[str, Any]]:
        """What happened, oldest first."""
        return [dict(event) for event in self._client.events(self._job)]

    def incidents(self) -> list[dict[str, Any]]:
        """The failures, oldest first."""
        return self._client.incidents(self._job)

    def explain(self) -> dict[str, Any]:
        """The document of `explain --json`, every incident included."""
        return self._client.explain(self._job)

    def checkpoints(self, *, verify: bool) -> dict[str, Any]:
        """Checkpoints and what was quarantined; with `verify` every byte of them is read."""
        return self._client.checkpoints(self._job, verify=verify)
