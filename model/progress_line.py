"""How far a long reading is, for people who wait: one line, and none if it is soon over."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

QUIET_SECONDS = 2.0


class ProgressLine:
    """Says on ``stream`` how far the reading is, once it takes longer than two seconds."""

    def __init__(self, stream: TextIO, what: str = "images read") -> None:
        """Start the clock; ``what`` is counted."""
        self.stream, self.what = stream, what
        self._next = time.monotonic() + QUIET_SECONDS
        self._open = False

    def __call__(self, done: int, total: int) -> None:
        """Show ``done`` of ``total``, at most every two seconds (ten in a file)."""
        now = time.monotonic()
        if now < self._next:
            return
        terminal = self.stream.isatty()
        self._next = now + (QUIET_SECONDS if terminal else 5 * QUIET_SECONDS)
        self._open = terminal
        text = f"{done} of {total} {self.what}"
        print(f"\r{text}" if terminal else text, end="" if terminal else "\n", file=self.stream)
        self.stream.flush()

    def close(self) -> None:
        """End the line."""
        if self._open:
            print(file=self.stream)


@contextlib.contextmanager
def said_if_slow(text: str) -> Iterator[None]:
    """Print `text` to stderr once the work inside has taken two seconds."""
    timer = threading.Timer(QUIET_SECONDS, print, (text,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
