"""Keep a Ray driver process, whatever dies: ask it what was asked, and again of its successor.

Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.leftovers import remove_tree
from cluster.ray_child import RayChild, lines
from cluster.reservation import lacking

STOP_GRACE_S = 5.0
START_TIMEOUT_S = 120.0
# A raylet gives up when its agents need more than 15 s, as they may on a busy machine.
BRING_UP_TRIES = 2
_PR_SET_PDEATHSIG = 1

_CONFIG_KEYS = ("temp_dir", "address", "namespace", "resources", "reservations")


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
        self._driver: RayChild | None = None
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
        for request in lines(self._input, data):
            if not self._stopping:
                self._handle(request)

    def _handle(self, request: dict[str, Any]) -> None:
        if not self._config:
            problem = self._configure(request)
            if problem:
                _refuse({"do": "up"}, problem)
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
        """What of these a new Ray is to answer; one that gives something back is answered here."""
        held = self._config["reservations"]
        for request in requests:
            if request["do"] == "reserve" and request["job"] not in held:
                _answer(request, {"event": "reserved", "seconds": 0.0})
        return [request for request in requests if request["do"] != "up"]

    def _bring_up(self, requests: Sequence[dict[str, Any]]) -> None:
        self._tries = 0
        self._start_driver(requests)

    def _start_driver(self, requests: Sequence[dict[str, Any]]) -> None:
        """Start a driver, and ask it first for what is to be held, then for these."""
        if not self._config["address"]:
            os.makedirs(self._config["temp_dir"], mode=0o700, exist_ok=True)
        self._driver = RayChild(
            self._argv, self._config["address"], self._selector, self._on_reply, self._lose
        )
        self._up, self._why = False, ""
        self._tries += 1
        self._pass_on({"do": "up", **self._config})
        asked = {request["job"]: request for request in requests if request["do"] == "reserve"}
        for job, bundles in self._config["reservations"].items():
            anew = {"do": "reserve", "job": job, "bundles": bundles, "anew": True}
            self._pass_on(asked.get(job, anew))
        for request in requests:
            if request["do"] != "reserve":
                self._pass_on(request)

    def _pass_on(self, request: dict[str, Any]) -> None:
        assert self._driver is not None
        self._owed.append(_Owed(request, time.monotonic() + START_TIMEOUT_S))
        self._driver.ask(request)

    def _on_reply(self) -> None:
        """Pass on all that the driver has said so far."""
        assert self._driver is not None
        for event in self._driver.replies():
            self._on_event(event)

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
                _answer(answered.request, event)

    def _forget_refused(self, event: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        """What was not given is not asked for again, unless it had been held once."""
        held = self._config["reservations"]
        refused = event["event"] == "unreserved" and not request.get("anew")
        if refused and held.get(request["job"]) == request["bundles"]:
            del held[request["job"]]

    def _on_up(self, event: dict[str, Any]) -> None:
        assert self._driver is not None
        self._up = True
        for name, pids in event.pop("pids").items():
            for pid in pids:
                self._driver.watch(pid, name)
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
        """Let the driver take Ray down within `grace_s`, then kill what is left of it."""
        driver, self._driver = self._driver, None
        self._owed, self._up = [], False
        if driver is not None:
            driver.end(grace_s)


def refusal(what: str) -> str:
    """The event that says no to a request to do `what`."""
    return "unreserved" if what == "reserve" else "failed"


def _refuse(request: Mapping[str, Any], reason: str) -> None:
    _answer(request, {"event": refusal(request["do"]), "reason": reason})


def _answer(request: Mapping[str, Any], event: Mapping[str, Any]) -> None:
    _say({"job": request.get("job", ""), "serial": request.get("serial"), **event})


def _say(event: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
