"""Searches for a job's own regular expressions, in a process that can be ended.

Some take for ever on some texts: `(\\w+\\s*)*!` on a line of forty words. In a thread of the
controller such a search could not be stopped, and would hold up everything else. This file is that
process too: standard library only.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from types import FrameType

EACH = 1.0
ALL = 10.0
"""Seconds for one pattern, and for all of a failure."""


def found_in(text: str, patterns: Sequence[str]) -> dict[str, bool | None]:
    """Whether each pattern is found; None where it took too long to tell."""
    if not patterns:
        return {}
    known: dict[str, bool | None] = dict.fromkeys(patterns)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", __file__],
            input=json.dumps({"text": text, "patterns": list(known)}).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=ALL,
            check=False,
        )
        said = done.stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
    except OSError:
        said = b""
    for pattern, answer in zip(known, said.splitlines(), strict=False):
        known[pattern] = json.loads(answer)
    return known


class _TooLong(Exception):
    """The time for a pattern is up."""


def _too_long(number: int, frame: FrameType | None) -> None:
    raise _TooLong


def _search(pattern: str, text: str) -> bool | None:
    # The engine looks for signals every few thousand steps, but only in the main thread.
    signal.setitimer(signal.ITIMER_REAL, EACH)
    try:
        return re.search(pattern, text) is not None
    except _TooLong:
        return None
    except (re.error, RecursionError, OverflowError):
        return False  # compiled when the job was read, by another Python
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    """Answer on stdout, a line of JSON for each pattern, as soon as it is known."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_long)
    asked = json.load(sys.stdin)
    for pattern in asked["patterns"]:
        print(json.dumps(_search(pattern, asked["text"])), flush=True)


if __name__ == "__main__":
    main()
