"""Snapshots: the files of a checkpoint in tmpfs, every few steps, while training goes on.

The copy is made between two steps, since the next one changes parameters in place: the tensors as
they are, between bytes that were learnt from the first file that MindSpore wrote. A thread then
reads the files: sha256, and whether all is finite.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn

from model.checkpoint import (
    AVERAGE,
    STATE,
    TrainingState,
    measure,
    part_of,
    split_average,
    statistics_of,
    write_json,
)
from model.checkpoint_frame import Frame, Numbers, finite, mapped, numbers
from model.journal import LOGGER
from orchestrator.rank import Rank

if TYPE_CHECKING:
    from orchestrator.rank import Slots


class Snapshots:
    """One rank's snapshots of a training; of a run that takes none, nothing is ever done."""

    def __init__(self, network: nn.Cell, rank: Rank) -> None:
        """Of `network`, where `rank` was told to."""
        self._rank = rank
        self._slots: Slots | None = rank.snapshots()
        self._frames: dict[str, Frame] = {}
        self._numbers: dict[str, list[Numbers]] = {}
        self._files: dict[Path, np.ndarray] = {}
        self._shares: dict[str, dict[str, Parameter]] = {}
        self._sealing: Future[None] | None = None
        if self._slots is not None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshots")
            self._shares = _shares(network, rank.rank)

    def before(self, step: int) -> None:
        """To be called before `step` is begun: what is to be written over is not needed any more.

        A rank that enters a step has sealed the snapshot before, and a step ends when all ranks
        have entered it. So when a slot is touched at the end of `step`, the other one is whole on
        all ranks; here they wait for its digests too.
        """
        if self._sealing is not None and self._slots is not None and self._slots.due(step):
            self._sealing.result()

    def after(self, step: int, loss: float, state: Callable[[], TrainingState]) -> None:
        """Take the snapshot of `step`, if one is due. Every rank calls this after the same steps.

        `loss` is this rank's; one that is not finite leaves the slot alone. Nothing that goes
        wrong here ends the training: there are no snapshots from then on, and the log says why.
        """
        if self._slots is None or not self._slots.due(step):
            return
        slot = self._slots.next()  # whether it is used or not: all ranks count alike
        if not math.isfinite(loss):
            return
        self._rank.phase("snapshot")
        try:
            self._take(self._slots, slot, step, state)
        except (OSError, ValueError) as error:
            self._give_up(f"{type(error).__name__}: {error}")
        self._rank.phase("train")

    def close(self) -> None:
        """Wait for the last seal."""
        if self._sealing is not None:
            self._sealing.result()

    def _take(
        self, slots: Slots, slot: Path, step: int, state: Callable[[], TrainingState]
    ) -> None:
        self.close()
        since = time.monotonic()
        first = not self._frames
        if first:
            size = sum(row.nbytes for share in self._shares.values() for row in share.values())
            lack = slots.lack(size)
            if lack:
                return self._give_up(lack)
        slots.open(slot)
        for name, share in self._shares.items():
            self._write(slot / name, name, share)
        files: dict[str, str | None] = dict.fromkeys(self._shares)
        if self._rank.rank == 0:
            write_json(slot / STATE, asdict(state()))
            files[STATE] = None
        slots.seal(slot, step, files)
        if first and self._rank.rank == 0:
            LOGGER.info("snapshots: %s, the first took %.3f s", slots.directory,
                        time.monotonic() - since)  # fmt: skip
        self._sealing = self._thread.submit(self._seal, slots, slot, step, tuple(files))

    def _write(self, path: Path, name: str, share: Mapping[str, Parameter]) -> None:
        """Write a file as `ms.save_checkpoint` does; one whose frame is not known is its work."""
        frame = self._frames.get(name) or self._resumed_frame(name, share)
        if frame is None:
            self._frames[name] = learn(path, share)
            return
        self._frames[name] = frame
        if path not in self._files:
            self._files[path] = mapped(path, frame.size)
        frame.write(self._files[path], share)

    def _resumed_frame(self, name: str, share: Mapping[str, Parameter]) -> Frame | None:
        """The frame of the file that was resumed from, where it is the same."""
        if self._rank.resume_from is None or not (self._rank.resume_from / name).is_file():
            return None
        frame = Frame.read(self._rank.resume_from / name)
        return frame if frame.fits(share) else None

    def _seal(self, slots: Slots, slot: Path, step: int, names: tuple[str, ...]) -> None:
        """In the thread: vouch for content too, or take the seal back."""
        try:
            for name, share in self._shares.items():
                if not finite(slot / name, self._numbers_of(name, share)):
                    slots.withdraw(slot)
                    LOGGER.warning("the snapshot of step %d is not finite: it is none", step)
                    return
            slots.seal(slot, step, {name: measure(slot / name)[1] for name in names})
        except (OSError, ValueError) as error:
            # The first seal stands: the files are complete, whoever reads them will see.
            LOGGER.warning("the snapshot of step %d has no digests: %s", step, error)

    def _numbers_of(self, name: str, share: Mapping[str, Parameter]) -> list[Numbers]:
        if name not in self._numbers:
            self._numbers[name] = numbers(self._frames[name], share)
        return self._numbers[name]

    def _give_up(self, reason: str) -> None:
        self._slots = None
        LOGGER.warning("no snapshots are taken, training goes on without: %s", reason)


def learn(path: Path, share: Mapping[str, Parameter]) -> Frame:
    """Have MindSpore write the file, and learn its frame. Raises OSError, ValueError."""
    path.unlink(missing_ok=True)  # there may be no room for both
    partial = path.with_name(f".{path.stem}.partial.ckpt")
    rows = [{"name": name, "data": parameter} for name, parameter in share.items()]
    ms.save_checkpoint(rows, str(partial))
    partial.chmod(0o600)
    frame = Frame.read(partial)
    if not frame.fits(share):
        raise ValueError(f"{partial} is not laid out as expected")
    os.replace(partial, path)
    return frame


def _shares(network: nn.Cell, rank: int) -> dict[str, dict[str, Parameter]]:
    """What this rank writes, by file: as in a checkpoint."""
    parameters, averages = split_average(network)
    if rank:
        return {part_of(rank): statistics_of(parameters)}
    return {part_of(0): parameters, **({AVERAGE: averages} if averages else {})}
