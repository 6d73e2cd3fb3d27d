"""The one error of the data side: what is wrong with a data set, all of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

EXIT_WRONG_CONTENT = 65
EXIT_NOT_READABLE = 66
MESSAGES_SHOWN = 20


class DataError(Exception):
    """The data set cannot be used; the message lists every problem (the first twenty in full).

    ``exit_code`` is 66 if something is not there or cannot be read and 65 if it was read but its
    content is wrong; ``problems`` are the single messages. Survives pickling.
    """

    def __init__(
        self,
        where: str,
        problems: Sequence[str],
        exit_code: int = EXIT_WRONG_CONTENT,
        total: int | None = None,
    ) -> None:
        """Keep the parts; ``total`` may exceed the messages kept."""
        self.where = where
        self.problems = tuple(problems)
        self.exit_code = exit_code
        self.total = len(self.problems) if total is None else total
        super().__init__(where, self.problems, exit_code, self.total)

    def __str__(self) -> str:
        """Return one line a problem, the first twenty, and how many more there are."""
        noun = "problem" if self.total == 1 else "problems"
        lines = [f"{self.total} {noun} with the data set {self.where}:"]
        lines += [f"  - {problem}" for problem in self.problems[:MESSAGES_SHOWN]]
        if self.total > MESSAGES_SHOWN:
            lines.append(f"  ... and {self.total - MESSAGES_SHOWN} more of these")
        return "\n".join(lines)


@dataclass
class Problems:
    """Mistakes found so far; only the first few are kept, all are counted."""

    where: str
    messages: list[str] = field(default_factory=list)
    total: int = 0
    exit_code: int = EXIT_WRONG_CONTENT
    tolerated: tuple[str, ...] = ()

    def add(
        self, message: str, *, kind: str = "", image_id: int | None = None, missing: bool = False
    ) -> None:
        """Note one mistake; ``missing`` if something is not there or cannot be read.

        ``kind`` and ``image_id`` are for a collector that sorts (:mod:`model.data_check`);
        a ``tolerated`` kind is none.
        """
        if kind in self.tolerated:
            return
        self.total += 1
        if len(self.messages) < MESSAGES_SHOWN:
            self.messages.append(message)
        if missing:
            self.exit_code = EXIT_NOT_READABLE

    def stop_if_any(self) -> None:
        """Raise DataError if there was a mistake so far."""
        if self.total:
            raise DataError(self.where, self.messages, self.exit_code, self.total)
