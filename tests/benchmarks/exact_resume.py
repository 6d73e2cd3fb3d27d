"""Does a run of eight ranks that was killed and resumed end with the very same bytes?

The rehearsal job is run twice with few steps on a small data set of its own: once undisturbed,
once with a random rank killed after a random step behind the first checkpoint. Compared are all
files of the final checkpoint, by the sha256 of their manifests, which are verified first, and
what evaluation left: its figures and its predictions.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.checkpoints import MANIFEST, Verified, catalogue, verify
from orchestrator.journal import read_events
from orchestrator.layout import RunDirectory
from orchestrator.ledger import fold
from tests.benchmarks.bench import MUSTER, Argv, Bench, BenchmarkError, Unavailable, tail
from tests.benchmarks.figures import Better, Measurement, Summary

NAMES = ("exact_resume_8",)

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "jobs" / "rehearsal_8p_cpu.yaml"
RANKS = 8
STEPS = 12
EVERY = 4
IMAGES = 64
RUN_TIMEOUT = 1200.0
EVALUATION = {"figures": "evaluation.json", "predictions": "predict_*.json"}


@dataclass(frozen=True)
class Finding:
    """Which files of two runs are the same; `different` names the others, missing ones too."""

    identical: tuple[str, ...]
    different: tuple[str, ...]

    @property
    def measurement(self) -> Measurement:
        """Identical files of how many; right only if all are."""
        count = len(self.identical)
        return Measurement(
            "identical files",
            Summary(count, count, count, count + len(self.different)),
            peer_name="the same run, undisturbed",
            better=Better.HIGHER,
            verdict=bool(count) and not self.different,
        )


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Two runs, one of them killed and resumed."""
    if not JOB.is_file():
        raise Unavailable(f"{JOB.relative_to(ROOT)} is not there yet")
    chance = random.SystemRandom()
    fault = f"kill-rank:{chance.randrange(RANKS)}@step:{chance.randrange(EVERY + 1, STEPS - 2)}"
    data = bench.directory / "data"
    make_data: Argv = [sys.executable, "-m", "model.rehearsal_data", data, "--images", str(IMAGES)]
    bench.complete(make_data, bench.directory / "data.log", 300.0, cwd=ROOT)
    with bench.progress.doing(f"{STEPS} steps of {RANKS} ranks, undisturbed"):
        undisturbed = run(bench, data, [])
    with bench.progress.doing(f"{STEPS} steps of {RANKS} ranks, {fault}"):
        resumed = run(bench, data, ["--drill", fault])
    check_ends(undisturbed, resumed)
    finding = compare(contents(undisturbed), contents(resumed))
    if finding.different:
        bench.progress.say(f"after {fault} different: {', '.join(finding.different)}")
    return {"exact_resume_8": finding.measurement}


def run(bench: Bench, data: Path, more: list[str]) -> RunDirectory:
    """One run of the rehearsal job to its end."""
    folder = bench.folder("run")
    changes = {
        "resources.ranks": RANKS,
        "args.data_dir": data,
        "args.max_steps": STEPS,
        "args.evaluate_at_end": 1,
        "checkpoint.every_steps": EVERY,
    }
    options = [f"--set={path}={value}" for path, value in changes.items()]
    argv: Argv = [*MUSTER, "run", JOB, "--run-dir", folder / "run", *options, *more]
    bench.complete(argv, folder / "output", RUN_TIMEOUT, cwd=ROOT)
    return RunDirectory(folder / "run")


def check_ends(undisturbed: RunDirectory, resumed: RunDirectory) -> None:
    """The comparison says something only if one run lost a rank and went on from a checkpoint."""
    if fold(read_events(undisturbed.events)).incidents:
        raise BenchmarkError(f"the undisturbed run had a failure:\n{tail(undisturbed.events)}")
    events = read_events(resumed.events)
    starts = [event.data["resumed_step"] for event in events if event.kind == "attempt"]
    if len(starts) < 2 or starts[0] != 0 or starts[-1] == 0:
        raise BenchmarkError(f"the disturbed run began its attempts at steps {starts}")


def contents(directory: RunDirectory) -> dict[str, str]:
    """The sha256 of everything that must not depend on a failure, by name."""
    newest = next(iter(catalogue(directory.checkpoints)), None)
    result = verify(newest) if newest else None
    if newest is None or not isinstance(result, Verified) or result.step != STEPS:
        raise BenchmarkError(f"no whole checkpoint of step {STEPS}: {result or newest}")
    manifest: dict[str, Any] = json.loads((newest.path / MANIFEST).read_bytes())
    digests = {name: str(stated["sha256"]) for name, stated in manifest["files"].items()}
    for name, pattern in EVALUATION.items():
        found = sorted(directory.root.rglob(pattern))
        if len(found) != 1:
            raise BenchmarkError(f"{len(found)} files {pattern} in {directory.root}")
        digests[name] = hashlib.sha256(found[0].read_bytes()).hexdigest()
    return digests


def compare(one: dict[str, str], other: dict[str, str]) -> Finding:
    """Every file that one of them has, sorted by whether both have the same bytes."""
    every = sorted({*one, *other})
    same = tuple(name for name in every if one.get(name) == other.get(name))
    return Finding(same, tuple(name for name in every if name not in same))
