"""A rank made slow: a small process of its own stops it and lets it go in turn, for a while.

`python -m orchestrator.drill.throttle PID START_TIME SECONDS`. A process and not a thread, so that
a controller that dies in the middle leaves no rank stopped for ever. It ends with its time or with
the rank, bears the mark of the run, and always lets go last. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

from orchestrator import processes
from orchestrator.drill.faults import FaultError
from orchestrator.launch import MARK

SECONDS = 20.0
"""How long a rank is slowed, far below every hang limit."""

_STOPPED = 0.12
_GOING = 0.03


class Throttle:
    """The process that slows a rank, in the hands of whoever has injected the fault."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    def of(cls, pid: int, run_id: str, seconds: float = SECONDS) -> Throttle:
        """Begin to slow a process. Raises FaultError if it is gone."""
        identity = processes.identify(pid)
        if identity is None:
            raise FaultError(f"process {pid} is gone")
        here = os.pathsep.join(filter(None, sys.path))
        return cls(
            subprocess.Popen(
                [sys.executable, "-m", "orchestrator.drill.throttle",
                 str(pid), str(identity.start_time), str(seconds)],
                env={**os.environ, "PYTHONPATH": here, MARK: run_id},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )  # fmt: skip

    def over(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        """Have it let go and leave."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def crawl(pid: int, start_time: int, seconds: float) -> None:
    """Stop and let go in turn until the time is over or the process is gone."""
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until and _send(pid, start_time, signal.SIGSTOP):
            time.sleep(_STOPPED)
            _send(pid, start_time, signal.SIGCONT)
            time.sleep(_GOING)
    finally:
        _send(pid, start_time, signal.SIGCONT)


def _send(pid: int, start_time: int, number: int) -> bool:
    identity = processes.identify(pid)
    if identity is None or identity.start_time != start_time:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return True


def main() -> None:
    """Slow one process; SIGTERM ends it in order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    pid, start_time, seconds = sys.argv[1:]
    crawl(int(pid), int(start_time), float(seconds))


if __name__ == "__main__":
    main()
