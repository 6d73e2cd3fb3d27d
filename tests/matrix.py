"""Every fault in every phase of a run of two ranks, and what must come of it.

The ranks are `tests/scripts/worker.py`, whose state is a function of all steps of all ranks; Ray is
a stand-in that starts supervisors at once. All else is real: `muster run`, its supervisor, signals,
checkpoints, the verdict in the journal.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.simulated.directory import VARIABLE, NodeDirectory
from cluster.simulated.rehearsal import create
from orchestrator.drill import KINDS, Fault, parse
from orchestrator.drill.verdict import LATE
from orchestrator.health import Sign
from orchestrator.heartbeat import PHASES
from tests.runs import SCRIPTS, Job, assert_nothing_left
from tests.simulated import node

STEPS, EVERY = 40, 10
PLAIN = [sys.executable, str(SCRIPTS / "plain_run.py")]
RANKS = (0, 1)

_SEES_NAN = "NUMERIC" in Sign.__members__
_EARLY = frozenset({"init", "join", "load", "compile", "train", "checkpoint"})
"""Phases that a run enters for the first time before it has a checkpoint."""

_SMALL_DISK = 'mount -t tmpfs -o size=3m none "$1" && shift && exec "$@"'


@dataclass(frozen=True)
class End:
    """How a fault ends: the class of its incident, how many attempts there are, what was refused.

    `resumes`: the run is to be resumed by a person. `then`: another fault that brings it to light.
    """

    failure: str | None
    attempts: int = 2
    refused: str = ""
    resumes: bool = False
    then: str = ""
    damaged: bool = False


ENDS: dict[str, End] = {
    "kill-rank": End("process"),
    "term-rank": End("preemption"),
    "hang-rank": End("hang"),
    "slow-rank": End(None, attempts=1),
    "oom-rank": End("oom"),
    "nan-loss": End("numeric"),
    "lose-device": End("device"),
    "alarm-device": End("device"),
    "kill-scheduler": End("rendezvous"),
    "kill-supervisor": End("node"),
    "kill-raylet": End(None, attempts=1),
    "kill-controller": End(None, resumes=True),
    "preempt": End("preemption"),
    "fill-disk": End("storage"),
    "corrupt-checkpoint": End("process", then="kill-rank:1@step:28", damaged=True),
    "truncate-checkpoint": End("process", then="kill-rank:1@step:28", damaged=True),
}
"""By kind; `end_of` has what differs in a phase."""

_NO_CHECKPOINT = End(None, attempts=1, refused="there is no checkpoint yet")


def end_of(kind: str, phase: str) -> End:
    """The entry of the table for a cell."""
    if ENDS[kind].damaged and phase in _EARLY:
        return _NO_CHECKPOINT
    return ENDS[kind]


def cells() -> list[tuple[str, str]]:
    """The whole matrix, but for a loss that is not a number where nothing looks at it yet."""
    kinds = [kind for kind in KINDS if kind != "nan-loss" or _SEES_NAN]
    return [(kind, phase) for kind in kinds for phase in PHASES]


def pairwise() -> list[tuple[str, str]]:
    """Cells in which every kind and every phase occurs, the phases in turn."""
    kinds = [kind for kind, phase in cells() if phase == PHASES[0]]
    chosen = [(kind, PHASES[number % len(PHASES)]) for number, kind in enumerate(kinds)]
    told = [(kind, phase) for kind, phase in chosen if not ENDS[kind].damaged]
    return told + [(kind, "evaluate") for kind, _ in chosen if ENDS[kind].damaged]


def job(directory: Path, kinds: Sequence[str], **args: Any) -> Job:
    """A job that passes through all phases, on devices that can be broken if they are to be."""
    devices = any(kind.endswith("-device") for kind in kinds)
    resources = {"device": "ascend" if devices else "cpu", "ranks": len(RANKS)}
    launch = {"mode": "rank_table"} if devices else {"mode": "dynamic", "bind": "none"}
    limit = "6s"
    document = {
        "version": 1,
        "name": "matrix",
        "command": [sys.executable, str(SCRIPTS / "worker.py")],
        "workdir": str(directory),
        "args": {"steps": STEPS, "pause": 0.02, "stay": 0.3, **args},
        "resources": resources,
        "launch": launch,
        "checkpoint": {"every_steps": EVERY, "keep": 9},
        "health": {
            "heartbeat_timeout": limit,
            "phase_timeouts": {phase: limit for phase in PHASES if phase != "train"},
        },
        "restart": {
            "backoff": {"first": 0, "max": 0},
            "budgets": dict.fromkeys(("process", "oom", "hang", "node", "storage", "device"), 20),
            "no_progress": 20,
        },
    }
    file = directory / "job.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    if devices and not (directory / "node").exists():
        create(NodeDirectory(directory / "node"), node("910B3", 8))
    return Job(file, directory / "run")


def environment(directory: Path) -> dict[str, str]:
    """With the rehearsal node of the job, if it has one."""
    place = directory / "node"
    return {**os.environ, **({VARIABLE: str(place)} if place.exists() else {})}


def muster(directory: Path, *arguments: str | Path, timeout: float = 120.0) -> tuple[int, str]:
    """A command without a Ray, to its end: exit code and output."""
    done = subprocess.run(
        [*PLAIN, *map(str, arguments)],
        env=environment(directory),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert "Traceback (most recent call last)" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def run(task: Job, *faults: str) -> tuple[int, str]:
    """A run with its faults; a run whose controller was killed is resumed."""
    directory = task.file.parent
    drills = [item for fault in faults for item in ("--drill", fault)]
    code, text = muster(directory, "run", task.file, "--run-dir", task.run_dir, *drills)
    while code == -signal.SIGKILL:
        code, more = muster(directory, "resume", task.run_dir)
        text += more
    return code, text


def run_on_small_disk(task: Job, *faults: str) -> tuple[int, str]:
    """The same on a file system of its own, in a mount namespace of its own; kept afterwards."""
    mount = task.file.parent / "small"
    mount.mkdir()
    inside, drills = mount / "run", [item for fault in faults for item in ("--drill", fault)]
    keep = ["sh", "-c", '"$@"; code=$?; cp -r "$0" "$0/../../run"; exit $code', str(inside)]
    command = [*PLAIN, "run", str(task.file), "--run-dir", str(inside), *drills]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _SMALL_DISK, "sh", str(mount), *keep, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback (most recent call last)" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def final_state(task: Job, steps: int = STEPS) -> str:
    """Of the last checkpoint: the digest of the model."""
    manifest = task.run_dir / "checkpoints" / f"step-{steps:08d}" / "MANIFEST.json"
    files = json.loads(manifest.read_text())["files"]
    return str(files["model.ckpt"]["sha256"])


def verdicts(task: Job) -> list[dict[str, Any]]:
    """What came of the faults, in order."""
    return [event["data"] for event in task.events() if event["kind"] == "drill_result"]


def hold(directory: Path, kind: str, phase: str, calm: str) -> None:
    """One cell: the fault in the phase, and all that must be so afterwards."""
    end = end_of(kind, phase)
    rank = ":1" if KINDS[kind].needs_rank else ""
    fault = f"{kind}{rank}@phase:{phase}"
    task = job(directory, [kind])
    held = run_on_small_disk if kind == "fill-disk" else run
    code, text = held(task, fault, *([end.then] if end.then and not end.refused else []))
    check(task, calm, text)
    found = next(one for one in verdicts(task) if one["fault"] == fault)
    if end.refused:
        assert end.refused in found["failures"][0], text
        return
    assert kept_word(found), f"{fault}: {found}\n{text}"
    assert code == 0 or found["failures"], text
    classes = [one["class"] for one in task.incidents()]
    allowed = [[end.failure]] if end.failure else [[]]
    if kind == "fill-disk":
        allowed.append([])  # nobody has written anything while it was full
    assert classes in allowed, f"{fault}: {classes}\n{text}"
    if kind != "fill-disk":
        assert task.kinds().count("attempt") == end.attempts, text
    if end.damaged:
        assert "quarantined" in task.kinds(), text


def kept_word(verdict: dict[str, Any]) -> bool:
    """Whether a verdict is good but for what a busy machine alone makes late."""
    return all(failure.startswith(LATE) for failure in verdict["failures"])


def check(task: Job, calm: str, text: str, steps: int = STEPS) -> None:
    """What holds after every run: it came to its end in the same bits, and nothing is left."""
    assert task.events()[-1]["kind"] in ("succeeded", "drill_result"), text
    assert "SUCCEEDED" in [event.get("state") for event in task.events()], text
    assert final_state(task, steps) == calm, text
    lives = [e["data"] for e in task.events() if e["kind"] == "controller"]
    for live in lives:
        # It had no Ray; a command line of this machine must not mention the path by chance.
        no_ray = str(task.run_dir / "no-ray")
        assert_nothing_left({"run_id": live["run_id"], "spool": {"ray": no_ray}})


# -- the soak ---------------------------------------------------------------------------------


def drawn(seed: int, number: int) -> list[str]:
    """Faults of random kinds at random steps of random ranks; the same for the same seed.

    At most one checkpoint of a run is damaged, when there are two, and one loss is not a number:
    with no checkpoint left, or by what looks deterministic, a run ends, and rightly so.
    """
    chance = random.Random(seed)
    kinds = [kind for kind in KINDS if kind not in ("fill-disk", "slow-rank")]
    kinds = [kind for kind in kinds if kind != "nan-loss" or _SEES_NAN]
    faults: list[Fault] = []
    for _ in range(number):
        kind = chance.choice(kinds)
        if any(ENDS[fault.kind].damaged for fault in faults) and ENDS[kind].damaged:
            kind = "kill-rank"
        if kind == "nan-loss" and kind in [fault.kind for fault in faults]:
            kind = "kill-rank"
        rank = chance.choice(RANKS) if KINDS[kind].needs_rank else None
        first = 2 * EVERY + 1 if ENDS[kind].damaged else 1
        when: dict[str, Any] = {"step": chance.randrange(first, STEPS - 2)}
        if chance.random() < 0.5:
            phases = sorted(set(PHASES) - _EARLY) if ENDS[kind].damaged else PHASES
            when = {"phase": chance.choice(phases)}
        faults.append(Fault(kind, rank, **when))
    return [str(fault) for fault in faults]


def kind_of(fault: str) -> str:
    """The kind in a fault's text."""
    return parse(fault).kind
