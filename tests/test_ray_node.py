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
)

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray not installed")

READY_S = 180.0
GONE_S = 15.0

CONTROLLER = """
import json, sys, time
from cluster.ray_client import RayNode, Start
ask = json.loads(sys.argv[1])
node = RayNode.start(**{**ask, "start": Start(**ask["start"])})
print(json.dumps({"keeper": node.pid}), flush=True)
ready = node.ready(180)
print(json.dumps({"supervisor": ready.supervisor.pid}), flush=True)
time.sleep(600)
"""


FAKE_DRIVER = """
import json, os, sys
config = json.loads(sys.stdin.readline())
with open(config["start"]["log"], "a+") as log:
    log.write("try ")
    log.flush()
    log.seek(0)
    tries = log.read().count("try")
if tries < config["resources"]["CPU"]:
    print(json.dumps({"event": "failed", "reason": f"try {tries}"}), flush=True)
    sys.exit(1)
print(json.dumps({"event": "up", "pids": {"driver": [os.getpid()]}}), flush=True)
print(json.dumps({"event": "nodes", "nodes": []}), flush=True)
sys.stdin.read()
"""

# The driver, except that it gives up on devices that others hold after a second.
IMPATIENT_DRIVER = "import cluster.ray_node as n; n._GROUP_TIMEOUT_S = 1.0; n._drive()"

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


def wait_for(node: RayNode, seconds: float) -> tuple[Event, ...]:
    """The next events of a node."""
    assert select.select([node], [], [], seconds)[0], "no event"
    return node.poll()


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
    node = RayNode.start(
        temp_dir=str(temp_dir),
        job="drill",
        resources={"CPU": 2},
        start=start,
        log=tmp_path / "ray.log",
    )
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

        node.start_supervisor(Start(("/no/such/program",), {}, "/", start.log))
        (failed,) = wait_for(node, 60)
        assert isinstance(failed, Failed) and "/no/such/program" in failed.reason

        for victim in ("raylet", "gcs_server"):
            lose(node, pid_of(victim, temp_dir), victim, temp_dir)
            node.start_supervisor(start)
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


def reserve(node: RayNode, bundles: list[dict[str, float]], **more: Any) -> Event:
    """Ask for bundles; the answer."""
    node.reserve(bundles, **more)
    (answer,) = wait_for(node, 60)
    return answer


@pytest.mark.slow
@needs_ray
def test_the_very_devices_are_held(
    temp_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight devices others get all but those held; these can be others, and survive a Ray."""
    impatient = [sys.executable, "-c", IMPATIENT_DRIVER]
    keeper = f"from cluster.ray_keeper import Keeper; Keeper({impatient!r}).serve()"
    monkeypatch.setattr("cluster.ray_client._PROGRAM", ("-c", keeper))
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    before = shared_memory()
    start = sleeper(tmp_path)
    node = RayNode.start(
        temp_dir=str(temp_dir),
        job="held",
        resources={"CPU": 2, "NPU": 8, **{f"muster_ascend_{i}": 1 for i in range(8)}},
        start=start,
        log=tmp_path / "ray.log",
    )
    third, fifth = "muster_ascend_3", "muster_ascend_5"
    supervisors = []
    try:
        supervisors.append(node.ready(READY_S).supervisor)
        assert isinstance(reserve(node, on(0, 1, 2, 3)), Reserved)
        with rival(temp_dir, third, fifth) as got:
            assert got == [fifth]
            refused = reserve(node, on(4, 5))
            assert isinstance(refused, Unreserved)
            assert f"other work in this Ray holds devices: 1 {fifth} (there is 0)" in refused.reason
        with rival(temp_dir, third) as got:
            assert got == [third], "what is refused holds nothing"
        assert isinstance(reserve(node, on(4, 5)), Reserved)

        lose(node, pid_of("raylet", temp_dir), "raylet", temp_dir)
        asked = reserve(node, on(5))
        assert asked == Unreserved("there is no Ray; the next one reserves")
        node.start_supervisor(start)
        ready = node.ready(READY_S)
        supervisors.append(ready.supervisor)
        assert "reserve" in ready.seconds
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
    node = RayNode.start(
        temp_dir=str(temp_dir),
        job="wider",
        resources=offered,
        start=sleeper(tmp_path),
        log=tmp_path / "ray.log",
    )
    supervisor = None
    try:
        supervisor = node.ready(READY_S).supervisor
        first = pid_of("raylet", temp_dir)
        wider = {**offered, "NPU": 2, "muster_ascend_1": 1}
        assert isinstance(reserve(node, on(0, 1), resources=wider), Reserved)
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
        "job": "orphan",
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


@pytest.mark.parametrize(("good_try", "wanted"), [(2, Members(())), (3, Failed("try 2"))])
def test_a_ray_that_does_not_come_up_is_tried_twice(
    good_try: int, wanted: Event, temp_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One failed bring-up is retried in silence; the second is told, with its reason."""
    fake = [sys.executable, "-c", FAKE_DRIVER]
    keeper = f"from cluster.ray_keeper import Keeper; Keeper({fake!r}).serve()"
    monkeypatch.setattr("cluster.ray_client._PROGRAM", ("-c", keeper))
    node = RayNode.start(
        temp_dir=str(temp_dir),
        job="twice",
        resources={"CPU": good_try},
        start=sleeper(tmp_path),
        log=tmp_path / "ray.log",
    )
    assert wait_for(node, 20) == (wanted,)
    node.close()
    assert (tmp_path / "supervisor.log").read_text() == "try try "
    assert not temp_dir.exists()


def test_a_directory_in_use_is_neither_used_nor_removed(temp_dir: Path, tmp_path: Path) -> None:
    """A temp_dir that is not empty is refused, for it would be removed at the end."""
    temp_dir.mkdir()
    (temp_dir / "precious").touch()
    node = RayNode.start(
        temp_dir=str(temp_dir),
        job="no",
        resources={"CPU": 1},
        start=sleeper(tmp_path),
        log=tmp_path / "ray.log",
    )
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
