"""A private Ray, started, broken by SIGKILL and taken away, with real processes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cluster.detach import detach, package_path, start_time, stat_fields
from cluster.leftovers import remove_tree, session_members
from cluster.ray_client import (
    Closed,
    Event,
    Failed,
    Members,
    ProcessId,
    RayFailed,
    RayLost,
    RayNode,
    Reserved,
    Start,
    Unreserved,
    Up,
)

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray not installed")

READY_S = 180.0
GONE_S = 15.0

CONTROLLER = """
import json, sys, time
from cluster.ray_client import RayNode, Start
ask = json.loads(sys.argv[1])
start = Start(**ask.pop("start"))
node = RayNode.start(**ask)
node.start_supervisor("orphan", start)
print(json.dumps({"keeper": node.pid}), flush=True)
ready = node.ready(180)
print(json.dumps({"supervisor": ready.supervisor.pid}), flush=True)
time.sleep(600)
"""


FAKE_DRIVER = """
import json, os, sys
config, ask = (json.loads(sys.stdin.readline()) for _ in range(2))
with open(ask["start"]["log"], "a+") as log:
    log.write("try ")
    log.flush()
    log.seek(0)
    tries = log.read().count("try")
if tries < config["resources"]["CPU"]:
    print(json.dumps({"event": "failed", "reason": f"try {tries}"}), flush=True)
    sys.exit(1)
up = {"address": "", "resources": {}, "seconds": {}, "pids": {"driver": [os.getpid()]}}
print(json.dumps({"event": "up", **up}), flush=True)
said = {"event": "failed", "do": "start", "job": ask["job"], "reason": "up"}
print(json.dumps(said), flush=True)
sys.stdin.read()
"""

# Answers a start or a reservation as the job's name says, "late" ones half a second later.
OBEDIENT_DRIVER = """
import json, os, sys, threading
config = json.loads(sys.stdin.readline())
up = {{"address": "", "resources": {{}}, "seconds": {{}}, "pids": {{"driver": [os.getpid()]}}}}
print(json.dumps({{"event": "up", **up}}), flush=True)
ready = {{"node": "n", "address": "a", "node_id": "i", "seconds": {{}}}}
ready["supervisor"] = {{"pid": 1, "start_time": 1, "boot_id": ""}}
log = open({log!r}, "a", buffering=1)
log.write("up\\n")
def say(answer):
    sys.stdout.write(json.dumps(answer) + "\\n")
    sys.stdout.flush()
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "stop":
        break
    job = request["job"]
    log.write(f"{{request['do']}} {{job}} {{request.get('serial')}}\\n")
    if job == "fatal":
        sys.exit(1)
    if request["do"] == "start":
        answer = {{"event": "ready", **ready}}
    elif job == "refused":
        answer = {{"event": "unreserved", "reason": "no"}}
    else:
        answer = {{"event": "reserved", "seconds": 0}}
    answer |= {{"do": request["do"], "job": job}}
    if job.startswith("late"):
        threading.Timer(0.5, say, [answer]).start()
    else:
        say(answer)
"""

# Other work of a Ray: takes the devices that it can have, and keeps them until told to end.
RIVAL = """
import json, sys, ray
from ray.util.placement_group import placement_group
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=50)
groups = {name: placement_group([{name: 1}]) for name in sys.argv[2:]}
print(json.dumps([name for name, group in groups.items() if group.wait(1.5)]), flush=True)
sys.stdin.read()
"""


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll `true` until it holds; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def alive(process: ProcessId) -> bool:
    """Whether this very process runs."""
    with contextlib.suppress(OSError):
        return start_time(process.pid) == process.start_time and stat_fields(process.pid)[0] != "Z"
    return False


def kill(pid: int) -> None:
    """SIGKILL, if it is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def mentioning(text: str) -> dict[int, str]:
    """Command lines that hold `text`, by pid."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if text in command:
                found[int(entry.name)] = command
    return found


def pid_of(program: str, temp_dir: Path) -> int:
    """The one process of `temp_dir`'s Ray whose program is `program`."""
    found = [
        pid
        for pid, command in mentioning(f"{temp_dir}/").items()
        if Path(command.split()[0]).name == program
    ]
    assert len(found) == 1, (program, found)
    return found[0]


def shared_memory() -> set[str]:
    """Object stores visible in shared memory; for a moment also of a Ray that begins elsewhere."""
    return {path.name for path in Path("/dev/shm").glob("plasma*")}


def begin(
    temp_dir: Path, tmp_path: Path, job: str, resources: dict[str, float], start: Start
) -> RayNode:
    """A Ray that is coming up, and a supervisor for a job on it."""
    log = tmp_path / "ray.log"
    node = RayNode.start(temp_dir=str(temp_dir), resources=resources, log=log)
    node.start_supervisor(job, start)
    return node


def gather(node: RayNode, count: int) -> list[Event]:
    """At least so many of the next events but Up."""
    events: list[Event] = []
    while len(events) < count:
        events += wait_for(node, 20)
    return events


def wait_for(node: RayNode, seconds: float) -> tuple[Event, ...]:
    """The next events of a node, but that Ray is up."""
    events: tuple[Event, ...] = ()
    while not events:
        assert select.select([node], [], [], seconds)[0], "no event"
        events = tuple(event for event in node.poll() if not isinstance(event, Up))
    return events


@pytest.fixture
def temp_dir() -> Iterator[Path]:
    """A path short enough for Ray's sockets; it does not exist yet."""
    path = Path(tempfile.mkdtemp(prefix="mr"))
    path.rmdir()
    yield path
    left = mentioning(f"{path}/")
    remove_tree(str(path))
    assert not left


def sleeper(tmp_path: Path) -> Start:
    """A stand-in for a supervisor."""
    program = "import os, time; print(sorted(os.environ), flush=True); time.sleep(600)"
    return Start(
        argv=(sys.executable, "-S", "-c", program),
        env={"ONLY": "this", "LC_CTYPE": "C.UTF-8"},
        cwd=str(tmp_path),
        log=str(tmp_path / "supervisor.log"),
    )


@pytest.mark.slow
@needs_ray
def test_supervisors_outlive_raylet_and_gcs(temp_dir: Path, tmp_path: Path) -> None:
    """Each loss is told at once, a start brings a new Ray, and nothing of the old one is left."""
    before = shared_memory()
    start = sleeper(tmp_path)
    node = begin(temp_dir, tmp_path, "drill", {"CPU": 2}, start)
    supervisors = []
    try:
        supervisors.append(node.ready(READY_S).supervisor)
        log = tmp_path / "supervisor.log"
        until(lambda: log.exists() and "\n" in log.read_text(), 10, "the supervisor says nothing")
        assert log.read_text() == "['LC_CTYPE', 'ONLY']\n"
        assert os.getsid(supervisors[0].pid) == supervisors[0].pid
        assert os.getpriority(os.PRIO_PROCESS, supervisors[0].pid) == os.getpriority(
            os.PRIO_PROCESS, 0
        )

        node.ask_members()
        (members,) = wait_for(node, 20)
        assert isinstance(members, Members)
        assert [(m.alive, m.resources["CPU"]) for m in members.nodes] == [(True, 2.0)]

        node.start_supervisor("drill", Start(("/no/such/program",), {}, "/", start.log))
        (failed,) = wait_for(node, 60)
        assert isinstance(failed, Failed) and "/no/such/program" in failed.reason

        for victim in ("raylet", "gcs_server"):
            lose(node, pid_of(victim, temp_dir), victim, temp_dir)
            node.start_supervisor("drill", start)
            supervisors.append(node.ready(READY_S).supervisor)
        lose(node, parent_of(pid_of("raylet", temp_dir)), "died", temp_dir)
        node.ask_members()
        assert wait_for(node, 10) == (Members(()),)
        node.close()
        assert node.poll() == (Closed(),)
        assert all(alive(supervisor) for supervisor in supervisors)
        assert not temp_dir.exists()
        until(lambda: shared_memory() <= before, GONE_S, "an object store is left")
    finally:
        for supervisor in supervisors:
            kill(supervisor.pid)
        kill_node(node)


@contextlib.contextmanager
def rival(temp_dir: Path, *devices: str) -> Iterator[list[str]]:
    """Other work in the same Ray, and those of the devices that it was given."""
    raylet = mentioning(f"{temp_dir}/")[pid_of("raylet", temp_dir)]
    [address] = {a.partition("=")[2] for a in raylet.split() if a.startswith("--gcs-address=")}
    process = subprocess.Popen(
        [sys.executable, "-c", RIVAL, address, *devices],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "RAY_AUTH_MODE": "token"},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def on(*devices: int) -> list[dict[str, float]]:
    """A rank's bundle on each of these devices."""
    return [{"CPU": 0.5, "NPU": 1, f"muster_ascend_{device}": 1} for device in devices]


def reserve(node: RayNode, job: str, bundles: list[dict[str, float]], **more: Any) -> Event:
    """Ask for bundles; the answer."""
    node.reserve(job, bundles, **more)
    (answer,) = wait_for(node, 60)
    return answer


@pytest.mark.slow
@needs_ray
def test_the_very_devices_are_held(
    temp_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight devices others get all but those held; these can be others, and survive a Ray."""
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    before = shared_memory()
    start = sleeper(tmp_path)
    resources = {"CPU": 2, "NPU": 8, **{f"muster_ascend_{i}": 1.0 for i in range(8)}}
    node = begin(temp_dir, tmp_path, "held", resources, start)
    third, fifth = "muster_ascend_3", "muster_ascend_5"
    supervisors = []
    try:
        supervisors.append(node.ready(READY_S).supervisor)
        assert isinstance(reserve(node, "held", on(0, 1, 2, 3)), Reserved)
        with rival(temp_dir, third, fifth) as got:
            assert got == [fifth]
            refused = reserve(node, "held", on(4, 5))
            assert isinstance(refused, Unreserved)
            assert f"other work in this Ray holds devices: 1 {fifth} (there is 0)" in refused.reason
        with rival(temp_dir, third) as got:
            assert got == [third], "what is refused holds nothing"
        assert isinstance(reserve(node, "held", on(4, 5)), Reserved)

        lose(node, pid_of("raylet", temp_dir), "raylet", temp_dir)
        asked = reserve(node, "held", on(5))
        assert asked == Unreserved("held", "there is no Ray; the next one reserves")
        node.start_supervisor("held", start)
        supervisors.append(node.ready(READY_S).supervisor)
        assert any(isinstance(event, Reserved) for event in node.poll())
        with rival(temp_dir, third, fifth, "muster_ascend_4") as got:
            assert got == [third, "muster_ascend_4"]
        node.close()
        assert all(alive(supervisor) for supervisor in supervisors)
        until(lambda: not temp_dir.exists() and shared_memory() <= before, GONE_S, "Ray is left")
    finally:
        for supervisor in supervisors:
            kill(supervisor.pid)
        kill_node(node)


@pytest.mark.slow
@needs_ray
def test_a_ray_without_the_device_is_replaced(temp_dir: Path, tmp_path: Path) -> None:
    """A device that was withheld when Ray came up is reserved in another; the supervisor stays."""
    offered = {"CPU": 1, "NPU": 1, "muster_ascend_0": 1}
    node = begin(temp_dir, tmp_path, "wider", offered, sleeper(tmp_path))
    supervisor = None
    try:
        supervisor = node.ready(READY_S).supervisor
        first = pid_of("raylet", temp_dir)
        wider = {**offered, "NPU": 2, "muster_ascend_1": 1}
        assert isinstance(reserve(node, "wider", on(0, 1), resources=wider), Reserved)
        assert pid_of("raylet", temp_dir) != first
        node.ask_members()
        (members,) = wait_for(node, 20)
        assert isinstance(members, Members)
        assert wider.items() <= dict(members.nodes[0].resources).items()
        assert alive(supervisor)
        node.close()
    finally:
        if supervisor:
            kill(supervisor.pid)
        kill_node(node)


def lose(node: RayNode, victim: int, name: str, temp_dir: Path) -> None:
    """Kill a part of Ray; the loss is told, and nothing of that Ray is left."""
    os.kill(victim, signal.SIGKILL)
    (lost,) = wait_for(node, 10)
    assert isinstance(lost, RayLost) and name in lost.reason
    assert not mentioning(f"{temp_dir}/")
    assert not temp_dir.exists()


def parent_of(pid: int) -> int:
    """The parent of a process."""
    return int(stat_fields(pid)[1])


def kill_node(node: RayNode) -> None:
    """End a node that a failed test left behind."""
    with contextlib.suppress(TimeoutError, ValueError):
        node.close(20)


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize("moment", ["ready", "starting"])
def test_nothing_is_left_when_the_controller_is_killed(
    moment: str, temp_dir: Path, tmp_path: Path
) -> None:
    """After SIGKILL of the controller Ray is gone within 15 s; only the supervisor stays."""
    before = shared_memory()
    ask = {
        "temp_dir": str(temp_dir),
        "resources": {"CPU": 1},
        "log": str(tmp_path / "ray.log"),
    }
    start = sleeper(tmp_path)
    ask["start"] = {"argv": start.argv, "env": start.env, "cwd": start.cwd, "log": start.log}
    controller = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, json.dumps(ask)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": package_path()},
    )
    assert controller.stdout is not None
    supervisor: ProcessId | None = None
    try:
        keeper = json.loads(controller.stdout.readline())["keeper"]
        born = start_time(keeper)
        if moment == "ready":
            pid = json.loads(controller.stdout.readline())["supervisor"]
            supervisor = ProcessId(pid, start_time(pid), "")
        else:
            until(lambda: bool(mentioning(f"{temp_dir}/session")), READY_S, "Ray does not start")
        session = os.getsid(next(iter(mentioning(f"{temp_dir}/session"))))
        assert session != os.getsid(keeper)
        controller.kill()
        until(lambda: not alive(ProcessId(keeper, born, "")), GONE_S, "the keeper lives")
        assert session_members(session) == []
        assert mentioning(f"{temp_dir}/") == {}
        assert not temp_dir.exists()
        until(lambda: shared_memory() <= before, GONE_S, "an object store is left")
        assert supervisor is None or alive(supervisor)
    finally:
        controller.kill()
        controller.wait(10)
        controller.stdout.close()
        if supervisor:
            kill(supervisor.pid)


@pytest.mark.parametrize(
    ("good_try", "wanted"),
    [(2, [Failed("twice", "up")]), (3, [Failed("twice", "try 2"), Failed("", "try 2")])],
)
def test_a_ray_that_does_not_come_up_is_tried_twice(
    good_try: int,
    wanted: list[Event],
    temp_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One failed bring-up is retried in silence; the second is told, with its reason."""
    fake = [sys.executable, "-c", FAKE_DRIVER]
    keeper = f"from cluster.ray_keeper import Keeper; Keeper({fake!r}).serve()"
    monkeypatch.setattr("cluster.ray_client._PROGRAM", ("-c", keeper))
    node = begin(temp_dir, tmp_path, "twice", {"CPU": good_try}, sleeper(tmp_path))
    assert gather(node, len(wanted)) == wanted
    node.close()
    assert (tmp_path / "supervisor.log").read_text() == "try try "
    assert not temp_dir.exists()


@pytest.fixture
def obedient(temp_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayNode]:
    """A Ray that answers as jobs are named, and writes down what it was asked."""
    driver = [sys.executable, "-c", OBEDIENT_DRIVER.format(log=str(tmp_path / "asked"))]
    keeper = f"from cluster.ray_keeper import Keeper; Keeper({driver!r}).serve()"
    monkeypatch.setattr("cluster.ray_client._PROGRAM", ("-c", keeper))
    node = RayNode.start(temp_dir=str(temp_dir), resources={"CPU": 2}, log=tmp_path / "ray.log")
    yield node
    node.close()


def hear(node: RayNode, count: int) -> list[tuple[str, str, int | None]]:
    """The next events but Up: what, of which job, in answer to which request."""
    return [
        (type(one).__name__, getattr(one, "job", ""), getattr(one, "serial", None))
        for one in gather(node, count)
    ]


def asked(tmp_path: Path) -> list[str]:
    """What the drivers were asked, one after another."""
    return (tmp_path / "asked").read_text().splitlines()


def test_an_answer_that_takes_long_holds_up_no_other(obedient: RayNode) -> None:
    """Each has the job and the serial of its request, whatever the order they come in."""
    obedient.reserve("late", [{"CPU": 1}], serial=1)
    obedient.start_supervisor("quick", sleeper(Path("/")), 2)
    obedient.reserve("quick", [{"CPU": 1}], serial=3)
    assert hear(obedient, 3) == [
        ("Ready", "quick", 2),
        ("Reserved", "quick", 3),
        ("Reserved", "late", 1),
    ]


def test_a_ray_is_not_replaced_while_it_starts_a_supervisor(
    obedient: RayNode, tmp_path: Path
) -> None:
    """It could be started twice; what waits is answered by the Ray that has the resources."""
    obedient.reserve("held", [{"CPU": 1}], serial=1)
    assert hear(obedient, 1) == [("Reserved", "held", 1)]
    obedient.start_supervisor("late", sleeper(Path("/")), 2)
    obedient.reserve("wide", [{"GPU": 1}], {"CPU": 2, "GPU": 1}, serial=3)
    assert hear(obedient, 3) == [
        ("Ready", "late", 2),
        ("Reserved", "held", None),
        ("Reserved", "wide", 3),
    ]
    assert asked(tmp_path)[2:] == ["start late 2", "up", "reserve held None", "reserve wide 3"]


def test_a_new_ray_holds_what_was_held_and_answers_what_was_asked(
    obedient: RayNode, tmp_path: Path
) -> None:
    """Nobody asked for the one, so it has no serial; what an earlier Ray refused is not asked."""
    obedient.reserve("held", [{"CPU": 1}], serial=1)
    obedient.reserve("refused", [{"CPU": 1}], serial=2)
    assert hear(obedient, 2) == [("Reserved", "held", 1), ("Unreserved", "refused", 2)]
    obedient.reserve("wide", [{"GPU": 1}], {"CPU": 2, "GPU": 1}, serial=3)
    obedient.start_supervisor("after", sleeper(Path("/")), 4)
    assert hear(obedient, 3) == [
        ("Reserved", "held", None),
        ("Reserved", "wide", 3),
        ("Ready", "after", 4),
    ]
    assert asked(tmp_path)[3:] == ["up", "reserve held None", "reserve wide 3", "start after 4"]


def test_what_a_lost_ray_owes_is_refused_and_another_comes_when_asked_for(
    obedient: RayNode, tmp_path: Path
) -> None:
    """The loss is told first; what was to be held, also what it died of, the next Ray is asked."""
    obedient.reserve("held", [{"CPU": 1}], serial=1)
    obedient.start_supervisor("fatal", sleeper(Path("/")), 2)
    assert hear(obedient, 3) == [
        ("Reserved", "held", 1),
        ("RayLost", "", None),
        ("Failed", "fatal", 2),
    ]
    obedient.reserve("held", (), serial=3)
    obedient.reserve("new", [{"CPU": 1}], serial=4)
    assert hear(obedient, 2) == [("Unreserved", "held", 3), ("Unreserved", "new", 4)]
    obedient.bring_up()
    assert hear(obedient, 1) == [("Reserved", "new", None)]
    assert asked(tmp_path)[3:] == ["up", "reserve new None"]


def test_a_directory_in_use_is_neither_used_nor_removed(temp_dir: Path, tmp_path: Path) -> None:
    """A temp_dir that is not empty is refused, for it would be removed at the end."""
    temp_dir.mkdir()
    (temp_dir / "precious").touch()
    node = begin(temp_dir, tmp_path, "no", {"CPU": 1}, sleeper(tmp_path))
    with pytest.raises(RayFailed, match="not empty"):
        node.ready(20)
    node.close()
    assert (temp_dir / "precious").exists()


def test_a_detached_process_has_nothing_of_a_ray_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Ray sets for its workers reaches no supervisor, and so no rank."""
    for name in ("ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    start = sleeper(tmp_path)
    process = ProcessId(**detach(asdict(start)))
    log = tmp_path / "supervisor.log"
    try:
        until(lambda: log.exists() and "\n" in log.read_text(), 20, "it says nothing")
        assert log.read_text() == "['LC_CTYPE', 'ONLY']\n"
    finally:
        kill(process.pid)


def test_a_detached_process_inherits_nothing(tmp_path: Path) -> None:
    """It leads a session, belongs to nobody here, and has only its log and no input open."""
    program = (
        "import os; print(os.getsid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd'))[:3],"
        " os.environ.get('HOME'), os.getcwd(), flush=True)"
    )
    start = {
        "argv": [sys.executable, "-S", "-c", program],
        "env": {},
        "cwd": "/",
        "log": str(tmp_path / "log"),
    }
    process = ProcessId(**detach(start))
    until(lambda: not alive(process), 20, "it does not end")
    assert (tmp_path / "log").read_text() == "True ['0', '1', '2'] None /\n"
    assert process.boot_id


@pytest.mark.parametrize("change", [{"argv": ["/no/such"]}, {"cwd": "/no/such"}])
def test_what_cannot_be_started_says_why(change: dict[str, object], tmp_path: Path) -> None:
    """A missing program or directory raises OSError that names it."""
    start = {"argv": ["true"], "env": dict(os.environ), "cwd": "/", "log": str(tmp_path / "log")}
    with pytest.raises(OSError, match="/no/such"):
        detach({**start, **change})
