"""Ascend jobs on rehearsal devices: they plan, get a table, start, lose a device and come back."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.rank_table import Model, check_file
from cluster.simulated.directory import VARIABLE, NodeDirectory
from cluster.simulated.rehearsal import break_node, create
from model.rehearsal_data import Recipe, make
from tests.runs import Job, end, muster, poll, training_job, worker_job
from tests.simulated import node

pytestmark = pytest.mark.slow

ASCEND = {"resources": {"device": "ascend", "ranks": 2}, "launch": {"mode": "rank_table"}}


@pytest.fixture
def rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeDirectory]:
    """A 910B3 server of three cards that stands in for this machine's devices."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910B3", 3))
    monkeypatch.setenv(VARIABLE, str(directory.root))
    yield directory


def mend(directory: NodeDirectory) -> None:
    """Every device is well again."""
    done = muster("devices", "simulate", "--dir", directory.root, "--clear", "all")
    assert done.code == 0, done.text


def attempts(job: Job) -> list[dict[str, Any]]:
    """What was journalled of each attempt."""
    return [event for event in job.events() if event["kind"] == "attempt"]


def places(job: Job, attempt: int) -> list[str]:
    """The devices of an attempt by rank."""
    plan = json.loads((job.run_dir / f"attempts/{attempt:03d}/plan.json").read_text())
    return [rank["device"] for rank in plan["ranks"]]


def test_a_run_that_loses_a_device_goes_on_with_another(
    rehearsal: NodeDirectory, tmp_path: Path
) -> None:
    """The failure is the device's, the next attempt has another one and a table of its own."""
    job = worker_job(tmp_path, args={"steps": 60}, checkpoint={"every_steps": 5}, **ASCEND)
    done = job.run("--drill", "lose-device:1@step:12")
    assert done.code == 0, done.text
    [incident] = job.incidents()
    assert (incident["class"], incident["rank"]) == ("device", 1)
    assert (incident["node"], incident["device"]) == ("simulated", "ascend:1")
    assert "lost" in incident["cause"] and "killed by SIGKILL" in incident["cause"]
    assert places(job, 1) == ["ascend:0", "ascend:1"]
    assert places(job, 2) == ["ascend:0", "ascend:2"]
    assert job.status()["simulated"] is True
    assert "simulated" in done.out and "counted to 60" in done.out
    for number, attempt in enumerate(attempts(job), 1):
        told = attempt["data"]["rank_table"]
        file = Path(told["path"])
        assert file.parent == job.run_dir / f"attempts/{number:03d}"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == told["sha256"]
        assert file.stat().st_mode & 0o777 == 0o444
        assert check_file(file, Model.B910).ok
        for rank in (0, 1):
            first = (file.parent / f"logs/rank-{rank}.log").read_text().splitlines()[0]
            assert told["sha256"] in first and "simulated" in first
    assert attempts(job)[0]["data"]["rank_table"] != attempts(job)[1]["data"]["rank_table"]


def test_a_run_without_a_spare_device_waits_until_it_is_back(
    rehearsal: NodeDirectory, tmp_path: Path
) -> None:
    """It says what it waits for, charges nothing for the wait, and goes on by itself."""
    fields = {**ASCEND, "resources": {"device": "ascend", "ranks": 3}}
    job = worker_job(tmp_path, ranks=3, args={"steps": 40}, checkpoint={"every_steps": 5}, **fields)
    process = job.start("--drill", "alarm-device:2@step:12")
    try:
        poll(lambda: "waiting" in job.kinds(), what="it waits")
        status = job.status()
        assert status["state"] == "RECOVERING"
        assert "80C98000" in status["reason"], status["reason"]
        mend(rehearsal)
        assert process.wait(120) == 0, job.output()
    finally:
        end(process)
    [incident] = job.incidents()
    assert (incident["class"], incident["device"]) == ("device", "ascend:2")
    assert places(job, 2) == ["ascend:0", "ascend:1", "ascend:2"]


def test_a_supervisor_that_dies_while_devices_are_waited_for_costs_nothing(
    rehearsal: NodeDirectory, tmp_path: Path
) -> None:
    """No attempt is begun without one: the only incident is the device's."""
    fields = {**ASCEND, "resources": {"device": "ascend", "ranks": 3}}
    job = worker_job(tmp_path, ranks=3, args={"steps": 20}, checkpoint={"every_steps": 5}, **fields)
    process = job.start("--drill", "lose-device:2@step:7")
    try:
        poll(lambda: "waiting" in job.kinds(), what="it waits")
        [supervisor] = [e["data"] for e in job.events() if e["kind"] == "supervisor_started"]
        os.kill(supervisor["pid"], signal.SIGKILL)
        mend(rehearsal)
        assert process.wait(120) == 0, job.output()
    finally:
        end(process)
    assert [one["class"] for one in job.incidents()] == ["device"]
    assert len(attempts(job)) == 2


def test_tools_that_hang_after_a_failure_blame_no_device(
    rehearsal: NodeDirectory, tmp_path: Path
) -> None:
    """The failure keeps its class, and the run goes on where it was once they answer."""
    args = {"steps": 30, "pause": "0.1", "fail": "raise@12"}
    job = worker_job(tmp_path, args=args, checkpoint={"every_steps": 5}, **ASCEND)
    process = job.start()
    try:
        job.await_step(2)
        break_node(rehearsal.root, "hang")
        poll(lambda: "waiting" in job.kinds(), what="it waits")
        mend(rehearsal)
        assert process.wait(120) == 0, job.output()
    finally:
        end(process)
    assert [one["class"] for one in job.incidents()] == ["process"]
    assert places(job, 2) == ["ascend:0", "ascend:1"]


def test_two_runs_side_by_side_have_devices_of_their_own(
    rehearsal: NodeDirectory, tmp_path: Path
) -> None:
    """The second is refused what the first has, or waits until it has ended."""
    job = worker_job(tmp_path, args={"steps": 100_000, "pause": "0.1"}, **ASCEND)
    patient = Job(job.file, tmp_path / "patient")
    processes = [job.start()]
    try:
        job.await_step(1)
        done = Job(job.file, tmp_path / "refused").run()
        assert (
            done.code == 1
            and f"in use by another run of muster (pid {processes[0].pid})" in done.text
        )
        processes.append(patient.start("--set", "limits.wait=5m", "--set", "args.steps=2"))
        poll(lambda: "waiting" in patient.kinds(), what="the second waits")
        processes[0].send_signal(signal.SIGTERM)
        assert processes[1].wait(120) == 0, patient.output()
    finally:
        for process in processes:
            end(process)
    assert places(patient, 1) == ["ascend:0", "ascend:1"] == places(job, 1)


def test_limits_wait_bounds_the_wait_for_devices(rehearsal: NodeDirectory, tmp_path: Path) -> None:
    """A job that may wait looks again, and ends with the reason when its time is over."""
    break_node(rehearsal.root, "lost:0")
    break_node(rehearsal.root, "foreign:1=77/python/900")
    job = worker_job(tmp_path, args={"steps": 5}, limits={"wait": "1s"}, **ASCEND)
    done = job.run()
    assert done.code == 1
    kinds = job.kinds()
    assert "waiting" in kinds and "attempt" not in kinds
    assert "no devices within 1 s" in job.status()["reason"]
    assert "lost" in done.text and "77" in done.text


def test_a_first_start_without_devices_is_refused_at_once(
    rehearsal: NodeDirectory, tmp_path: Path
) -> None:
    """Nothing waits unless the job says so, and nothing was begun: no attempt, no Ray."""
    break_node(rehearsal.root, "driver-down")
    job = worker_job(tmp_path, args={"steps": 5}, **ASCEND)
    done = job.run()
    assert done.code == 1
    assert job.kinds() == ["created", "controller", "refused"]
    assert "npu-smi" in done.text


def test_a_machine_without_npu_smi_is_told_of_rehearsals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing and what can be done instead."""
    monkeypatch.delenv(VARIABLE, raising=False)
    job = worker_job(tmp_path, args={"steps": 5}, **ASCEND)
    done = job.run()
    assert done.code == 1
    assert "npu-smi was not found" in done.text and "muster devices simulate" in done.text


def test_a_simulated_run_is_not_continued_elsewhere(
    rehearsal: NodeDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its rehearsal node it would go on on hardware: refused, and told what to set."""
    job = worker_job(tmp_path, args={"steps": 8, "fail": "exit-64@4"}, **ASCEND)
    assert job.run().code == 1
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    done = muster("resume", job.run_dir)
    assert done.code == 1 and "no rehearsal node there" in done.text
    monkeypatch.setenv(VARIABLE, str(rehearsal.root))
    assert muster("resume", job.run_dir).code == 0


def test_a_table_that_hccl_would_refuse_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 910A needs addresses: the rule's code is told before an attempt is begun."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910A", 8, "no-ip:0"))
    directory.hccn_conf.write_text("")
    monkeypatch.setenv(VARIABLE, str(directory.root))
    job = worker_job(tmp_path, args={"steps": 5}, **ASCEND)
    done = job.run()
    assert done.code == 1
    assert "rank table RT" in done.text
    assert "attempt" not in job.kinds() and not list(job.run_dir.glob("attempts/*"))


def test_the_real_trainer_runs_as_an_ascend_job(rehearsal: NodeDirectory, tmp_path: Path) -> None:
    """Two MindSpore ranks on rehearsal devices train, lose one with its device, and finish."""
    make(tmp_path / "data", Recipe(images=16, val_images=4, seed=3, size=64))
    file = training_job(tmp_path, "ascend", 3, training_shape=64, max_steps=8)
    document = yaml.safe_load(file.read_text())
    document["resources"] = {"device": "ascend", "ranks": 2}
    file.write_text(yaml.safe_dump(document))
    job = Job(file, tmp_path / "run")
    done = job.run("--drill", "lose-device:0@step:5")
    assert done.code == 0, done.text
    assert [one["class"] for one in job.incidents()] == ["device"]
    assert places(job, 2) == ["ascend:1", "ascend:2"]
    assert attempts(job)[1]["data"]["resumed_step"] == 4
    assert "coco eval result" in done.out
    log = (job.run_dir / "attempts/002/logs/rank-0.log").read_text()
    assert log.startswith("muster: rank 0 on simulated/ascend:1 (simulated")
