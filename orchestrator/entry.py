"""Run a job's module as a rank: `python -m orchestrator.entry MODULE [ARG…]`.

What `python -m MODULE` does, with the end made unmistakable: an exception is written to
the error file and the process leaves at once with its exit code. Standard library only.
"""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Sequence

from orchestrator.rank import Rank, exit_code_of
from orchestrator.stack_signal import install


def run_module(module: str, arguments: Sequence[str]) -> None:
    """Run `module` as `__main__`; returns only after success, else ends the process."""
    # As `python -m` does: the job's own directory comes first.
    directory = os.getcwd()
    sys.path[:] = [directory, *(entry for entry in sys.path if entry not in ("", directory))]
    sys.argv = [module, *arguments]
    environment = dict(os.environ)  # the module may take its secrets out
    install(environment)  # here too: the module need not use the contract
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except BaseException as error:
        code = exit_code_of(error)
        if code == 0:
            return
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        Rank(environment).error(type(error), error, error.__traceback__)
        # Interpreter exit would wait a minute for peers inside the communication library.
        leave(code)


def leave(code: int) -> None:
    """End the process now, with what was printed written out."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code & 0xFF)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m orchestrator.entry MODULE [ARG…]")
    run_module(sys.argv[1], sys.argv[2:])
