"""The supervisor's end of its conversation with one controller after another.

A controller may be killed at any instant. What it was told of the attempt under way is kept
here and told again, in order, to the one that comes after it: a gang is folded from the same
messages either way. What is only true for a moment (heartbeats, ticks) is not kept, it is seen
anew. Standard library only (the supervisor uses it).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.link import Link, LinkError, Message

_DIAL_PERIOD = 0.1


class Uplink:
    """At most one conversation at a time, with whoever listens on `path`."""

    def __init__(self, path: Path, hello: Callable[[], Message]) -> None:
        """`hello` makes the first message of every conversation."""
        self._path = path
        self._hello = hello
        self._link: Link | None = None
        self._told: list[Message] = []
        self._next_dial = 0.0
        self.away_since: float | None = None
        """Since when (CLOCK_MONOTONIC) nobody listens; None: somebody does."""

    @property
    def up(self) -> bool:
        """Whether there is a controller to talk to."""
        return self._link is not None

    @property
    def behind(self) -> bool:
        """True while the controller is away or does not keep up: leave out what may be left out."""
        return self._link is None or self._link.behind

    def fileno(self) -> int:
        return -1 if self._link is None else self._link.fileno()

    def dial(self) -> None:
        """Begin a conversation: hello, and all that was told before. Raises OSError."""
        link = Link.dial(self._path)
        self._link, self.away_since = link, None
        for message in (self._hello(), *self._told):
            link.send(message)

    def redial(self) -> bool:
        """Try again, not too often; True when somebody listens again."""
        now = time.monotonic()
        if self.up or now < self._next_dial:
            return False
        self._next_dial = now + _DIAL_PERIOD
        try:
            self.dial()
        except OSError:
            return False
        return True

    def say(self, message: Message) -> None:
        """Send what only matters now."""
        if self._link is not None:
            self._link.send(message)

    def say_all(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.say(message)

    def tell(self, message: Message) -> None:
        """Send what a later controller must know too."""
        self._told.append(message)
        self.say(message)

    def keep(self, messages: Iterable[Message]) -> None:
        """For a later controller only: this one has seen it."""
        self._told.extend(messages)

    def forget(self) -> None:
        """Another attempt begins: nobody needs to hear of the last one."""
        self._told.clear()

    def receive(self) -> list[Message]:
        """What has arrived. After it `up` tells whether the conversation goes on."""
        if self._link is None:
            return []
        try:
            messages = self._link.receive()
        except LinkError:
            messages, self._link.closed = [], True
        if self._link.closed:
            self.hang_up()
        return messages

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        if self._link is not None:
            self._link.flush()

    def hang_up(self) -> None:
        """End the conversation, if there is one."""
        if self._link is not None:
            self._link.close()
            self._link = None
            self.away_since = time.monotonic()
