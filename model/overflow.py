"""Steps skipped because their mean gradient was not finite: counted, told and limited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.journal import LOGGER


@dataclass
class Overflows:
    """How many steps of a run were skipped, and how many of those in a row just now.

    The same on every rank, as all of them see the same mean gradient.
    """

    limit: int
    skipped: int = 0
    in_a_row: int = 0

    def note(self, step: int, *, skipped: bool) -> None:
        """Count global step `step`. Raises FloatingPointError past `limit` in a row."""
        if not skipped:
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        LOGGER.warning(
            "step %d skipped: its mean gradient is not finite (%d in a row, %d in all)",
            step, self.in_a_row, self.skipped,
        )  # fmt: skip
        if self.in_a_row > self.limit:
            raise FloatingPointError(
                f"the gradients of {self.in_a_row} steps in a row, up to step {step}, are not "
                f"finite: lower loss_scale or lr (overflow_limit={self.limit} allows no more)"
            )

    def account(self) -> str:
        """Say in a few words how many there were."""
        return f"{self.skipped} steps skipped for gradients that were not finite"

    def to_json(self) -> dict[str, int]:
        """What a checkpoint keeps of it."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what `to_json` gave; older checkpoints have nothing of it."""
        self.skipped = int(saved.get("skipped", 0))
        self.in_a_row = int(saved.get("in_a_row", 0))
