"""`interrupted.py N COMMAND…`: the command line, which gets a SIGINT before its Nth line of Python.

0: never. The last line on stderr is then how many lines there were.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from orchestrator import __main__ as muster
from orchestrator import interrupts

_MOMENT = int(sys.argv.pop(1))
_passed = 0


def _trace(frame: Any, event: str, argument: Any) -> Any:
    global _passed
    if event == "line":
        _passed += 1
        if _passed == _MOMENT:
            sys.settrace(None)
            os.kill(os.getpid(), signal.SIGINT)
            return None
    return _trace


def _begin() -> None:
    """Count from where the command line is ready for it; before that is Python's own start."""
    _leave_at_once()
    sys.settrace(_trace)


_leave_at_once, interrupts.leave_at_once = interrupts.leave_at_once, _begin
try:
    muster.main()
finally:
    sys.settrace(None)
    print(_passed, file=sys.stderr)
