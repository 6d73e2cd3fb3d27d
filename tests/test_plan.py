"""The plan: from job and placement to what would be started, as a value."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cluster.allocate import Placement, allocate
from cluster.cpu import CpuBudget, NumaNode
from cluster.device import Device, DeviceKind, Fabric, Inventory, Node
from cluster.rank_table import ServerFacts
from orchestrator.launch import MARK, ForkServerPlan, ProcessPlan, TableFile
from orchestrator.layout import RunDirectory, Spool
from orchestrator.plan import (
    PORT_LATER,
    Attempt,
    LaunchPlan,
    make_plan,
    request_for,
    user_environment,
    written_down,
)
from orchestrator.rank import Rank
from orchestrator.spec import JobSpec
from orchestrator.world import World
from tests.support_core import job

RUN = RunDirectory(Path("/runs/small"))
SPOOL = Spool(Path("/dev/shm/muster-x"), Path("/tmp/muster-ray-x"))
HOME = {"HOME": "/home/ada", "PATH": "/usr/bin", "LANG": "C.UTF-8"}
RANK_FIELDS = {"rank", "node", "device", "cpus", "env", "argv", "log"}


def place(spec: JobSpec, cpus: int = 4) -> Placement:
    """The job's ranks on one node."""
    node = Node("local", "127.0.0.1", CpuBudget(tuple(range(cpus))))
    placement = allocate(Inventory((node,)), request_for(spec))
    assert isinstance(placement, Placement)
    return placement


def plan(
    *overrides: str,
    port: int | None = 20001,
    resume: Path | None = None,
    inherited: dict[str, str] | None = None,
    text: str | None = None,
) -> LaunchPlan:
    """The plan of attempt 3 of a small job."""
    spec = job(*overrides) if text is None else job(*overrides, text=text)
    attempt = Attempt(3, "run-1", resume, port)
    return make_plan(spec, place(spec), attempt, RUN, SPOOL, inherited or HOME)


def test_each_rank_has_its_contract() -> None:
    """Who it is, where it writes, what it resumes from and how often it saves."""
    made = plan("checkpoint.every_steps=5", resume=Path("/runs/small/checkpoints/step-00000040"))
    for number, rank in enumerate(made.ranks):
        environment = rank.process.environment
        contract = Rank(dict(environment))
        assert contract.active
        assert (contract.rank, contract.size, contract.local_rank) == (number, 2, number)
        assert (contract.job, contract.attempt, contract.backend) == ("small", 3, "cpu")
        assert contract.run_dir == RUN.root
        assert contract.resume_from == Path("/runs/small/checkpoints/step-00000040")
        assert (contract.checkpoint_dir, contract.checkpoint_every) == (RUN.checkpoints, 5)
        assert environment["MUSTER_HEARTBEAT"] == str(SPOOL.heartbeat(3, number))
        assert environment["MUSTER_ERROR_FILE"] == str(RUN.attempt(3).error(number))
        assert environment["DEVICE_ID"] == str(number)
        assert environment[MARK] == "run-1"
        assert rank.process.log == str(RUN.attempt(3).log(number))
        assert rank.process.heartbeat == environment["MUSTER_HEARTBEAT"]
        assert rank.process.error_file == environment["MUSTER_ERROR_FILE"]


def test_ranks_are_told_where_snapshots_go() -> None:
    """Each its own hand in the run's place; none where there are fewer processes than ranks."""
    spec = job("checkpoint.snapshot_every_steps=20")
    attempt = Attempt(3, "run-1", None, 20001, snapshots=Path("/dev/shm/muster-snapshots-x"))
    placement = place(spec)
    made = make_plan(spec, placement, attempt, RUN, SPOOL, HOME)
    slots = Rank(dict(made.ranks[1].process.environment)).snapshots()
    assert slots is not None and slots.due(40) and not slots.due(41)
    assert (slots.directory, slots.rank, slots.size) == (attempt.snapshots, 1, 2)
    fewer = Placement(placement.assignments[:1])
    made = make_plan(spec, fewer, attempt, RUN, SPOOL, HOME)
    assert Rank(dict(made.ranks[0].process.environment)).snapshots() is None
    assert any("no snapshots" in note for note in made.notes)
    assert Rank(dict(plan().ranks[0].process.environment)).snapshots() is None


def test_a_fresh_start_resumes_from_nothing() -> None:
    """The variable is there and empty."""
    assert plan().ranks[0].environment["MUSTER_RESUME_FROM"] == ""


def test_a_smaller_world_is_told_to_its_processes() -> None:
    """Two processes of a job of eight: each learns how many ranks there are, and a note says so."""
    spec = job("resources.ranks=8", "restart.min_ranks=2")
    two = place(job("resources.ranks=2"))
    made = make_plan(spec, two, Attempt(3, "run-1", None, 20001), RUN, SPOOL, HOME)
    for number, rank in enumerate(made.ranks):
        told = Rank(dict(rank.environment))
        assert (told.rank, told.size, told.world_size) == (number, 2, 8)
        assert len(told.virtual_ranks) == 4
        assert rank.environment["MS_WORKER_NUM"] == "2"
    assert made.world == World(8, 2)
    assert any("2 of 8 ranks' devices" in note for note in made.notes)
    document = made.to_document()
    assert document["virtual_ranks"] == 4
    assert written_down(document, "run-1").world == World(8, 2)
    del document["virtual_ranks"]  # as of an attempt of an earlier version
    assert written_down(document, "run-1").world == World(2, 2)


def test_a_whole_world_is_told_of_no_other() -> None:
    """Nothing is set that a script could stumble over."""
    made = plan()
    assert made.world.whole
    assert "MUSTER_RANKS" not in made.ranks[0].environment
    assert made.notes == place(job()).notes


def test_the_rendezvous() -> None:
    """Workers and scheduler agree on host, port and number; node time-outs outlast ours."""
    made = plan()
    assert made.scheduler is not None
    scheduler = made.scheduler.environment
    assert scheduler["MS_ROLE"] == "MS_SCHED"
    assert made.processes[0] is made.scheduler
    for number, rank in enumerate(made.ranks):
        worker = rank.process.environment
        assert worker["MS_ROLE"] == "MS_WORKER"
        assert worker["MS_NODE_ID"] == str(number)
        for name in ("MS_SCHED_HOST", "MS_SCHED_PORT", "MS_WORKER_NUM", "MS_NODE_TIMEOUT"):
            assert worker[name] == scheduler[name]
        assert (worker["MS_SCHED_PORT"], worker["MS_WORKER_NUM"]) == ("20001", "2")
        limits = job().health.phase_timeouts.values()
        assert int(worker["MS_NODE_TIMEOUT"]) > max(limits)


def test_the_scheduler_is_no_copy_of_the_script() -> None:
    """It is a program of ours, in the run, without a rank's heartbeat or error file."""
    scheduler = plan().scheduler
    assert scheduler is not None
    assert scheduler.argv == (sys.executable, "-m", "orchestrator.scheduler")
    assert (scheduler.rank, scheduler.heartbeat, scheduler.error_file) == (None, None, None)
    assert scheduler.environment[MARK] == "run-1"
    assert "MUSTER_JOB" not in scheduler.environment
    assert scheduler.log == str(RUN.attempt(3).log(None))


def test_jobs_without_rendezvous_have_no_scheduler() -> None:
    """Mode none: no scheduler, no MS_ variable, no port."""
    made = plan("launch.mode=none", port=None)
    assert made.scheduler is None
    assert made.to_document()["scheduler"] is None
    assert not [name for name in made.ranks[0].process.environment if name.startswith("MS_")]


FOREIGN = {
    "RAY_ADDRESS": "10.0.0.1:6379",
    "RAY_JOB_ID": "01",
    "MS_ROLE": "MS_PSERVER",
    "MS_SCHED_PORT": "9999",
    "MS_ENABLE_GE": "1",
    "MUSTER_JOB": "outer",
    "MUSTER_RESUME_FROM": "/outer",
    "MUSTER_RUN_ID": "outer",
    "RANK_ID": "7",
    "RANK_SIZE": "64",
    "LOCAL_RANK": "7",
    "DEVICE_ID": "7",
    "RANK_TABLE_FILE": "/outer.json",
    "OMP_NUM_THREADS": "64",
    "CUDA_VISIBLE_DEVICES": "5",
    "ASCEND_RT_VISIBLE_DEVICES": "5",
}


@pytest.mark.parametrize("mode", ["dynamic", "none"])
def test_nothing_of_an_outer_run_leaks(mode: str) -> None:
    """Ray's, MindSpore's and muster's own variables of the user never reach any process."""
    made = plan(f"launch.mode={mode}", inherited={**HOME, **FOREIGN})
    environments = [dict(process.environment) for process in made.processes]
    assert made.fork_server is not None
    environments.append(dict(made.fork_server.environment))
    for environment in environments:
        leaked = {n for n, value in FOREIGN.items() if environment.get(n) == value} - {"DEVICE_ID"}
        assert leaked == set()
        assert not [name for name in environment if name.startswith("RAY_")]
        assert environment["HOME"] == "/home/ada"
    assert user_environment({**HOME, **FOREIGN}).keys() <= {*HOME, "PYTHONPATH"}


@pytest.mark.parametrize("inherited", [{}, {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}])
def test_gpus_are_numbered_as_the_plan_numbers_them(inherited: dict[str, str]) -> None:
    """CUDA counts in the order of PCI bus ids, as the probe does, whatever the user had set."""
    spec = job("resources.device=gpu")
    devices = tuple(Device(DeviceKind.GPU, "local", index) for index in (3, 5))
    node = Node("local", "127.0.0.1", CpuBudget((0, 1)), devices)
    placement = allocate(Inventory((node,)), request_for(spec))
    assert isinstance(placement, Placement)
    attempt = Attempt(1, "run-1", None, 20001)
    made = make_plan(spec, placement, attempt, RUN, SPOOL, {**HOME, **inherited})
    for number, rank in enumerate(made.ranks):
        assert rank.process.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert rank.process.environment["CUDA_VISIBLE_DEVICES"] == "3,5"
        assert rank.process.environment["DEVICE_ID"] == str(number)
    assert "CUDA_DEVICE_ORDER" not in plan().ranks[0].environment


def test_the_jobs_environment_wins() -> None:
    """What the job sets beats the user's and our defaults, also for what is read at import."""
    made = plan("env={GLOG_v: '3', OMP_NUM_THREADS: '7', LANG: C}")
    assert made.fork_server is not None
    for environment in (made.ranks[1].process.environment, made.fork_server.environment):
        assert (environment["GLOG_v"], environment["OMP_NUM_THREADS"]) == ("3", "7")
        assert environment["LANG"] == "C"
    assert made.ranks[0].process.environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_every_process_finds_this_muster() -> None:
    """Ranks, scheduler and fork server import the package from wherever the job stands."""
    made = plan()
    root = str(Path(__file__).resolve().parent.parent)
    assert made.fork_server is not None
    for environment in (*(p.environment for p in made.processes), made.fork_server.environment):
        assert root in environment.get("PYTHONPATH", "").split(":")


def test_modules_are_forked_and_commands_are_started() -> None:
    """A module on the CPU gets the fork server; a command is executed as it is written."""
    made = plan("args={lr: 0.1, amp: true}", "launch.preload=[json]")
    rank = made.ranks[0].process
    assert rank.argv[1:] == ("-m", "orchestrator.entry", "train", "--lr=0.1", "--amp=true")
    assert (rank.module, rank.arguments, rank.start) == (
        "train",
        ("--lr=0.1", "--amp=true"),
        "auto",
    )
    assert made.fork_server is not None and made.fork_server.preload == ("json",)
    text = """
version: 1
name: small
command: [python, train.py, -v]
workdir: /
args: {lr: 0.1}
resources: {device: cpu, ranks: 2}
"""
    made = plan(text=text)
    assert made.fork_server is None
    assert made.ranks[0].process.argv == ("python", "train.py", "-v", "--lr=0.1")
    assert {process.start for process in made.processes} == {"spawn"}


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_start_method_is_the_jobs(start: str) -> None:
    """Fork means fork and spawn means spawn."""
    made = plan(f"launch.start={start}")
    assert {rank.process.start for rank in made.ranks} == {start}
    assert (made.fork_server is not None) == (start == "fork")


def test_the_document_is_that_of_the_design() -> None:
    """`plan --json`: the fields that checks read, per rank exactly these, all of it JSON."""
    made = plan(port=None)
    document = made.to_document()
    assert json.loads(json.dumps(document)) == document
    assert {"job", "nodes", "rank_table", "scheduler", "ranks"} <= set(document)
    assert document["job"] == "small"
    assert document["rank_table"] is None
    assert [set(rank) for rank in document["ranks"]] == [RANK_FIELDS] * 2
    assert [rank["rank"] for rank in document["ranks"]] == [0, 1]
    assert [rank["device"] for rank in document["ranks"]] == ["cpu:0", "cpu:1"]
    assert document["nodes"] == [{"name": "local", "ranks": [0, 1]}]
    assert document["scheduler"]["port"] is None
    assert document["ranks"][0]["env"]["MS_SCHED_PORT"] == PORT_LATER
    assert "HOME" not in document["ranks"][0]["env"]
    assert all(cpu in range(4) for rank in document["ranks"] for cpu in rank["cpus"])


ASCEND = """
version: 1
name: small
module: train
workdir: /
resources: {device: ascend, ranks: 2}
"""
DEVICES = (7, 4)  # given out ascending; a container knows them as 3 and 0


def ascend_plan(*overrides: str, simulated: str = "", known: bool = True) -> LaunchPlan:
    """The plan of two ranks on devices 4 and 7 of a 910B server."""
    spec = job(*overrides, text=ASCEND)
    devices = tuple(
        Device(DeviceKind.ASCEND, "here", i, "910B3", logical=i - 4, fabric=Fabric.MESH)
        for i in DEVICES
    )
    server = Node("here", "10.0.0.1", CpuBudget((0, 1, 2, 3)), devices)
    placement = allocate(Inventory((server,)), request_for(spec))
    assert isinstance(placement, Placement)
    facts = {"here": ServerFacts("10.0.0.1", {i: (f"192.168.1.{i}",) for i in DEVICES})}
    attempt = Attempt(3, "run-1", None, 20001 if simulated else None)
    return make_plan(
        spec, placement, attempt, RUN, SPOOL, HOME,
        facts=facts if known else None, simulated=simulated,
    )  # fmt: skip


def test_ascend_ranks_meet_by_their_table() -> None:
    """Physical ids stand in the table, logical ones in the variable, the index in DEVICE_ID."""
    made = ascend_plan()
    document = made.to_document()
    [server] = document["rank_table"]["server_list"]
    assert [d["device_id"] for d in server["device"]] == ["4", "7"]
    assert [d["device_ip"] for d in server["device"]] == ["192.168.1.4", "192.168.1.7"]
    assert made.scheduler is None and made.fork_server is None
    file = document["rank_table_file"]
    for number, rank in enumerate(made.ranks):
        environment = rank.process.environment
        assert environment["ASCEND_RT_VISIBLE_DEVICES"] == "0,3"
        assert environment["DEVICE_ID"] == str(number)
        assert environment["RANK_TABLE_FILE"] == file["path"] == str(RUN.attempt(3).rank_table)
        assert environment["MUSTER_BACKEND"] == "ascend"
        assert "ONEDNN_MAX_CPU_ISA" not in environment
        assert int(environment["HCCL_EXEC_TIMEOUT"]) <= 17340  # the most that the 910 takes
        assert not [name for name in environment if name.startswith("MS_")]
        assert rank.process.table == TableFile(file["path"], file["sha256"])
        # The text of a large table is not made anew for each of its many ranks.
        assert made.table is not None and rank.process.table is made.table.file
        assert file["sha256"] in rank.process.preamble
        assert "simulated" not in rank.process.preamble


def test_rehearsal_ranks_have_both_a_table_and_a_scheduler() -> None:
    """They compute on the CPU backend, which reads no table; the plan and each log say so."""
    made = ascend_plan(simulated="/node")
    document = made.to_document()
    assert document["rank_table"] and document["simulated_node"] == "/node"
    assert document["scheduler"]["port"] == 20001
    assert made.fork_server is not None
    for rank in made.ranks:
        environment = rank.process.environment
        assert environment["MUSTER_BACKEND"] == "cpu"
        assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
        assert environment["MS_ROLE"] == "MS_WORKER" and "RANK_TABLE_FILE" in environment
        assert "simulated" in rank.process.preamble and rank.process.batch


def test_an_unknown_address_leaves_the_table_out_of_a_plan() -> None:
    """Assumed devices have no addresses; a table with invented ones would be a lie."""
    document = ascend_plan(known=False).to_document()
    assert document["rank_table"] is None and document["rank_table_file"] is None


def test_a_dynamic_ascend_job_gets_no_table() -> None:
    """The mode is the job's own."""
    made = ascend_plan("launch.mode=dynamic", simulated="/node")
    assert made.to_document()["rank_table"] is None and made.scheduler is not None


def test_memory_goes_with_the_cpus() -> None:
    """Each rank's process takes its memory from the NUMA node that it is bound to."""
    nodes = tuple(NumaNode(n, (2 * n, 2 * n + 1), memory=True) for n in range(2))
    node = Node("local", "127.0.0.1", CpuBudget((0, 1, 2, 3), numa=nodes))
    for bind, expected in (("numa", [(0,), (1,)]), ("blocks", [(), ()]), ("none", [(), ()])):
        spec = job(f"launch.bind={bind}")
        placement = allocate(Inventory((node,)), request_for(spec))
        assert isinstance(placement, Placement)
        made = make_plan(spec, placement, Attempt(1, "run-1", None, None), RUN, SPOOL, HOME)
        assert [rank.process.memory_nodes for rank in made.ranks] == expected
        assert made.scheduler is not None and made.scheduler.memory_nodes == ()
        process = made.ranks[1].process
        assert ProcessPlan.from_document(json.loads(json.dumps(process.to_document()))) == process


def test_plans_go_to_the_supervisor_unchanged() -> None:
    """A process plan and a fork server's survive the way through JSON."""
    made = plan()
    for process in (*made.processes, *ascend_plan().processes):
        assert ProcessPlan.from_document(json.loads(json.dumps(process.to_document()))) == process
    server = made.fork_server
    assert server is not None
    assert ForkServerPlan.from_document(json.loads(json.dumps(server.to_document()))) == server


def test_fork_servers_of_two_attempts_are_equal() -> None:
    """The next attempt is forked from the server that is warm already."""
    spec = job()
    first, second = (
        make_plan(spec, place(spec), Attempt(n, "run-1", None, 20000 + n), RUN, SPOOL, HOME)
        for n in (1, 2)
    )
    assert first.fork_server == second.fork_server


def test_planning_is_pure() -> None:
    """The same values give the same plan."""
    assert plan() == plan()
