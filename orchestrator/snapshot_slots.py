"""A rank's hand in snapshots: two slots in tmpfs, written in turn. Standard library only.

A slot (`slot-0/`, `slot-1/`) holds the very files of a checkpoint but the manifest, and the seal of
every rank, `part-K.json`: step, attempt, world size, and of each file that the rank wrote the size
and sha256. A seal goes before its rank touches the slot and comes back, by a rename, when all that
it vouches for is there. So a slot whose seals all tell the same step and attempt is whole, and a
kill at any moment leaves the other one.

Why the other one is whole by then: every rank seals what it copied after step S before it enters
step S + 1, and no step ends before all ranks have entered it, since they meet in its collective.
When a rank touches a slot again, a later step has ended: all ranks have sealed the other slot.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.layout import SNAPSHOT_SLOTS, snapshot_seal, snapshot_slot, write_bytes

SEAL_FORMAT = 1
RESERVE = 32 << 20
"""Bytes that a snapshot leaves to others: heartbeats lie in the same tmpfs."""

_CGROUPS = Path("/sys/fs/cgroup")
_V2 = ("", "memory.max", "memory.current")
_V1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes")


@dataclass
class Slots:
    """The slots of one rank in one attempt. Every rank must ask for them after the same steps."""

    directory: Path
    every: int
    rank: int
    size: int
    attempt: int
    resumed_from: Path | None = None
    _turn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        # Until another is whole, the one that was resumed from is the newest there is.
        self._turn = int(self.resumed_from == snapshot_slot(self.directory, 0))

    def due(self, step: int) -> bool:
        """Whether a snapshot is to be taken after this step."""
        return step % self.every == 0

    def next(self) -> Path:
        """The slot whose turn it is; its content is not touched yet."""
        slot = snapshot_slot(self.directory, self._turn)
        self._turn = (self._turn + 1) % SNAPSHOT_SLOTS
        return slot

    def open(self, slot: Path) -> None:
        """Make a slot writable: from now on it is nothing to resume from. Raises OSError."""
        slot.mkdir(mode=0o700, exist_ok=True)
        for name in (snapshot_seal(slot, self.rank), slot / "MANIFEST.json"):
            name.unlink(missing_ok=True)

    def seal(self, slot: Path, step: int, files: Mapping[str, str | None]) -> None:
        """Vouch for this rank's files of `step`, by name with their sha256.

        None: not worked out yet. The file is complete all the same, which is what a killed process
        needs; a second seal with the digest guards it against what may come later. Raises OSError.
        """
        sizes = {name: (slot / name).stat().st_size for name in files}
        document = {
            "format": SEAL_FORMAT,
            "step": step,
            "attempt": self.attempt,
            "rank": self.rank,
            "world_size": self.size,
            "files": {name: {"size": sizes[name], "sha256": files[name]} for name in files},
        }
        data = json.dumps(document).encode()
        write_bytes(snapshot_seal(slot, self.rank), data, durable=False)

    def withdraw(self, slot: Path) -> None:
        """Take the seal back: what it vouched for is of no use."""
        with contextlib.suppress(OSError):
            snapshot_seal(slot, self.rank).unlink(missing_ok=True)

    def lack(self, size: int) -> str:
        """Why there is no room for two slots with `size` bytes of this rank; empty: there is.

        What an earlier attempt has left in them is written over and needs no room.
        """
        needed = SNAPSHOT_SLOTS * size + RESERVE - self._present()
        for what, free in _free(self.directory):
            if free < needed:
                return f"{what} has {free >> 20} MiB free, two of them need {needed >> 20} MiB"
        return ""

    def _present(self) -> int:
        own = {f"rank-{self.rank}.ckpt"} if self.rank else {"model.ckpt", "ema.ckpt"}
        files = (
            snapshot_slot(self.directory, number) / name
            for number in range(SNAPSHOT_SLOTS)
            for name in own
        )
        return sum(file.stat().st_size for file in files if file.is_file())


def _free(directory: Path) -> Iterator[tuple[str, int]]:
    """Bytes that may still be taken, by what limits them; a limit that cannot be read is none."""
    system = os.statvfs(directory)
    yield f"the file system of {directory}", system.f_bavail * system.f_frsize
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        [available] = [line for line in lines if line.startswith("MemAvailable:")]
        yield "this machine's memory", int(available.split()[1]) << 10
    for group, names in _memory_groups():
        with contextlib.suppress(OSError, ValueError):
            limit = int((group / names[1]).read_text())  # "max" is no limit
            used = int((group / names[2]).read_text()) - _reclaimable(group)
            yield f"the memory cgroup {group}", limit - used


def _reclaimable(group: Path) -> int:
    """Cached file content that the kernel gives up first."""
    rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return sum(int(row[1]) for row in rows if row[0] in ("inactive_file", "total_inactive_file"))


def _memory_groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """This process's memory cgroup and those above it, version 1 and 2."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            names = _V1 if "memory" in controllers.split(",") else _V2
            if controllers and names is _V2:
                continue
            below = Path(path.lstrip("/"))
            for group in (below, *below.parents):
                yield _CGROUPS / names[0] / group, names
