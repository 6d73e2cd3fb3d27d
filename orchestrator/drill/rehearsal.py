"""A job file rehearsed before it is trusted: each kind of fault in a short run of its own.

A run is a real `muster run` in a temporary directory, broken once, and stopped as soon as the
verdict about its fault is there. Nothing of it stays, however the rehearsal ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.drill.faults import ALIASES, KINDS, Fault, FaultError
from orchestrator.journal import Event, read_events
from orchestrator.layout import RunDirectory
from orchestrator.plan import needs_port
from orchestrator.spec import DeviceKind, JobSpec

Tell = Callable[[str], None]

_POLL = 0.2
_GRACE = 60.0
_SIMULATED_NODE = "MUSTER_SIMULATED_NODE"
_OF_DEVICES = frozenset({"lose-device", "alarm-device"})
_OF_CHECKPOINTS = frozenset({"corrupt-checkpoint", "truncate-checkpoint"})
_EARLY = 3
"""The step after which a rank is broken: late enough to be at work."""


def faults_for(spec: JobSpec, kinds: Sequence[str] | None = None) -> list[Fault]:
    """One fault of every kind that applies to the job, or of those asked for.

    Raises FaultError for a kind that there is not.
    """
    named = [ALIASES.get(kind.strip(), kind.strip()) for kind in kinds or KINDS]
    unknown = [kind for kind in named if kind not in KINDS]
    if unknown:
        raise FaultError(f"no kind of fault: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return [_moment_for(kind, spec) for kind in named if kinds or applies(kind, spec)]


def applies(kind: str, spec: JobSpec) -> bool:
    """Whether a job has what a fault of this kind breaks."""
    simulated = bool(os.environ.get(_SIMULATED_NODE))
    if kind in _OF_DEVICES:
        return simulated and spec.resources.device is not DeviceKind.CPU
    if kind == "kill-scheduler":
        return needs_port(spec, simulated=simulated)
    # A disk of others is not filled; who has a small one asks for it by --kinds.
    return kind != "fill-disk"


def _moment_for(kind: str, spec: JobSpec) -> Fault:
    rank = spec.resources.ranks - 1 if KINDS[kind].needs_rank else None
    every = spec.checkpoint.every_steps
    step = every + 1 if every and kind in _OF_CHECKPOINTS else _EARLY
    return Fault(kind, rank, step=step)


def rehearse(
    file: str, overrides: Sequence[str], faults: Sequence[Fault], longest: float, tell: Tell
) -> list[dict[str, Any]]:
    """Hold the drills one after another; a result each, with the seconds that it took.

    `longest` bounds each (s). Ctrl-C ends the run under way in order, and leaves nothing.
    """
    results = []
    for number, fault in enumerate(faults, 1):
        tell(f"drill {number} of {len(faults)}: {fault}")
        since = time.monotonic()
        with _a_place() as place:
            result = _hold(file, overrides, fault, place, since + longest)
        results.append({**result, "seconds": round(time.monotonic() - since, 1)})
        tell(f"  {'passed' if result['passed'] else 'FAILED: ' + '; '.join(result['failures'])}")
    return results


@contextlib.contextmanager
def _a_place() -> Iterator[Path]:
    """A directory for one run, and for a copy of the rehearsal node that it may break."""
    place = Path(tempfile.mkdtemp(prefix="muster-drill-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _hold(
    file: str, overrides: Sequence[str], fault: Fault, place: Path, deadline: float
) -> dict[str, Any]:
    directory = RunDirectory(place / "run")
    options = [item for override in overrides for item in ("--set", override)]
    run = ["run", file, "--run-dir", str(directory.root), *options, "--drill", str(fault)]
    with open(place / "output", "wb") as output:
        ended = _drive(run, directory, place, output, deadline)
        if ended == -signal.SIGKILL and fault.kind == "kill-controller":
            # Nobody else is there: this is the somebody who resumes.
            _drive(["resume", str(directory.root)], directory, place, output, deadline)
    results = _results(directory)
    if results:
        return results[-1]
    told = (place / "output").read_text(errors="replace").strip().splitlines()[-3:]
    why = "its moment, or its end, did not come in time" if time.monotonic() > deadline else ""
    return {
        "fault": str(fault),
        "promised": "",
        "found": "",
        "passed": False,
        "failures": [why or "the run ended without a verdict: " + " | ".join(told)],
    }


def _drive(
    arguments: Sequence[str],
    directory: RunDirectory,
    place: Path,
    output: Any,
    deadline: float,
) -> int:
    """A command of ours until there is a verdict, or it has ended; its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=_environment(place),
        start_new_session=True,  # a Ctrl-C is ours to pass on
    )
    try:
        while process.poll() is None and not _results(directory) and time.monotonic() < deadline:
            time.sleep(_POLL)
    finally:
        _end(process)
    return process.returncode


def _environment(place: Path) -> dict[str, str]:
    """With a rehearsal node of its own, since a drill may break it."""
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), here)))
    environment = {**os.environ, "PYTHONPATH": path}
    node = os.environ.get(_SIMULATED_NODE)
    if node:
        copy = place / "node"
        if not copy.exists():
            shutil.copytree(node, copy, symlinks=True)
        environment[_SIMULATED_NODE] = str(copy)
    return environment


def _end(process: subprocess.Popen[bytes]) -> None:
    """In order, as by Ctrl-C; by force if that takes too long: its ranks go with it."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _results(directory: RunDirectory) -> list[dict[str, Any]]:
    return [event.data for event in _events(directory) if event.kind == "drill_result"]


def _events(directory: RunDirectory) -> list[Event]:
    return read_events(directory.events) if directory.events.exists() else []
