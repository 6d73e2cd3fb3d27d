"""How the detections that ranks found apart come together on rank 0: files, whole or not there."""

from __future__ import annotations

import io
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.whole_file import write_whole

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Exchange:
    """The meeting of one evaluation, in a `directory` of its own.

    `key` says what detections are computed from. So what a dead attempt left there is told from
    what is waited for, or is the same.
    """

    directory: Path
    key: str
    wait_seconds: float

    def give(self, rank: int, rows: np.ndarray) -> None:
        """Leave a rank's detections (n, 7), whole and on disk or not at all; raises OSError."""
        buffer = io.BytesIO()
        np.savez(buffer, key=np.array(self.key), rows=rows)
        try:
            write_whole(self._share(rank), buffer.getvalue())
        except FileNotFoundError:
            # Rank 0 reads a share as soon as it has its name, and then clears the directory away.
            if self.directory.exists():
                raise

    def collect(self, own: np.ndarray, parts: int) -> np.ndarray:
        """Rank 0: all detections of ranks 0 (`own`) to `parts` - 1, as one process orders them.

        Removes the directory. Raises TimeoutError that names the missing ranks.
        """
        shares = {0: own}

        def missing() -> list[int]:
            for rank in set(range(1, parts)) - shares.keys():
                rows = self._read(rank)
                if rows is not None:
                    shares[rank] = rows
            return [rank for rank in range(parts) if rank not in shares]

        self._await("detections", missing)
        shutil.rmtree(self.directory, ignore_errors=True)
        rows = np.concatenate([shares[rank] for rank in range(parts)])
        # One process goes through the images by their ids, and one rank has all rows of an image.
        return rows[np.argsort(rows[:, 0], kind="stable")]

    def await_result(self, there: Callable[[], bool]) -> None:
        """Any other rank: wait until the result is `there`; raises TimeoutError."""
        self._await("result", lambda: [] if there() else [0])

    def _await(self, what: str, missing: Callable[[], list[int]]) -> None:
        deadline = time.monotonic() + self.wait_seconds
        while ranks := missing():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"waited {self.wait_seconds:g} s for the {what} of rank "
                    f"{', '.join(map(str, ranks))} in {self.directory}"
                )
            time.sleep(_POLL_SECONDS)

    def _share(self, rank: int) -> Path:
        return self.directory / f"rank-{rank}.npz"

    def _read(self, rank: int) -> np.ndarray | None:
        try:
            with np.load(self._share(rank)) as content:
                rows: np.ndarray = content["rows"]
                return rows if str(content["key"]) == self.key else None
        except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
