"""What a Ctrl-C does to the command line, from its first import to its end: 130, no traceback.

Three times of a command: while it is imported and while it ends there is nothing to put in order,
so the process leaves at once. In between a KeyboardInterrupt is raised, so that what was begun is
ended. A command may set a handler of its own (`local_run`). Who starts us with SIGINT ignored, as
a shell does with `&` in a script, has it stay ignored.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_INTERRUPTED = 130
_AGAIN = 0.01


def leave_at_once() -> None:
    """From now on SIGINT ends this process with 130, wherever it is."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
        sys.unraisablehook = _raise_again


@contextmanager
def in_order() -> Iterator[None]:
    """SIGINT is a KeyboardInterrupt for whatever runs inside, and 130 for whatever is outside."""
    ours = signal.getsignal(signal.SIGINT) is _leave
    try:
        try:
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            yield
        finally:
            if ours:
                signal.signal(signal.SIGINT, _leave)
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)


def _raise_again(unraisable: Any) -> None:
    """Python prints and forgets what is raised in a finalizer or a callback of the import lock.

    A Ctrl-C must not be lost so. An alarm takes no lock, which any thread's callback may hold.
    """
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
