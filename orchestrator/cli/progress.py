"""A sign on stderr that something takes its time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

_PATIENCE = 2.0


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Say what is waited for, once it takes longer than people expect."""
    shown = Status(f"{what} …", console=Console(stderr=True))
    timer = threading.Timer(_PATIENCE, shown.start)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        shown.stop()
