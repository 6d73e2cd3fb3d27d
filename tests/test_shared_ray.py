"""One Ray for many jobs: they share it, lose it, get it back, and leave nothing of it behind."""

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.allocate import Placement, Request, allocate
from cluster.cpu import CpuBudget
from cluster.detach import stat_fields
from cluster.device import Device, DeviceKind, Inventory, Node
from cluster.ray_client import Start
from cluster.reservation import resources_of
from orchestrator import processes
from orchestrator.job_ray import JobRay, NodeError
from orchestrator.link import Message
from orchestrator.service.mailbox import Mailbox
from orchestrator.service.shared_ray import SharedRay, clear_left, pause
from tests.runs import poll

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray not installed"),
]

DEVICES = 4
NODE = Node(
    "local",
    "127.0.0.1",
    CpuBudget((0, 1), None),
    tuple(Device(DeviceKind.ASCEND, "local", index) for index in range(DEVICES)),
)

# A cluster of others; answers every line with what of it is free.
CLUSTER = """
import json, sys, ray
ray.init(
    address="local", num_cpus=2, resources={"NPU": 4}, include_dashboard=False,
    log_to_driver=False, logging_level=50, _temp_dir=sys.argv[1],
)
print(ray.get_runtime_context().gcs_address, flush=True)
for _ in sys.stdin:
    print(json.dumps(ray.available_resources()), flush=True)
"""


def on(*devices: int) -> Placement:
    """A rank on each of these devices."""
    others = {f"local/ascend:{i}": "no" for i in range(DEVICES) if i not in devices}
    request = Request(DeviceKind.ASCEND, len(devices), withheld=others)
    placement = allocate(Inventory((NODE,)), request)
    assert isinstance(placement, Placement)
    return placement


def slots(ranks: int) -> Placement:
    """Ranks on the CPU."""
    placement = allocate(Inventory((NODE,)), Request(DeviceKind.CPU, ranks))
    assert isinstance(placement, Placement)
    return placement


@dataclass
class Job:
    """One job's share, and what it was told."""

    ray: JobRay
    told: list[Message] = field(default_factory=list)

    def pump(self, timeout: float) -> None:
        """As a controller does."""
        if select.select([self.ray], [], [], timeout)[0]:
            self.told += self.ray.messages(supervised=False)

    def hold(self, placement: Placement) -> None:
        """Have it held; raises NodeError."""
        self.ray.reserve(placement, self.pump)

    def hear(self, kind: str, *, word: str = "", seconds: float = 120) -> Message:
        """The next message of a kind with this word in it; all before it are forgotten."""

        def heard() -> Message | None:
            self.pump(0.1)
            while self.told:
                message = self.told.pop(0)
                if message["event"] == kind and word in message["text"]:
                    return message
            return None

        message: Message = poll(heard, seconds, kind)
        return message


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the service of these tests lives."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def shared(home: Path) -> Iterator[SharedRay]:
    """A Ray of our own, one for all tests here."""
    ray = SharedRay(home, home / "ray.log")
    ray.start(resources_of(NODE, {"local/ascend:3": "ECC"}))
    yield ray
    ray.close()


@pytest.fixture
def join(shared: SharedRay) -> Iterator[Callable[[str], Job]]:
    """Makes jobs, and ends them."""
    with contextlib.ExitStack() as jobs:

        def make(name: str) -> Job:
            ray = shared.for_job(name)
            jobs.callback(ray.close)
            return Job(ray)

        yield make


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Start]:
    """A stand-in that writes its pid, and sleeps; one that Ray starts late ends at once."""
    note, wanted = tmp_path / "pid", tmp_path / "wanted"
    wanted.touch()
    program = (
        f"import os, time; open({str(note)!r}, 'a').write(f'{{os.getpid()}} ')\n"
        f"while os.path.exists({str(wanted)!r}): time.sleep(0.1)"
    )
    yield Start((sys.executable, "-S", "-c", program), {}, "/", str(tmp_path / "log"))
    wanted.unlink()
    for pid in pids(tmp_path):
        processes.kill_quietly(pid)


def pids(where: Path) -> list[int]:
    """The stand-ins that were ever started."""
    note = where / "pid"
    return [int(pid) for pid in note.read_text().split()] if note.exists() else []


def living(where: Path) -> list[int]:
    """Those that live."""
    return [pid for pid in pids(where) if processes.state_of(pid) not in (None, "Z")]


def begin(job: Job, supervisor: Start, where: Path) -> None:
    """Start a stand-in and wait for it."""
    before = len(living(where))
    job.ray.start_supervisor(supervisor)
    job.hear("ray_ready")
    poll(lambda: len(living(where)) == before + 1, 60, "the supervisor")


def keeper_of(shared: SharedRay) -> int:
    """The keeper: the parent of Ray's driver, which is the raylet's."""
    [raylet] = shared.raylets()
    driver = int(stat_fields(raylet)[1])
    return int(stat_fields(driver)[1])


def test_jobs_share_a_ray_and_do_not_wait_for_each_other(
    shared: SharedRay, join: Callable[[str], Job], supervisor: Start, tmp_path: Path
) -> None:
    """Who does not fit is told what lacks; meanwhile others start, and get what is given back."""
    first, second, third = join("first"), join("second"), join("third")
    first.hold(on(0, 1))
    assert shared.state["state"] == "up" and shared.address is not None
    second.ray.start_supervisor(supervisor)
    with pytest.raises(NodeError, match=r"2 NPU \(there is 1\), 1 muster_ascend_1 \(there is 0\)"):
        third.hold(on(1, 2))
    second.hear("ray_ready")
    third.hold(on(2))
    first.ray.close()
    second.hold(on(0, 1))


def test_a_device_that_is_well_again_costs_the_others_no_supervisor(
    shared: SharedRay, join: Callable[[str], Job], supervisor: Start, tmp_path: Path
) -> None:
    """It was not offered at first: there is a new Ray, in which all that was held is held."""
    first, second = join("first"), join("second")
    first.hold(on(0))
    begin(first, supervisor, tmp_path)
    before = shared.raylets()
    second.hold(on(3))
    assert shared.raylets() != before
    first.hear("note", word="Ray holds")
    with pytest.raises(NodeError, match="muster_ascend_0"):
        join("third").hold(on(0))
    assert len(living(tmp_path)) == 1


@pytest.mark.parametrize("victim", ["raylet", "keeper"])
def test_what_dies_comes_back_and_holds_what_was_held(
    victim: str, shared: SharedRay, join: Callable[[str], Job], supervisor: Start, tmp_path: Path
) -> None:
    """All jobs hear of it, their supervisors live, and their devices are held again."""
    jobs = [join("first"), join("second")]
    for device, job in enumerate(jobs):
        job.hold(on(device))
    begin(jobs[0], supervisor, tmp_path)
    [raylet] = shared.raylets()
    os.kill(raylet if victim == "raylet" else keeper_of(shared), signal.SIGKILL)
    for job in jobs:
        job.hear("ray_lost", word=victim)
        assert not job.ray.ended
        job.hear("note", word="Ray holds")
    assert shared.raylets() != (raylet,)
    with pytest.raises(NodeError, match="muster_ascend_1"):
        join("third").hold(on(1))
    begin(jobs[1], supervisor, tmp_path)
    assert len(living(tmp_path)) == 2


def test_a_start_that_ray_dies_in_is_asked_for_again(
    shared: SharedRay, join: Callable[[str], Job], supervisor: Start, tmp_path: Path
) -> None:
    """The job does not fail for a Ray that comes back."""
    job = join("first")
    job.hold(on(0))
    job.ray.start_supervisor(supervisor)
    os.kill(keeper_of(shared), signal.SIGKILL)
    job.hear("note", word="asked for again")
    job.hear("ray_ready")


def test_nothing_is_left_of_it(shared: SharedRay, join: Callable[[str], Job]) -> None:
    """Closed, it has no process and no directory, and its jobs know that none will come."""
    job = join("first")
    job.hold(on(0))
    keeper = keeper_of(shared)
    shared.close()
    assert shared.state["state"] == "closed" and shared.address is None
    job.hear("ray_lost")
    assert job.ray.ended and join("late").ray.ended
    with pytest.raises(NodeError, match="gone for good"):
        job.ray.start_supervisor(Start(("true",), {}, "/", "log"))
    assert processes.state_of(keeper) is None
    assert shared.raylets() == ()
    assert not list(Path(tempfile.gettempdir()).glob(f"{shared.prefix}*"))


@pytest.fixture
def cluster() -> Iterator[subprocess.Popen[str]]:
    """A Ray of others on this machine; its address is the first line that it says."""
    with tempfile.TemporaryDirectory(prefix="rc") as temp_dir:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, temp_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_AUTH_MODE": "token"},
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(30)
            process.stdout.close()


def free(cluster: subprocess.Popen[str]) -> dict[str, float]:
    """What that cluster has to give."""
    assert cluster.stdin is not None and cluster.stdout is not None
    cluster.stdin.write("?\n")
    cluster.stdin.flush()
    there: dict[str, float] = json.loads(cluster.stdout.readline())
    return there


def test_a_ray_of_others_is_joined_and_left(
    cluster: subprocess.Popen[str],
    home: Path,
    supervisor: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It holds whole nodes and CPUs by count, also for ranks that go on without us."""
    assert cluster.stdout is not None
    address = cluster.stdout.readline().strip()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    shared = joined(home, tmp_path, address)
    gang, part, cpu = (Job(shared.for_job(name)) for name in ("gang", "part", "cpu"))
    try:
        with pytest.raises(NodeError, match="all 4 NPU of this node or none, not 2"):
            part.hold(on(0, 1))
        assert shared.address == address
        cpu.hold(slots(3))
        gang.hold(on(0, 1, 2, 3))
        assert "NPU" not in free(cluster)
        begin(gang, supervisor, tmp_path)
        [started] = living(tmp_path)
        assert os.getpriority(os.PRIO_PROCESS, started) == os.getpriority(os.PRIO_PROCESS, 0)
        gang.ray.close()
        shared.close()
        assert shared.raylets() == ()
        assert living(tmp_path) == [started]
        poll(lambda: free(cluster).get("NPU") == 4, 30, "the devices that were given back")
        assert free(cluster).get("CPU", 0) < 1
    finally:
        shared.close()
    successor = joined(home, tmp_path, address)
    adopted = Job(successor.for_job("cpu"))
    try:
        adopted.ray.hold(slots(3), simulated=False)
        adopted.hear("note", word="Ray holds")
        assert free(cluster).get("CPU", 0) < 1
        adopted.ray.close()
        poll(lambda: free(cluster).get("CPU") == 2, 20, "the CPUs are given back")
    finally:
        successor.close()


def joined(home: Path, tmp_path: Path, address: str) -> SharedRay:
    """A service's place in the Ray of others."""
    shared = SharedRay(home, tmp_path / "ray.log", address=address)
    shared.start({"CPU": 64.0})
    return shared


def test_a_ray_that_is_not_there_fails_the_jobs_that_need_it(
    home: Path, supervisor: Start, tmp_path: Path
) -> None:
    """NodeError says why; what needs no supervisor goes on."""
    shared = joined(home, tmp_path, "127.0.0.1:1")
    job = Job(shared.for_job("job"))
    try:
        job.hold(slots(1))
        job.ray.start_supervisor(supervisor)
        with pytest.raises(NodeError, match=r"127\.0\.0\.1:1"):
            poll(lambda: job.pump(0.1), 120, "an answer")
        assert shared.state["state"] == "lost" and "127.0.0.1:1" in shared.state["reason"]
    finally:
        shared.close()


def test_a_ray_that_keeps_dying_is_brought_up_more_seldom() -> None:
    """At once after the first loss, then after longer pauses, never longer than half a minute."""
    pauses = [pause(losses) for losses in range(1, 40)]
    assert pauses[0] == 0 and pauses == sorted(pauses) and pauses[-1] == 30


def test_a_mailbox_is_readable_while_it_holds_something() -> None:
    """Letters come in their order; after its end it takes none."""
    box: Mailbox[int] = Mailbox()
    assert select.select([box], [], [], 0)[0] == []
    box.put(1)
    box.put(2)
    assert select.select([box], [], [], 0)[0] == [box]
    assert box.take() == (1, 2)
    assert select.select([box], [], [], 0)[0] == []
    box.close()
    box.put(3)
    assert box.take() == ()


def test_what_a_killed_keeper_has_left_is_taken_away() -> None:
    """Processes and directory of a Ray of this home; another home's are left alone."""
    others = [tempfile.mkdtemp(prefix=f"muster-ray-{name}-") for name in ("test01", "test02")]
    wait = [sys.executable, "-c", "import time; time.sleep(600)"]
    left, innocent = (subprocess.Popen([*wait, f"--session-dir={one}/s"]) for one in others)
    try:
        poll(lambda: processes.mentioning(others[0]), 10, "its start")
        clear_left("muster-ray-test01-")
        assert left.wait(10) == -signal.SIGKILL
        assert innocent.poll() is None
        assert [Path(one).exists() for one in others] == [False, True]
    finally:
        for process in (left, innocent):
            process.kill()
            process.wait()
        os.rmdir(others[1])
