"""Start a process that belongs to nobody: own session, exact environment, no inheritance.

`python -m cluster.detach` reads one start request (JSON) on stdin and writes one reply on
stdout, so that the two forks happen in a process with a single thread. What Ray gives its
workers, and a long-lived supervisor must not keep, is undone here: signal dispositions, open
files, and the out-of-memory score that makes workers the kernel's first victims.
Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

_HELPER_TIMEOUT_S = 20.0


def detach(start: Mapping[str, Any]) -> dict[str, Any]:
    """Start `argv` of `start` with exactly `env`, in `cwd`, its output appended to `log`.

    Returns `pid`, `start_time` (clock ticks since boot) and `boot_id`. Raises OSError when
    the program cannot be executed, RuntimeError when the helper process fails.
    """
    helper = subprocess.run(
        [sys.executable, "-m", "cluster.detach"],
        input=json.dumps(dict(start)).encode(),
        capture_output=True,
        timeout=_HELPER_TIMEOUT_S,
        check=False,
        env={**os.environ, "PYTHONPATH": package_path()},
    )
    try:
        reply: dict[str, Any] = json.loads(helper.stdout)
    except ValueError:
        said = helper.stderr.decode(errors="replace").strip()[-500:]
        raise RuntimeError(f"detaching {start.get('argv')} failed: {said}") from None
    if "error" in reply:
        raise OSError(reply["error"])
    return reply


def package_path() -> str:
    """A PYTHONPATH with which a child finds this very package first."""
    here = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return f"{here}{os.pathsep}{inherited}" if inherited else here


def start_time(pid: int) -> int:
    """Clock ticks since boot at which `pid` was started. Raises OSError when it is gone."""
    return int(stat_fields(pid)[19])


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, group, session, …"""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def boot_id() -> str:
    """This boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _serve() -> None:
    start = json.loads(sys.stdin.buffer.read())
    try:
        reply = _double_fork(start)
    except OSError as error:
        reply = {"error": f"cannot start {start['argv']}: {error}"}
    json.dump(reply, sys.stdout)


def _double_fork(start: Mapping[str, Any]) -> dict[str, Any]:
    """Fork twice and exec; a pipe that exec closes tells the pid and, if any, the error."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        _be_middle(start, writer)
    os.close(writer)
    os.waitpid(middle, 0)
    with open(reader) as pipe:
        told = pipe.read().splitlines()
    if len(told) != 1:
        raise OSError(told[1] if told else "killed before it could start")
    pid = int(told[0])
    return {"pid": pid, "start_time": start_time(pid), "boot_id": boot_id()}


def _be_middle(start: Mapping[str, Any], writer: int) -> NoReturn:
    if os.fork():
        os._exit(0)
    os.write(writer, f"{os.getpid()}\n".encode())
    try:
        _exec(start, writer)
    except OSError as error:
        os.write(writer, f"{error}\n".encode())
    finally:
        os._exit(127)


def _exec(start: Mapping[str, Any], writer: int) -> NoReturn:
    os.setsid()
    _undo_inheritance()
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(start["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, writer)
    os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir(start["cwd"])
    os.execvpe(start["argv"][0], start["argv"], dict(start["env"]))


def _undo_inheritance() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # glibc keeps a few real-time signals to itself.
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("0")


if __name__ == "__main__":
    _serve()
