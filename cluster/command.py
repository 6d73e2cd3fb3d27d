"""Running a tool of somebody else: an argv, a time limit, a bound on what it may print."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

MAX_OUTPUT = 1 << 20
"""Bytes of stdout and stderr together; a tool that prints more is stopped."""

_LEAVE = 1.0
_NOTICE = 0.1
_GIVEN_UP = "given up, for who asked is ending"
_leaving = threading.Event()
# Nothing that a tool prints may move the cursor of whoever reads a report.
_HARMLESS = {code: "?" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t\r"}
_HARMLESS[ord("\r")] = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a command. `failure` is empty only if it ended with 0 in time.

    `text` is its output, or as much of it as came before the time was up.
    """

    text: str
    failure: str = ""
    timed_out: bool = False


def leave() -> None:
    """End the commands that run in this process, and start no others: it is about to end.

    Threads that wait for a tool would keep it for as long as the tool may take.
    """
    _leaving.set()


def run(argv: Sequence[str], *, timeout: float) -> Outcome:
    """Run a command to its end, at most `timeout` seconds; never raises for what it does.

    It gets no input and a session of its own, killed whole when the time is up.
    """
    name = " ".join([os.path.basename(argv[0]), *argv[1:]])
    if timeout <= 0:
        return Outcome("", f"{name}: not asked, the time for all questions was up", timed_out=True)
    if _leaving.is_set():
        return Outcome("", f"{name}: {_GIVEN_UP}")
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Outcome("", f"{name}: cannot be started: {getattr(error, 'strerror', error)}")
    try:
        return _follow(process, name, timeout)
    finally:
        _end(process)


def _follow(process: subprocess.Popen[bytes], name: str, timeout: float) -> Outcome:
    deadline = time.monotonic() + timeout
    said = {1: bytearray(), 2: bytearray()}
    with selectors.DefaultSelector() as selector:
        assert process.stdout is not None and process.stderr is not None
        selector.register(process.stdout, selectors.EVENT_READ, 1)
        selector.register(process.stderr, selectors.EVENT_READ, 2)
        while selector.get_map():
            ready = selector.select(max(0.0, min(_NOTICE, deadline - time.monotonic())))
            if _leaving.is_set():
                return Outcome("", f"{name}: {_GIVEN_UP}")
            if not ready and time.monotonic() >= deadline:
                why = f"{name}: no answer within {timeout:.3g} s"
                return Outcome(_text(said[1]), why, timed_out=True)
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                said[key.data] += data
                if not data:
                    selector.unregister(key.fileobj)
            if len(said[1]) + len(said[2]) > MAX_OUTPUT:
                return Outcome("", f"{name}: printed more than {MAX_OUTPUT} bytes")
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        why = f"{name}: did not end within {timeout:.3g} s"
        return Outcome(_text(said[1]), why, timed_out=True)
    return _outcome(name, code, _text(said[1]), _text(said[2]))


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "replace").translate(_HARMLESS)


def _outcome(name: str, code: int, text: str, errors: str) -> Outcome:
    if code == 0:
        return Outcome(text)
    words = " ".join((text + " " + errors).split())
    how = f"exit {code}" if code > 0 else f"killed by signal {-code}"
    return Outcome(text, f"{name}: {how}" + (f": {words[:160]}" if words else ""))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left. One that hangs in the driver cannot be killed and is not waited for."""
    try:
        # Its leader not waited for yet, the group cannot belong to anybody else.
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(_LEAVE)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
