"""How long a client goes on asking a controller that does not answer, and what it tells."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.client.errors import ClientError, Problem, Unreachable

_T = TypeVar("_T")

_AT_FIRST = 5.0
"""Seconds for a controller that this client has never reached: it may not be coming at all."""

_DELAYS = (0.1, 0.2, 0.4, 0.8)
_LONGEST_DELAY = 1.0


class Patience:
    """Repeats what failed because nobody answered, for at most `seconds` at a time.

    The first failure is told, and so is the end of it; `told` gets whole sentences.
    """

    def __init__(self, seconds: float, told: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._told = told
        self._reached = False
        self._since: float | None = None
        self._failures = 0

    def until_answered(self, ask: Callable[[], _T], *, again: bool = True) -> _T:
        """What `ask` returns. Raises its Unreachable or Problem when trying again is over.

        Without `again` only that is repeated which was certainly not sent.
        """
        while True:
            try:
                answer = ask()
            except Problem as problem:
                if problem.status != 503 or problem.retry_after is None or not again:
                    self.answered()
                    raise
                self.failed(problem)
            except Unreachable as error:
                if error.sent and not again:
                    done = f"{error}; it may have been carried out all the same"
                    raise Unreachable(done, sent=True) from error
                self.failed(error)
            else:
                self.answered()
                return answer

    def failed(self, error: ClientError) -> None:
        """Wait a moment. Raises `error` when there was enough of that."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._failures = now, 0
        limit = self._seconds if self._reached else min(self._seconds, _AT_FIRST)
        hopeless = isinstance(error, Unreachable) and error.hopeless and not self._reached
        if hopeless or now - self._since >= limit:
            self._since = None
            raise error
        if self._failures == 1:  # one failure may be a connection that was just closed
            self._told(f"{error}; trying again for {limit:.0f} s")
        time.sleep(self._delay(error))
        self._failures += 1

    def _delay(self, error: ClientError) -> float:
        if isinstance(error, Problem):
            return min(error.retry_after or 0.0, _LONGEST_DELAY) or _DELAYS[0]
        return _DELAYS[self._failures] if self._failures < len(_DELAYS) else _LONGEST_DELAY

    def answered(self) -> None:
        """Somebody is there."""
        if self._since is not None and self._failures > 1:
            self._told("the controller answers again")
        self._reached = True
        self._since = None
