"""A durable write as a value, for tests that kill it at every step: see `tests.crash_points`."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from orchestrator import checkpoints, layout


@dataclass(frozen=True)
class Kind:
    """A durable write. `state` says what a fresh look finds: old or new; it raises for half."""

    prepare: Callable[[Path], None]
    write: Callable[[Path], None]
    state: Callable[[Path], str]
    relied: bool = True
    """Whether anything is done on the strength of it after the machine has crashed, so that it
    must be on disk by then; what lies in tmpfs is gone then anyway."""


def old_or_new(found: Any, old: Any, new: Any) -> str:
    """Raises AssertionError for what is neither."""
    if found == old:
        return "old"
    assert found == new, f"half: {found!r}"
    return "new"


def nothing(_: Path) -> None:
    """Nothing is there before, or to be done."""


def checkpoint(folder: Path, step: int, world_size: int = 1) -> Path:
    """A small checkpoint that verifies, below `folder/checkpoints`."""
    path = folder / "checkpoints" / f"step-{step:08d}"
    path.mkdir(parents=True)
    data = f"{step}".encode() * 500
    (path / checkpoints.MODEL).write_bytes(data)
    stated = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {"format": 1, "step": step, "world_size": world_size,
                "files": {checkpoints.MODEL: stated}}  # fmt: skip
    (path / checkpoints.MANIFEST).write_text(json.dumps(manifest))
    return path


@contextlib.contextmanager
def tmpfs_beside(folder: Path) -> Iterator[Path]:
    """What stands in for tmpfs, outside of what a trace of `folder` is about."""
    place = folder.with_name(f"tmpfs-of-{folder.name}")
    place.mkdir(exist_ok=True)
    with patch.object(layout, "_TMPFS", place):
        yield place
