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
from dataclasses import dataclass
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
_CONFIG_KEYS = ("temp_dir", "address", "namespace", "resources", "reservations")
# What is offered is counted by us; these would make Ray refuse the count.
_NOT_FOR_RAY = frozenset({kind.visible_variable for kind in DeviceKind if kind.visible_variable})


@dataclass
class _Owed:
    """A request that the driver has not answered yet."""

    request: dict[str, Any]
    deadline: float

    @property
    def what(self) -> tuple[str, str]:
        """By what its answer is known."""
        return self.request["do"], self.request.get("job", "")


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
        self._owed: list[_Owed] = []
        self._backlog: list[dict[str, Any]] = []
        self._address: dict[str, Any] = {}
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
                if self._timeout() == 0:
                    self._lose(f"no answer within {START_TIMEOUT_S:g} s")
                self._work_off()
        finally:
            self._end_driver(STOP_GRACE_S if self._up else 0.0)
            self._clear_away()

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
        """Seconds until an answer is overdue."""
        deadline = min((owed.deadline for owed in self._owed), default=None)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

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
                _say({"event": "failed", "job": "", "reason": problem})
                self._stopping = True
                return
            self._bring_up([])
        elif request["do"] == "stop":
            self._stopping = True
        else:
            self._backlog.append(request)

    def _configure(self, request: dict[str, Any]) -> str:
        """Take the first request; the problem with it, if any, in a sentence."""
        missing = [key for key in _CONFIG_KEYS if key not in request]
        if missing:
            return f"the first request lacks {', '.join(missing)}"
        if not request["address"]:
            temp_dir = Path(request["temp_dir"])
            try:
                temp_dir.mkdir(mode=0o700, exist_ok=True)
                if any(temp_dir.iterdir()):
                    return f"temp_dir {temp_dir} is not empty: it would be removed at the end"
            except OSError as error:
                return f"temp_dir {temp_dir}: {error}"
        self._config = request
        return ""

    def _clear_away(self) -> None:
        """Remove the directory of a Ray of ours that is gone."""
        if self._config and not self._config["address"]:
            remove_tree(self._config["temp_dir"])

    def _work_off(self) -> None:
        """Serve what has been asked for, in its order.

        A Ray is not replaced while it starts supervisors: one of them could be started twice.
        """
        while self._backlog and not (self._renews(self._backlog[0]) and self._starting()):
            self._serve(self._backlog.pop(0))

    def _renews(self, request: Mapping[str, Any]) -> bool:
        """Whether the request needs another Ray; the resources of one never change."""
        if self._driver is None or self._config["address"]:
            return False
        return bool(
            request.get("resources", self._config["resources"]) != self._config["resources"]
        )

    def _starting(self) -> bool:
        return self._up and any(owed.request["do"] == "start" for owed in self._owed)

    def _serve(self, request: dict[str, Any]) -> None:
        match request["do"]:
            case "reserve":
                self._reserve(request)
            case "nodes" if self._driver is None:
                _say({"event": "nodes", "nodes": []})
            case "up" if self._up:
                _say(self._address)
            case "up" if self._driver is not None:
                pass  # is being answered
            case what:
                again = [] if what == "up" else [request]
                if self._driver is None:
                    self._bring_up(again)
                else:
                    self._pass_on(request)

    def _reserve(self, request: dict[str, Any]) -> None:
        """Have the bundles held, now or in the next Ray."""
        wanted = request.get("resources", self._config["resources"])
        lack = "" if self._config["address"] else lacking(request["bundles"], wanted)
        if lack:
            return _refuse(request, f"the bundles ask for more than Ray was given: {lack}")
        renews = self._renews(request)
        self._config["resources"] = wanted
        self._config["reservations"].pop(request["job"], None)
        if request["bundles"]:
            self._config["reservations"][request["job"]] = request["bundles"]
        if self._driver is None:
            _refuse(request, "there is no Ray; the next one reserves")
        elif renews:
            self._renew(request)
        else:
            self._pass_on(request)

    def _renew(self, request: dict[str, Any]) -> None:
        """Replace Ray by one with other resources, which answers all that this one owes."""
        again = self._again([*self._owed_requests(), request])
        self._end_driver(STOP_GRACE_S)
        self._clear_away()
        self._bring_up(again)

    def _owed_requests(self) -> list[dict[str, Any]]:
        return [owed.request for owed in self._owed]

    def _again(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What of these a new Ray is asked, beside holding all that is to be held."""
        held = self._config["reservations"]
        for request in requests:
            if request["do"] == "reserve" and request["job"] not in held:
                _say({"event": "reserved", "job": request["job"], "seconds": 0.0})
        return [request for request in requests if request["do"] in ("start", "nodes")]

    def _bring_up(self, requests: Sequence[dict[str, Any]]) -> None:
        self._tries = 0
        self._start_driver(requests)

    def _start_driver(self, requests: Sequence[dict[str, Any]]) -> None:
        """Start a driver, and ask it first for what is to be held, then for these."""
        if not self._config["address"]:
            os.makedirs(self._config["temp_dir"], mode=0o700, exist_ok=True)
        self._driver = driver = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env=_environment(self._config["address"]),
        )
        self._up, self._why = False, ""
        self._tries += 1
        self._output.clear()
        assert driver.stdout is not None
        os.set_blocking(driver.stdout.fileno(), False)
        self._selector.register(driver.stdout.fileno(), selectors.EVENT_READ, self._on_reply)
        self._watch(driver.pid, "the Ray driver")
        self._pass_on({"do": "up", **self._config})
        for job, bundles in self._config["reservations"].items():
            self._pass_on({"do": "reserve", "job": job, "bundles": bundles, "anew": True})
        for request in requests:
            self._pass_on(request)

    def _watch(self, pid: int, name: str) -> None:
        """Treat the death of a child or grandchild as the loss of Ray, at once."""
        # A pid that is gone already is unlikely, and the driver will notice it later.
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            self._watched.append(handle)
            lost = f"{name} (pid {pid}) died"
            self._selector.register(handle, selectors.EVENT_READ, lambda: self._lose(lost))

    def _pass_on(self, request: dict[str, Any]) -> None:
        assert self._driver is not None and self._driver.stdin is not None
        self._owed.append(_Owed(request, time.monotonic() + START_TIMEOUT_S))
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
            self._on_up(event)
        elif not self._up:
            # It cannot bring Ray up and is about to exit; what then is decided in _lose.
            self._why = event["reason"]
        else:
            what = event.pop("do", ""), event.get("job", "")
            answered = next((owed for owed in self._owed if owed.what == what), None)
            if answered:
                self._owed.remove(answered)
                self._forget_refused(event, answered.request)
                _say(event)

    def _forget_refused(self, event: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        """What was not given is not asked for again, unless it had been held once."""
        held = self._config["reservations"]
        refused = event["event"] == "unreserved" and not request.get("anew")
        if refused and held.get(request["job"]) == request["bundles"]:
            del held[request["job"]]

    def _on_up(self, event: dict[str, Any]) -> None:
        self._up = True
        for name, pids in event.pop("pids").items():
            for pid in pids:
                self._watch(pid, name)
        # Only now are the others begun.
        deadline = time.monotonic() + START_TIMEOUT_S
        self._owed = [_Owed(r, deadline) for r in self._owed_requests() if r["do"] != "up"]
        self._address = event
        _say(event)

    def _lose(self, reason: str) -> None:
        """Ray is gone or useless: remove what is left of it, and try again or tell."""
        if self._driver is None:
            return
        self._on_reply()
        was_up, owed, why = self._up, self._owed_requests(), self._why
        self._end_driver(0.0)
        self._clear_away()
        if not was_up and self._tries < BRING_UP_TRIES:
            return self._start_driver(self._again(owed))
        if was_up:
            _say({"event": "ray_lost", "reason": reason})
        for request in reversed(owed):  # that Ray is not up is told last
            _refuse(request, why or f"Ray was lost: {reason}")

    def _end_driver(self, grace_s: float) -> None:
        """Let the driver take Ray down within `grace_s`, then kill its whole session."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        self._owed, self._up = [], False
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


def _refuse(request: Mapping[str, Any], reason: str) -> None:
    _say({"event": refusal(request["do"]), "job": request.get("job", ""), "reason": reason})


def _environment(address: str | None) -> dict[str, str]:
    """The driver's environment: that of Ray's users is for a Ray that they started."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_RAY}
    if address is None:
        kept = {name: value for name, value in kept.items() if not name.startswith("RAY_")}
    elif address != "auto":
        # It would be taken for the address that was given.
        kept.pop("RAY_ADDRESS", None)
    return {**kept, **_RAY_ENV, "PYTHONPATH": package_path()}


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
