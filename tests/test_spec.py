"""The values of a validated job: defaults, derived facts, the stored document."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.heartbeat import PHASES
from orchestrator.jobfile import JobFileError, from_document, loads
from orchestrator.spec import (
    DEFAULT_BUDGETS,
    DEFAULT_PHASE_TIMEOUTS,
    Bind,
    DeviceKind,
    JobSpec,
    LaunchMode,
    StartMethod,
    to_document,
)
from orchestrator.states import FailureClass

SMALLEST = """
version: 1
name: small
module: train
resources: {device: cpu, ranks: 4}
"""

FULL = """
version: 1
name: full-8p
command: [python, -u, train.py]
workdir: .
args: {data_dir: ./coco, lr: 1e-3, sides: [320, 352], amp: true, note: ''}
env: {GLOG_v: "2", TINY: 0.5}
resources:
  device: ascend
  ranks: 8
  ranks_per_node: 4
  cpus_per_rank: 12
  memory_per_rank: 4Gi
  nodes: {labels: {pool: train}}
launch: {mode: dynamic, bind: blocks, start: spawn, preload: [mindspore]}
checkpoint: {every_steps: 500, keep: 2, snapshot_every_steps: 20}
health:
  heartbeat_timeout: 90
  straggler: 1.5
  move_stragglers: true
  phase_timeouts: {init: 1h30m, load: unlimited}
  hang: {factor: 4, floor: 90s, ceiling: 10m}
restart:
  budgets: {process: unlimited, oom: 0}
  replenish_after: 6h
  backoff: {first: 500ms, factor: 1.5, max: 2m, jitter: 0.5}
  no_progress: 5
  rules: [{log: 'EI\\d+', class: node}, {exit_code: 137, class: oom}]
  min_ranks: 2
  fallback: {args: {lr: 1e-4, amp: false}}
queue: {name: night, priority: 70}
limits: {wait: 1d, run: 48h}
then: {module: model.evaluate, args: {testing_shape: 416}}
notify: [{url: 'https://example.org/hook', events: [failed]}]
"""


def spec(text: str, *overrides: str) -> JobSpec:
    """The job of a text."""
    return loads(text, overrides)


def test_defaults_of_the_smallest_job() -> None:
    """A job of four lines gets every other value from the defaults."""
    job = spec(SMALLEST)
    assert job.workdir == Path.cwd()
    assert job.args == ()
    assert job.resources.ranks_per_node == 4
    assert job.resources.nodes == 1
    assert job.resources.cpus_per_rank is None
    assert job.launch.bind is Bind.NUMA
    assert job.checkpoint.every_steps is None
    assert job.checkpoint.keep == 5
    assert job.health.heartbeat_timeout is None
    assert job.health.phase_timeouts == DEFAULT_PHASE_TIMEOUTS
    assert job.restart.budgets == DEFAULT_BUDGETS
    assert job.restart.no_progress == 3
    assert job.restart.min_ranks == 4
    assert job.then is None


def test_default_budgets_cover_every_class() -> None:
    """Each failure class has a budget, a user's mistake none, a preemption no end."""
    assert set(DEFAULT_BUDGETS) == set(FailureClass)
    assert DEFAULT_BUDGETS[FailureClass.USER] == 0
    assert DEFAULT_BUDGETS[FailureClass.PREEMPTION] is None


def test_training_has_no_phase_limit() -> None:
    """Every phase but training is limited by default: training is watched by its heartbeat."""
    assert set(DEFAULT_PHASE_TIMEOUTS) == set(PHASES) - {"train"}


@pytest.mark.parametrize(
    ("device", "mode"),
    [
        ("ascend", LaunchMode.RANK_TABLE),
        ("gpu", LaunchMode.DYNAMIC),
        ("cpu", LaunchMode.DYNAMIC),
    ],
)
def test_default_launch_mode(device: str, mode: LaunchMode) -> None:
    """Ascend ranks meet by a rank table, others by the scheduler."""
    assert spec(SMALLEST, f"resources.device={device}").launch.mode is mode


@pytest.mark.parametrize(
    ("overrides", "method"),
    [
        ((), StartMethod.FORK),
        (("launch.start=spawn",), StartMethod.SPAWN),
        (("resources.device=gpu",), StartMethod.SPAWN),
        (("resources.device=gpu", "launch.start=fork"), StartMethod.FORK),
    ],
)
def test_start_method(overrides: tuple[str, ...], method: StartMethod) -> None:
    """`auto` forks modules on the CPU and spawns elsewhere; what is said explicitly holds."""
    job = spec(SMALLEST, *overrides)
    assert job.start_method(job.resources.device) is method


def test_modules_of_a_rehearsal_are_forked() -> None:
    """What counts is the backend that ranks compute on, not the device that was asked for."""
    job = spec(SMALLEST, "resources.device=ascend")
    assert job.start_method(DeviceKind.CPU) is StartMethod.FORK
    assert job.start_method(DeviceKind.ASCEND) is StartMethod.SPAWN


def test_command_is_spawned() -> None:
    """A command cannot be forked from a Python server, so `auto` spawns it."""
    job = spec(SMALLEST.replace("module: train", "command: [sh]"))
    assert job.start_method(DeviceKind.CPU) is StartMethod.SPAWN


def test_arguments_are_rendered() -> None:
    """Arguments keep their order and spelling; lists are joined with commas."""
    assert spec(FULL).argv_args == (
        "--data_dir=./coco",
        "--lr=1e-3",
        "--sides=320,352",
        "--amp=true",
        "--note=",
    )


def test_full_job_is_read() -> None:
    """Every field of the job file arrives in seconds, bytes and enumeration members."""
    job = spec(FULL)
    assert job.command == ("python", "-u", "train.py")
    assert job.env == {"GLOG_v": "2", "TINY": "0.5"}
    assert job.resources.device is DeviceKind.ASCEND
    assert job.resources.nodes == 2
    assert job.resources.memory_per_rank == 4 * 2**30
    assert job.resources.node_labels == {"pool": "train"}
    assert job.launch.preload == ("mindspore",)
    assert job.health.phase_timeouts["init"] == 5400
    assert "load" not in job.health.phase_timeouts
    assert job.health.phase_timeouts["compile"] == DEFAULT_PHASE_TIMEOUTS["compile"]
    assert job.restart.budgets[FailureClass.PROCESS] is None
    assert job.restart.budgets[FailureClass.HANG] == DEFAULT_BUDGETS[FailureClass.HANG]
    assert job.restart.backoff.first == 0.5
    assert job.restart.backoff.jitter == 0.5
    assert job.restart.fallback == (("lr", "1e-4"), ("amp", "false"))
    assert [rule.failure for rule in job.restart.rules] == [FailureClass.NODE, FailureClass.OOM]
    assert job.limits.wait == 86_400
    assert job.then is not None
    assert job.then.argv_args == ("--testing_shape=416",)
    assert job.notify[0].events == ("failed",)


@pytest.mark.parametrize("text", [SMALLEST, FULL])
def test_document_gives_the_spec_back(text: str) -> None:
    """A spec written as JSON and read again is the same, what was given included."""
    job = spec(text)
    assert from_document(json.loads(json.dumps(to_document(job)))) == job


@pytest.mark.parametrize(
    "override",
    [
        "args.many=[" + "12345678, " * 4000 + "0]",
        "env={" + ", ".join(f"A{i}: b" for i in range(4970)) + "}",
        "args.text=" + "x" * 16_384,
    ],
    ids=["joined", "many", "long"],
)
def test_largest_document_gives_the_spec_back(override: str) -> None:
    """Whatever a job file may hold can be stored and read again, defaults and joined lists too."""
    job = spec(SMALLEST, override)
    assert from_document(to_document(job)) == job


@settings(deadline=None)
@given(
    st.from_regex(r"([1-9]d)?([0-9]{1,2}h)?[0-9]{1,3}(\.[0-9]{1,9})?(ms|s)", fullmatch=True),
    st.floats(1, 100),
)
def test_any_duration_can_be_stored(duration: str, factor: float) -> None:
    """Times and factors are the same after they were stored, however they were written."""
    job = spec(SMALLEST, f"restart.backoff={{first: {duration}, max: 3650d, factor: {factor!r}}}")
    assert from_document(json.loads(json.dumps(to_document(job)))) == job


# (what is put into a stored document, the field that is blamed, words of the message)
DAMAGED: list[tuple[dict[Any, Any], str, str]] = [
    ({"ranks": 4}, "ranks", "its place is resources.ranks"),
    ({"resources": None}, "resources", "it is required"),
    ({"resources": {"device": "cpu", "ranks": "4"}}, "resources.ranks", "integer 1.."),
    ({"resources": {"device": "cpu", "ranks": 10**400}}, "resources.ranks", "type int"),
    ({"health": {"straggler": float("nan")}}, "health.straggler", "found NaN"),
    ({"env": {"A": "a\0b"}}, "env.A", "one line of text"),
    ({"env": {"A": "\ud800"}}, "env.A", "text that UTF-8 can hold"),
    ({"env": {"A": object()}}, "env.A", "found a value of type object"),
    ({"env": {"MUSTER_X": "1"}}, "env.MUSTER_X", "muster sets it"),
    ({"env": {7: "1"}}, "env.7", "the key '7'"),
    ({"args": {"a": "x" * (1 << 19)}}, "args.a", "at most 262144"),
    ({"args": {"a": ["x"] * 30_000}}, "args.a[19999]", "more than 20000 values"),
    ({"name": "../../x"}, "name", "the first a letter or digit"),
    ({"given": 5}, "given", "a list of the fields"),
    ({"given": ["name", 5]}, "given", "a list of the fields"),
    ({"given": {"name": 1}}, "given", "a list of the fields"),
]


@pytest.mark.parametrize(("damage", "path", "words"), DAMAGED)
def test_damaged_document(damage: dict[Any, Any], path: str, words: str) -> None:
    """A stored document is checked like a job file; what is wrong is named by its field."""
    with pytest.raises(JobFileError) as caught:
        from_document({**to_document(spec(SMALLEST)), **damage}, file="spec.json")
    problem = next(problem for problem in caught.value.problems if problem.path == path)
    assert words in problem.describe("spec.json")


@pytest.mark.parametrize("document", [[], ["a"], "text", None, 7, {}])
def test_no_document(document: Any) -> None:
    """What is no document of a job is refused as such."""
    with pytest.raises(JobFileError):
        from_document(document)


def test_deep_document() -> None:
    """A document without end is not followed."""
    deep: dict[str, Any] = {}
    deep["env"] = deep
    with pytest.raises(JobFileError, match="deeper nesting"):
        from_document({**to_document(spec(SMALLEST)), **deep})


@pytest.mark.parametrize("text", [SMALLEST, FULL])
def test_spec_can_be_pickled(text: str) -> None:
    """A spec crosses process boundaries."""
    job = spec(text)
    assert pickle.loads(pickle.dumps(job)) == job


def test_given_holds_what_stands_in_the_file() -> None:
    """Fields that only have their default are not among the given ones."""
    given = spec(SMALLEST, "checkpoint.keep=2").given
    assert given == {
        "version",
        "name",
        "module",
        "resources",
        "resources.device",
        "resources.ranks",
        "checkpoint",
        "checkpoint.keep",
    }


def test_import_is_light() -> None:
    """Reading a job file needs neither Ray nor MindSpore nor NumPy."""
    code = "import sys, orchestrator.jobfile; print({'ray', 'mindspore', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
