"""How long a supervisor has said nothing, by the time in which somebody listened. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SILENCE = 30.0
"""Seconds without a word after which a supervisor stands still: nobody watches its ranks then.

It speaks ten times a second, and once a second where a service has a thousand of them. What keeps
it longest is to clear away what a dead one left, 10 s. So only a process that is stopped, or a disk
that takes no line for so long, comes near it; and `Ending` waits no longer for a gang's end."""


@dataclass
class Hearing:
    """Of one conversation.

    Only waiting counts, and only as long as it was meant to be: a controller that stood still, or
    was busy, finds what was said meanwhile in the socket.
    """

    silent: float = 0.0

    def waited(self, seconds: float, meant: float) -> None:
        """Somebody has listened for so long, and meant to for `meant` seconds at most."""
        self.silent += max(0.0, min(seconds, meant))

    def heard(self) -> None:
        """There was a word."""
        self.silent = 0.0

    @property
    def over(self) -> bool:
        """Whether it has been silent for too long."""
        return self.silent > SILENCE


_STATES = {"T": "is stopped", "t": "is stopped", "D": "is in uninterruptible sleep"}


def silence_of(message: Mapping[str, Any]) -> str:
    """What is known of a supervisor's silence, in a line."""
    state = message["process"].get("state")
    how = _STATES.get(state, f"is in state {state}" if state else "is gone")
    said = f"said nothing for {message['seconds']:.0f} s"
    return f"the node's supervisor (pid {message['pid']}) {said}: its process {how}"
