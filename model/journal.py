"""What a training run says: log lines in the original's form, and metrics as JSON lines."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

LOGGER = logging.getLogger("muster.model")
_FORM = "%(asctime)s:%(levelname)s:%(message)s"


def start_log() -> logging.Logger:
    """Send the log to standard output, as `2026-01-01 12:00:00,000:INFO:message`."""
    if not LOGGER.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter(_FORM))
        LOGGER.addHandler(handler)
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
    return LOGGER


class Metrics:
    """JSON lines appended to a file, one a step; without a file, nothing.

    The file outlives attempts: a step that was trained again stands there again, with a higher
    `attempt`, and the last line of a step is the one that counts.
    """

    def __init__(self, path: Path | None, attempt: int) -> None:
        self.attempt = attempt
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            torn = path.exists() and not _ends_with_newline(path)
            # One line, one write: a kill leaves whole lines but perhaps the last.
            self._file = open(path, "a", encoding="utf-8", buffering=1)
            if torn:
                self._file.write("\n")

    def write(self, **values: Any) -> None:
        """Append one record, with the attempt and the time (s since 1970)."""
        if self._file is not None:
            record = {"attempt": self.attempt, "time": round(time.time(), 3), **values}
            self._file.write(json.dumps(_plain(record), allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class Progress:
    """The lines of the log: one a step, and every `interval` steps one that sums them up."""

    def __init__(self, interval: int, steps_per_epoch: int, global_batch: int, *, sums: bool):
        self.interval = interval
        self.steps_per_epoch = steps_per_epoch
        self.global_batch = global_batch
        self.sums = sums
        self._losses: list[float] = []
        self._steps = 0
        self._waited = 0.0
        self._since = time.monotonic()

    def started(self, step: int, side: int) -> None:
        """Say that global step `step` (from 1) begins, with inputs of `side` pixels."""
        LOGGER.info("iter[%d], shape%d", step - 1, side)

    def finished(self, step: int, loss: float, rate: float, waited: float) -> None:
        """Say how the last interval went, if `step` ends one; epochs and iterations from 0.

        `waited` is how long the step's batch was waited for, in seconds.
        """
        # A skipped step may have no finite loss.
        self._losses += [loss] if math.isfinite(loss) else []
        self._steps += 1
        self._waited += waited
        index = step - 1
        if index % self.interval:
            return
        now = time.monotonic()
        count, seconds = self._steps, max(now - self._since, 1e-9)
        loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        if self.sums:
            LOGGER.info(
                "epoch[%d], iter[%d], loss:%f, %.2f imgs/sec, lr:%s, per step time: %sms, "
                "data wait: %.1fms",
                index // self.steps_per_epoch, index, loss,
                self.global_batch * count / seconds, rate, seconds / count * 1000,
                self._waited / count * 1000,
            )  # fmt: skip
        self._losses, self._steps, self._waited, self._since = [], 0, 0.0, now


def _plain(value: Any) -> Any:
    """Turn numbers that are not finite, which JSON does not have, into null."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
