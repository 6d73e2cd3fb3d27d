"""A way to wake a thread that waits in a selector."""

from __future__ import annotations

import os
import threading


class Bell:
    """Any thread may ring, at any time; `fileno` is readable from then until it is answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Valid until `close`; -1 after it."""
        return self._descriptor

    def ring(self) -> None:
        """Nothing happens after `close`."""
        with self._lock:
            if self._descriptor >= 0:
                os.eventfd_write(self._descriptor, 1)

    def answer(self) -> None:
        """What rings after this is another ring. Raises BlockingIOError if nobody has rung."""
        os.eventfd_read(self._descriptor)

    def close(self) -> None:
        """Give the descriptor back."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
