"""Why jobs wait: noted during a pass, put into words when somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

Why = Callable[[], str]
"""Says the reason. Jobs that wait for the same reason share one."""


class Reasons(Mapping[str, str]):
    """A sentence for each job that waits, in the order in which they wait. For any thread."""

    def __init__(self, whys: Mapping[str, Why]) -> None:
        self._whys = whys
        self._told: dict[Why, str] = {}
        self._lock = threading.Lock()

    def __getitem__(self, job: str) -> str:
        why = self._whys[job]
        with self._lock:
            if why not in self._told:
                self._told[why] = why()
            return self._told[why]

    @property
    def told(self) -> int:
        """How many different ones have been put into words."""
        return len(self._told)

    def __contains__(self, job: object) -> bool:
        return job in self._whys

    def __iter__(self) -> Iterator[str]:
        return iter(self._whys)

    def __len__(self) -> int:
        return len(self._whys)
