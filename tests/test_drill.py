"""Faults on purpose: what can be asked for, when it is due, what it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import drill_record, processes, stop_request
from orchestrator.checkpoints import Broken, catalogue, verify
from orchestrator.drill import KINDS, Fault, FaultError, Target, disk, due, inject, memory, parse
from orchestrator.drill.injection import EFFECTS
from orchestrator.drill.promise import TABLE
from orchestrator.drill.throttle import Throttle
from orchestrator.health import RankView
from tests import matrix
from tests.support_core import beat, gone, kill, training, until, view, write_checkpoint

NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill-rank:3", Fault("kill-rank", 3)),
        ("kill-rank:3@step:20", Fault("kill-rank", 3, step=20)),
        ("hang-rank:5", Fault("hang-rank", 5)),
        ("term-rank:0@phase:compile", Fault("term-rank", 0, phase="compile")),
        ("kill-supervisor", Fault("kill-supervisor")),
        ("kill-raylet@step:0", Fault("kill-raylet", step=0)),
        ("slow-rank:1", Fault("slow-rank", 1)),
        ("nan-loss:0@step:9", Fault("nan-loss", 0, step=9)),
        ("preempt@phase:evaluate", Fault("preempt", phase="evaluate")),
        ("corrupt-checkpoint", Fault("corrupt-checkpoint")),
        ("truncate-checkpoint@step:10", Fault("truncate-checkpoint", step=10)),
    ],
)
def test_faults_are_read_and_shown(text: str, fault: Fault) -> None:
    """A fault is what was written, and shows as it was written."""
    assert parse(text, 8) == fault
    assert str(fault) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "KIND"),
        ("kill", ", ".join(KINDS)),
        ("kill-rank", "kill-rank:0"),
        ("kill-rank:", "KIND[:RANK]"),
        ("kill-rank:-1", "KIND[:RANK]"),
        ("kill-rank:8", "ranks 0 to 7"),
        ("kill-rank:x", "KIND[:RANK]"),
        ("kill-ray:1", "takes no rank"),
        ("corrupt-checkpoint:0", "takes no rank"),
        ("kill-rank:1@step:", "KIND[:RANK]"),
        ("kill-rank:1@phase:lunch", "evaluate"),
        ("kill-rank:1@step:5@phase:load", "KIND[:RANK]"),
        (" kill-rank:1", "KIND[:RANK]"),
        ("KILL-RANK:1", "KIND[:RANK]"),
    ],
)
def test_mistakes_say_what_is_allowed(text: str, says: str) -> None:
    """What is no fault is refused with the right form, the rank numbers or the phases."""
    with pytest.raises(FaultError) as refused:
        parse(text, 8)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("text", "kind"), [("kill-ray", "kill-raylet"), ("device-fault:1@step:2", "lose-device")]
)
def test_other_names_of_a_kind_are_taken(text: str, kind: str) -> None:
    """A name of another kind of words means the same fault, and shows by its own name."""
    assert parse(text).kind == kind
    assert str(parse(text)).startswith(kind)


def test_every_kind_has_an_effect_a_promise_and_an_end() -> None:
    """No table of the drills knows a kind that another one does not."""
    assert KINDS.keys() == EFFECTS.keys() == TABLE.keys() == matrix.ENDS.keys()


def test_without_a_gang_ranks_are_not_checked() -> None:
    """Before the size is known any rank may be named."""
    assert parse("kill-rank:99").rank == 99


GANG = (view(0, beat=training(20, 1.0)), view(1, beat=training(19, 1.0)), view(2))


@pytest.mark.parametrize(
    ("text", "views", "expected"),
    [
        ("kill-rank:0@step:20", GANG, True),
        ("kill-rank:0@step:21", GANG, False),
        ("kill-rank:1@step:20", GANG, False),
        ("kill-rank:2@step:1", GANG, False),
        ("kill-ray@step:20", GANG, True),
        ("kill-ray@step:21", GANG, False),
        ("kill-rank:2", GANG, True),
        ("kill-rank:0", (RankView(0), view(1)), False),
        ("kill-ray", (RankView(0), view(1)), False),
        ("kill-ray", GANG, True),
        ("kill-rank:0@phase:train", GANG, True),
        ("kill-rank:2@phase:train", GANG, False),
        ("kill-ray@phase:load", (view(0, beat=beat(phase="load")), view(1)), True),
        ("kill-rank:1@phase:load", (view(0, beat=beat(phase="load")), view(1)), False),
    ],
)
def test_the_moment(text: str, views: tuple[RankView, ...], expected: bool) -> None:
    """At once, at a step of its rank, or in a phase; of any rank where none is named."""
    assert due(parse(text), views) is expected


def test_a_short_phase_is_not_missed() -> None:
    """A phase that was entered and left between two looks has come."""
    passed = beat(phase="compile", phase_entered=(0.0, 0.1, 0.2, 0.3, NAN, NAN, NAN, NAN))
    assert due(parse("kill-rank:0@phase:load"), [view(0, beat=passed)])
    assert not due(parse("kill-rank:0@phase:train"), [view(0, beat=passed)])


def target(checkpoints: Path, **more: object) -> Target:
    """A run of which nothing else can be broken."""
    known = {"pids": {}, "supervisor": None, "ray": (), "checkpoints": checkpoints}
    return Target(**{**known, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("kill-rank:1", signal.SIGKILL),
        ("term-rank:1", signal.SIGTERM),
        ("kill-supervisor", signal.SIGKILL),
        ("kill-ray", signal.SIGKILL),
    ],
)
def test_signals_are_real(tmp_path: Path, text: str, number: int) -> None:
    """A real process gets the real signal."""
    process = subprocess.Popen(["sleep", "600"])
    pid = process.pid
    try:
        inject(parse(text), target(tmp_path, pids={1: pid}, supervisor=pid, ray=(pid,)))
        assert process.wait(20) == -number
    finally:
        kill(pid)
        process.wait()


def test_a_hang_stands_still(tmp_path: Path) -> None:
    """The rank is there and does nothing."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        inject(parse("hang-rank:0"), target(tmp_path, pids={0: process.pid}))
        path = Path(f"/proc/{process.pid}/stat")
        until(lambda: path.read_text().split()[2] == "T", "the stop")
    finally:
        process.kill()
        process.wait()
    assert gone(process.pid)


@pytest.mark.parametrize("text", ["kill-rank:0", "kill-supervisor"])
def test_what_has_just_ended_cannot_be_broken(tmp_path: Path, text: str) -> None:
    """It was there when the drill looked: refused in a sentence."""
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(FaultError, match=r"no (process|supervisor) now"):
        inject(parse(text), target(tmp_path, pids={0: process.pid}, supervisor=process.pid))


@pytest.mark.parametrize(
    "text", ["kill-rank:0", "hang-rank:0", "kill-supervisor", "kill-ray", "corrupt-checkpoint"]
)
def test_nothing_to_break_is_said(tmp_path: Path, text: str) -> None:
    """Where there is nothing, the fault is refused and no stranger is hit."""
    with pytest.raises(FaultError):
        inject(parse(text), target(tmp_path, pids={1: os.getpid()}))


@pytest.mark.parametrize("kind", ["corrupt-checkpoint", "truncate-checkpoint"])
def test_the_newest_checkpoint_is_damaged(tmp_path: Path, kind: str) -> None:
    """Only the newest, only its model, and it does not verify any more."""
    for step in (10, 20):
        write_checkpoint(tmp_path, step)
    inject(parse(kind), target(tmp_path))
    newest, older = (verify(checkpoint) for checkpoint in catalogue(tmp_path))
    assert isinstance(newest, Broken) and "model.ckpt" in newest.reason
    assert not isinstance(older, Broken)


@pytest.mark.parametrize("kind", ["corrupt-checkpoint", "truncate-checkpoint"])
def test_damage_to_an_empty_model_is_refused_in_order(tmp_path: Path, kind: str) -> None:
    """A checkpoint whose model is empty or missing raises nothing but what a drill may raise."""
    write_checkpoint(tmp_path, 10, files={"model.ckpt": b"", "x": b"x"})
    try:
        inject(parse(kind), target(tmp_path))
    except (FaultError, OSError) as error:
        assert str(error)


def test_a_slow_rank_is_stopped_and_let_go_and_lives_on(tmp_path: Path) -> None:
    """It stands and goes in turn, and goes when the drill is over, whoever ended it."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        throttle = Throttle.of(process.pid, "test", seconds=600.0)
        states = {"T": 0, "S": 0}

        def both() -> bool:
            states[processes.state_of(process.pid) or "S"] = 1
            return all(states.values())

        until(both, "stopped and going")
        throttle.end()
        assert throttle.over()
        until(lambda: processes.state_of(process.pid) == "S", "it goes on")
    finally:
        process.kill()
        process.wait()


def test_a_throttle_ends_with_its_rank() -> None:
    """Nothing is left that could stop whoever gets the pid next."""
    process = subprocess.Popen(["sleep", "600"])
    throttle = Throttle.of(process.pid, "test", seconds=600.0)
    process.kill()
    process.wait()
    until(lambda: throttle.over(), "the end of the throttle")


def test_a_large_file_system_is_never_filled(tmp_path: Path) -> None:
    """Refused with the size and the limit, and not a byte is written."""
    if os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize <= disk.LARGEST:
        pytest.skip("the tests lie on a small file system")
    with pytest.raises(FaultError, match="1024 MiB"):
        inject(parse("fill-disk"), target(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_rank_that_is_told_so_reports_nan_and_runs_out_of_memory(tmp_path: Path) -> None:
    """Through its record: from then on NaN, and a MemoryError in its next step."""
    record = tmp_path / "001-0.drill"
    drill_record.place(record)
    ear, aim = drill_record.Ear(record), target(tmp_path, pids={0: 1 << 30}, records={0: record})
    assert ear.heard(0.5) == 0.5
    inject(parse("nan-loss:0"), aim)
    assert ear.heard(0.5) != ear.heard(0.5)
    assert inject(parse("oom-rank:0"), aim) is None  # no such process: no group for it
    with pytest.raises(MemoryError, match="simulated"):
        ear.heard(0.5)


def test_the_kernel_kills_a_rank_whose_memory_is_out(tmp_path: Path) -> None:
    """In a memory cgroup of its own, where one can be made; and it is told from other kills."""
    record = tmp_path / "001-0.drill"
    drill_record.place(record)
    program = (
        "import sys, time; from pathlib import Path; from orchestrator.drill_record import Ear\n"
        "ear = Ear(Path(sys.argv[1])); print('up', flush=True)\n"
        "while True: ear.heard(0.0); time.sleep(0.01)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(record)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        group = inject(
            parse("oom-rank:0"), target(tmp_path, pids={0: process.pid}, records={0: record})
        )
        code = process.wait(60)
        if group is None:
            assert code == 1
            pytest.skip("no memory cgroup can be made here: the rank raised MemoryError instead")
        try:
            assert code == -signal.SIGKILL
            assert memory.killed(process.pid)
        finally:
            group.end()
        assert not memory.killed(process.pid)
    finally:
        process.kill()
        process.communicate()


def test_a_preemption_asks_and_kills_nobody(tmp_path: Path) -> None:
    """The request lies in the record that all ranks look at; without one it is refused."""
    path = tmp_path / "001.stop"
    with pytest.raises(FaultError):
        inject(parse("preempt"), target(tmp_path, stop=path))
    stop_request.place(path)
    inject(parse("preempt"), target(tmp_path, stop=path))
    assert stop_request.asked(path)
