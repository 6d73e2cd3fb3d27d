"""Keep a Ray driver process, and leave nothing of it behind, whatever dies.

Ray is not trusted to clean up: the driver leads a session of its own, everything Ray starts
stays in that session (supervisors leave it), and at the end whatever is still in it is
killed. The session's number cannot be reused before that, for the driver is reaped last.
Deaths of raylet and GCS are seen at once through pidfds, not after Ray's own timeouts.
Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.detach import package_path
from cluster.device import DeviceKind
from cluster.leftovers import remove_tree, sweep
from cluster.reservation import lacking

STOP_GRACE_S = 5.0
START_TIMEOUT_S = 120.0
# A raylet gives up when its agents need more than 15 s, as they may on a busy machine.
BRING_UP_TRIES = 2
_POLL_S = 0.02
_PR_SET_PDEATHSIG = 1

# Ray renices its workers; a supervisor started by one, and its ranks, must not be reniced.
_RAY_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
_CONFIG_KEYS = ("temp_dir", "job", "namespace", "resources", "start")
# What is offered is counted by us; these would make Ray refuse the count.
_NOT_FOR_RAY = frozenset({kind.visible_variable for kind in DeviceKind if kind.visible_variable})


class Keeper:
    """Serves the controller on stdin and stdout; owns at most one driver at a time."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = list(argv)
        self._config: dict[str, Any] = {}
        self._driver: subprocess.Popen[bytes] | None = None
        self._watched: list[int] = []
        self._up = False
        self._tries = 0
        self._why = ""
        self._owed: list[str] = []
        self._deadline: float | None = None
        self._selector = selectors.DefaultSelector()
        self._wakeup, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        self._stopping = False
        self._input = bytearray()
        self._output = bytearray()

    def serve(self) -> None:
        """Serve until stop, end of input, SIGTERM or the controller's death; then clean up."""
        self._mind_the_controller()
        self._selector.register(0, selectors.EVENT_READ, self._on_request)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._on_wakeup)
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._timeout()):
                    # A loss handled just now may have closed the next one, or reused it.
                    if self._selector.get_map().get(key.fd) is key:
                        key.data()
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._lose(f"no answer within {START_TIMEOUT_S:g} s")
        finally:
            self._end_driver(STOP_GRACE_S if self._up else 0.0)
            if self._config:
                remove_tree(self._config["temp_dir"])

    def _mind_the_controller(self) -> None:
        """SIGTERM stops; so does SIGUSR2, the kernel's word that the controller died."""
        controller = os.getppid()

        def died(_number: int, _frame: object) -> None:
            # Sent too when only the *thread* that started us ended.
            self._stopping = self._stopping or os.getppid() != controller

        def stop(_number: int, _frame: object) -> None:
            self._stopping = True

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGUSR2, died)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR2)

    def _timeout(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _on_wakeup(self) -> None:
        os.read(self._wakeup, 4096)

    def _on_request(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            self._stopping = True
        for request in _lines(self._input, data):
            if not self._stopping:
                self._handle(request)

    def _handle(self, request: dict[str, Any]) -> None:
        if not self._config:
            problem = self._configure(request)
            if problem:
                _say({"event": "failed", "reason": problem})
                self._stopping = True
                return
            self._bring_up()
        elif request.get("do") == "stop":
            self._stopping = True
        elif request.get("do") == "reserve":
            self._reserve(request)
        elif self._driver is not None:
            self._pass_on(request)
        elif request.get("do") == "start":
            self._config["start"] = request["start"]
            self._bring_up()
        else:
            _say({"event": "nodes", "nodes": []})

    def _configure(self, request: dict[str, Any]) -> str:
        """Take the first request; the problem with it, if any, in a sentence."""
        missing = [key for key in _CONFIG_KEYS if key not in request]
        if missing:
            return f"the first request lacks {', '.join(missing)}"
        temp_dir = Path(request["temp_dir"])
        try:
            temp_dir.mkdir(mode=0o700, exist_ok=True)
            if any(temp_dir.iterdir()):
                return f"temp_dir {temp_dir} is not empty: it would be removed at the end"
        except OSError as error:
            return f"temp_dir {temp_dir}: {error}"
        self._config = {"bundles": [], **request}
        return ""

    def _reserve(self, request: Mapping[str, Any]) -> None:
        """Have the bundles held, now or in the next Ray. A Ray's resources never change."""
        wanted = request.get("resources", self._config["resources"])
        lack = lacking(request["bundles"], wanted)
        if lack:
            return _refuse("reserve", f"the bundles ask for more than Ray was given: {lack}")
        renew = wanted != self._config["resources"]
        self._config.update(bundles=request["bundles"], resources=wanted)
        if self._driver is None:
            _refuse("reserve", "there is no Ray; the next one reserves")
        elif renew:
            self._config["start"] = None
            self._end_driver(STOP_GRACE_S)
            remove_tree(self._config["temp_dir"])
            self._bring_up()
        else:
            self._pass_on(request)

    def _bring_up(self) -> None:
        self._tries = 0
        self._start_driver()

    def _start_driver(self) -> None:
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RAY_") and name not in _NOT_FOR_RAY
        }
        os.makedirs(self._config["temp_dir"], mode=0o700, exist_ok=True)
        self._driver = driver = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env={**env, **_RAY_ENV, "PYTHONPATH": package_path()},
        )
        self._up, self._why = False, ""
        self._tries += 1
        self._output.clear()
        assert driver.stdout is not None
        os.set_blocking(driver.stdout.fileno(), False)
        self._selector.register(driver.stdout.fileno(), selectors.EVENT_READ, self._on_reply)
        self._watch(driver.pid, "the Ray driver")
        self._pass_on(self._config)

    def _watch(self, pid: int, name: str) -> None:
        """Treat the death of a child or grandchild as the loss of Ray, at once."""
        # A pid that is gone already is unlikely, and the driver will notice it later.
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            self._watched.append(handle)
            lost = f"{name} (pid {pid}) died"
            self._selector.register(handle, selectors.EVENT_READ, lambda: self._lose(lost))

    def _pass_on(self, request: Mapping[str, Any]) -> None:
        assert self._driver is not None and self._driver.stdin is not None
        # The first request has no `do`: it is to be answered by what it asks for last.
        self._owed.append(request.get("do") or ("start" if request["start"] else "reserve"))
        self._deadline = time.monotonic() + START_TIMEOUT_S
        # A driver that has died is noticed by its pidfd.
        with contextlib.suppress(BrokenPipeError):
            self._driver.stdin.write(json.dumps(request).encode() + b"\n")
            self._driver.stdin.flush()

    def _on_reply(self) -> None:
        """Pass on all that the driver has said so far."""
        assert self._driver is not None and self._driver.stdout is not None
        # The end of its output is no news: its pidfd tells.
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._driver.stdout.fileno(), 1 << 16):
                for event in _lines(self._output, data):
                    self._on_event(event)
            self._unlisten(self._driver)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "up":
            self._up = True
            for name, pids in event["pids"].items():
                for pid in pids:
                    self._watch(pid, name)
        elif not self._up:
            # It cannot bring Ray up and is about to exit; what then is decided in _lose.
            self._why = event["reason"]
        else:
            self._owed.pop(0)
            self._deadline = self._deadline if self._owed else None
            _say(event)

    def _lose(self, reason: str) -> None:
        """Ray is gone or useless: remove what is left of it, and try again or tell."""
        if self._driver is None:
            return
        self._on_reply()
        was_up, owed, why = self._up, self._owed, self._why or f"Ray was lost: {reason}"
        self._end_driver(0.0)
        remove_tree(self._config["temp_dir"])
        if was_up:
            _say({"event": "ray_lost", "reason": reason})
        elif self._tries < BRING_UP_TRIES:
            self._start_driver()
            owed = owed[1:]
        for what in owed:
            _refuse(what, why)

    def _end_driver(self, grace_s: float) -> None:
        """Let the driver take Ray down within `grace_s`, then kill its whole session."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        self._owed, self._deadline = [], None
        self._forget(driver)
        assert driver.stdin is not None and driver.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            driver.stdin.close()
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and not _exited(driver.pid):
            time.sleep(_POLL_S)
        left = sweep(driver.pid)
        driver.stdout.close()
        if left:
            print(f"processes {left} of Ray could not be killed", file=sys.stderr)
        else:
            driver.wait()

    def _forget(self, driver: subprocess.Popen[bytes]) -> None:
        for handle in self._watched:
            self._selector.unregister(handle)
            os.close(handle)
        self._watched.clear()
        self._unlisten(driver)

    def _unlisten(self, driver: subprocess.Popen[bytes]) -> None:
        assert driver.stdout is not None
        # Not registered any more once its end has been read.
        with contextlib.suppress(KeyError):
            self._selector.unregister(driver.stdout.fileno())


def refusal(what: str) -> str:
    """The event that says no to a request to do `what`."""
    return "unreserved" if what == "reserve" else "failed"


def _refuse(what: str, reason: str) -> None:
    _say({"event": refusal(what), "reason": reason})


def _exited(pid: int) -> bool:
    """Whether a child has exited; it is left unreaped, so that its pid stays taken."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, flags) is not None


def _lines(buffer: bytearray, data: bytes) -> list[dict[str, Any]]:
    """Add `data` to `buffer` and take out its complete lines."""
    buffer += data
    *whole, rest = bytes(buffer).split(b"\n")
    buffer[:] = rest
    return [json.loads(line) for line in whole if line.strip()]


def _say(event: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
