"""Events for another thread, with a descriptor that its event loop can wait for."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Any thread may put; `fileno` is readable while there is something to take."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._letters: deque[T] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False

    def fileno(self) -> int:
        """Valid until `close`."""
        return self._bell

    def put(self, letter: T) -> None:
        """Nothing happens after `close`."""
        with self._lock:
            if not self._closed:
                self._letters.append(letter)
                os.eventfd_write(self._bell, 1)

    def take(self) -> tuple[T, ...]:
        """All that is there, in its order; never waits."""
        with self._lock:
            letters = tuple(self._letters)
            if letters:
                self._letters.clear()
                os.eventfd_read(self._bell)
            return letters

    def close(self) -> None:
        """Give the descriptor back; what is there is lost."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._bell)
