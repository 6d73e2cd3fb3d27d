"""The warm start: a process that has imported what ranks need, and forks them.

Started by exec by the supervisor, with the variables set that are read at import:
`python -m orchestrator.forkserver FD SUPERVISOR_PID [MODULE…]`. It answers JSON lines on
the socket FD. A rank is forked twice, so that it becomes the supervisor's own child.
`fork` after `import mindspore` and before any device call is safe on CPU (measured);
native threads would not survive it, so they are counted before every fork.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any

from orchestrator import processes
from orchestrator.entry import run_module
from orchestrator.launch import ProcessPlan, freshen_random, freshen_threads, settle
from orchestrator.rank import Rank, exit_code_of

_ADOPTION_TIMEOUT = 5.0


def main() -> None:
    """Preload, then fork on request until the supervisor hangs up."""
    descriptor, supervisor, *modules = sys.argv[1:]
    processes.die_with_parent(int(supervisor))
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)
    reply = connection.makefile("w", encoding="utf-8")
    requests = connection.makefile("r", encoding="utf-8")
    began = time.monotonic()
    failed = preload(modules)
    known = _native_threads()
    gc.freeze()
    _say(reply, {"ready": True, "failed": failed, "seconds": time.monotonic() - began})
    for line in requests:
        launch = ProcessPlan.from_document(json.loads(line))
        refused = unsafe_to_fork(known)
        if refused:
            _say(reply, {"rank": launch.rank, "refused": refused})
            continue
        pid = fork_twice()
        if pid == 0:
            requests.close()
            reply.close()
            connection.close()
            become(launch, int(supervisor))
            return
        if pid is None:
            _say(reply, {"rank": launch.rank, "refused": "the fork was killed on its way"})
        else:
            _say(reply, {"rank": launch.rank, "pid": pid})


def preload(modules: list[str]) -> list[str]:
    """Import each module; what cannot be imported is left to the rank to complain about."""
    failed = []
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            failed.append(f"{module}: {type(error).__name__}: {error}")
    return failed


def unsafe_to_fork(known_native: int) -> str | None:
    """Why a fork now would lose threads, or None."""
    python = threading.active_count()
    if python != 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        return f"a preloaded module runs {python - 1} Python threads ({names})"
    native = _native_threads()
    if native > known_native:
        return f"{native - known_native} native threads were started since the preload"
    return None


def fork_twice() -> int | None:
    """Fork a grandchild: returns 0 in it, its pid in the caller (None if it was killed)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild != 0:
            os.write(writer, str(grandchild).encode())
            os._exit(0)
        os.close(reader)
        os.close(writer)
        return 0
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return int(said) if said else None


def become(launch: ProcessPlan, supervisor: int) -> None:
    """In the forked process: turn into the rank and run its module."""
    gc.unfreeze()
    deadline = time.monotonic() + _ADOPTION_TIMEOUT
    while os.getppid() != supervisor:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.001)
    os.environ.clear()
    os.environ.update(launch.environment)
    try:
        settle(launch, supervisor)
        os.environ.update(launch.own_environment())
    except OSError as error:
        Rank(dict(os.environ)).error(type(error), error, error.__traceback__)
        os._exit(exit_code_of(error))
    freshen_random()
    freshen_threads()
    run_module(str(launch.module), launch.arguments)


def _say(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


if __name__ == "__main__":
    main()
