"""Streams of log lines that go on where a broken one ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from urllib.parse import quote

from orchestrator.client.address import Address
from orchestrator.client.documents import LogLine
from orchestrator.client.errors import Unreachable
from orchestrator.client.patience import Patience
from orchestrator.client.wire import Request, Wire, with_query

_SILENCE = 300.0
"""Seconds without a line after which a stream is asked for anew: the other end may be gone."""


class LogStreams:
    """The logs of a job, of one rank or of its scheduler. Each line is told once."""

    def __init__(
        self,
        wire: Wire,
        find: Callable[[], Address],
        patience: Patience,
        job: str,
        rank: int | None,
        *,
        scheduler: bool,
    ) -> None:
        self._wire, self._find, self._patience = wire, find, patience
        self._path = f"/v1/jobs/{quote(job, safe='')}/logs"
        self._query = {"rank": rank, "scheduler": "true" if scheduler else None}
        self._one = scheduler or rank is not None
        self._told: dict[tuple[int, int | None], int] = {}

    @property
    def newest(self) -> int | None:
        """The newest attempt of which a line was told."""
        return max((attempt for attempt, _ in self._told), default=None)

    def read(self, attempt: int | None, *, follow: bool = False) -> Generator[LogLine, None, bool]:
        """Lines not told yet, of one attempt or the newest. Returns whether it did not break off.

        Raises Problem, and Unreachable when there was enough of trying again.
        """
        request = Request(
            "GET", with_query(self._path, self._asked(attempt, follow)), timeout=_SILENCE
        )
        try:
            for raw in self._wire.lines(self._find(), request):
                self._patience.answered()
                line: LogLine = json.loads(raw)
                log = (line["attempt"], line["rank"])
                if line["offset"] > self._told.get(log, 0):
                    self._told[log] = line["offset"]
                    yield line
        except Unreachable as error:
            self._patience.failed(error)
            return False
        return True

    def _asked(self, attempt: int | None, follow: bool) -> dict[str, object]:
        known = [end for (number, _), end in self._told.items() if number == attempt]
        # Of several logs each has an end of its own: those are read again, and left out here.
        offset = known[0] if self._one and known else None
        return {
            **self._query,
            "attempt": attempt,
            "offset": offset,
            "follow": "true" if follow else None,
        }
