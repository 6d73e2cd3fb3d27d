"""What a simulated tool does when it is called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """Text on stdout and an exit code; `errors` on stderr; or it hangs and does neither."""

    text: str = ""
    code: int = 0
    errors: str = ""
    hangs: bool = False


HANGS = Answer(hangs=True)
