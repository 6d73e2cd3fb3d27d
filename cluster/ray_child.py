"""The keeper's child: the driver with all that Ray starts, one session, ended as a whole.

Ray is not trusted to clean up: the driver leads a session of its own, everything Ray starts
stays in that session (supervisors leave it), and at the end whatever is still in it is
killed. The session's number cannot be reused before that, for the driver is reaped last.
Deaths of raylet and GCS are seen at once through pidfds, not after Ray's own timeouts.
Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cluster.detach import package_path
from cluster.device import DeviceKind
from cluster.leftovers import sweep

_POLL_S = 0.02

# Ray renices its workers; a supervisor started by one, and its ranks, must not be reniced.
_RAY_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
# What is offered is counted by us; these would make Ray refuse the count.
_NOT_FOR_RAY = frozenset({kind.visible_variable for kind in DeviceKind if kind.visible_variable})


class RayChild:
    """A driver process. `heard` is called when it has said something, `lost` with the reason
    when it or a process that it named has died; both by the loop that turns `selector`.
    """

    def __init__(
        self,
        argv: Sequence[str],
        address: str | None,
        selector: selectors.BaseSelector,
        heard: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self._selector = selector
        self._lost = lost
        self._watched: list[int] = []
        self._said = bytearray()
        self._process = process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env=environment(address),
        )
        assert process.stdin is not None and process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        selector.register(self._stdout.fileno(), selectors.EVENT_READ, heard)
        self.watch(process.pid, "the Ray driver")

    def watch(self, pid: int, name: str) -> None:
        """Treat the death of a process as the loss of Ray, at once."""
        # A pid that is gone already is unlikely, and the driver will notice it later.
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            self._watched.append(handle)
            reason = f"{name} (pid {pid}) died"
            self._selector.register(handle, selectors.EVENT_READ, lambda: self._lost(reason))

    def ask(self, request: Mapping[str, Any]) -> None:
        """Pass a request on."""
        # A driver that has died is noticed by its pidfd.
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()

    def replies(self) -> Iterator[dict[str, Any]]:
        """All that the driver has said since."""
        # The end of its output is no news: its pidfd tells.
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._stdout.fileno(), 1 << 16):
                yield from lines(self._said, data)
            self._unlisten()

    def end(self, grace_s: float) -> None:
        """Let the driver take Ray down within `grace_s`, then kill its whole session."""
        self._forget()
        self.ask({"do": "stop"})
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and not _exited(self._process.pid):
            time.sleep(_POLL_S)
        left = sweep(self._process.pid)
        self._stdout.close()
        if left:
            print(f"processes {left} of Ray could not be killed", file=sys.stderr)
        else:
            self._process.wait()

    def _forget(self) -> None:
        for handle in self._watched:
            self._selector.unregister(handle)
            os.close(handle)
        self._watched.clear()
        self._unlisten()

    def _unlisten(self) -> None:
        # Not registered any more once its end has been read.
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._stdout.fileno())


def environment(address: str | None) -> dict[str, str]:
    """The driver's: what users set for Ray is for a Ray of theirs, which is joined by `address`."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_RAY}
    if address is None:
        kept = {name: value for name, value in kept.items() if not name.startswith("RAY_")}
    elif address != "auto":
        # It would be taken for the address that was given.
        kept.pop("RAY_ADDRESS", None)
    return {**kept, **_RAY_ENV, "PYTHONPATH": package_path()}


def lines(buffer: bytearray, data: bytes) -> list[dict[str, Any]]:
    """Add `data` to `buffer` and take out its complete lines."""
    buffer += data
    *whole, rest = bytes(buffer).split(b"\n")
    buffer[:] = rest
    return [json.loads(line) for line in whole if line.strip()]


def _exited(pid: int) -> bool:
    """Whether a child has exited; it is left unreaped, so that its pid stays taken."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, flags) is not None
