"""What `Rank.step` costs a training step, in microseconds."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.bench import SCRIPTS, Bench
from tests.benchmarks.figures import Measurement, Summary

NAMES = ("heartbeat",)

BATCH = 10_000
BATCHES = 30
_TMPFS = Path("/dev/shm")


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """A process that is a rank, as far as its environment goes, beats into tmpfs."""
    memory = _TMPFS if os.access(_TMPFS, os.W_OK) else bench.directory
    spool = Path(tempfile.mkdtemp(prefix="benchmark-", dir=memory))
    try:
        with bench.progress.doing(f"{BATCHES} batches of {BATCH} steps"):
            text = bench.output(
                [sys.executable, SCRIPTS / "beat.py", str(BATCH), str(BATCHES)],
                timeout=120.0,
                MUSTER_JOB="heartbeat",
                MUSTER_HEARTBEAT=str(spool / "beat"),
            )
    finally:
        shutil.rmtree(spool)
    return {"heartbeat": Measurement("µs", Summary.of(json.loads(text)))}
