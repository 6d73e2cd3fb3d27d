"""The queue's decisions, a story a test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.allocate import Request, allocate
from cluster.cpu import CpuBudget
from cluster.device import DeviceKind
from orchestrator.jobfile import loads
from orchestrator.queueing import Decisions, Quota, Running, schedule
from orchestrator.queueing.reasons import Reasons
from orchestrator.queueing.records import running_of, waiting_of
from orchestrator.states import JobState
from orchestrator.store.values import JobRecord
from tests import queues
from tests.queues import ASCEND, NOW, cluster, job, node, runs

EIGHT = cluster(node("n0", 8, cpus=32))


def names(decisions: Decisions) -> list[str]:
    """Who starts."""
    return [one.job for one in decisions.starts]


def test_higher_priority_first_then_first_come() -> None:
    """One that lost its devices goes before others of its priority, and behind higher ones."""
    line = [job("late", 1, at=2), job("early", 1, at=1), job("high", 1, at=9, priority=70)]
    back = replace(job("back", 1, at=8), front=True)
    assert names(schedule([*line, back], [], [], EIGHT, NOW)) == ["high", "back", "early", "late"]


def test_quota_comes_before_devices() -> None:
    """A job above its queue's quota waits for that, and says so, though devices are free."""
    line = [job("a", 4, queue="q"), job("b", 4, queue="q", at=1), job("c", 4, at=2)]
    decisions = schedule(line, [], [Quota("q", {ASCEND: 6})], EIGHT, NOW)
    assert names(decisions) == ["a", "c"]
    assert decisions.reasons == {"b": "needs 4 NPUs; queue q holds 4 of its quota of 6"}


def test_a_job_above_the_whole_quota_holds_nobody_up() -> None:
    """It can never start, says so, and the next of its queue goes."""
    line = [job("huge", 8, queue="q"), job("b", 4, queue="q", at=1)]
    decisions = schedule(line, [], [Quota("q", {ASCEND: 6})], EIGHT, NOW)
    assert names(decisions) == ["b"]
    assert "can never start" in decisions.reasons["huge"]


def test_a_later_job_passes_only_if_it_has_gone_in_time() -> None:
    """Half a node is free until 1000 s from now: 999 s may pass, more or no limit may not."""
    before = runs(EIGHT, job("r", 4, run=1000.0), since=NOW)
    head = job("head", 8)
    short, long = job("s", 1, run=999.0, at=1), job("l", 1, run=1001.0, at=2)
    endless = job("e", 1, at=3)
    decisions = schedule([head, short, long, endless], before, [], EIGHT, NOW)
    assert names(decisions) == ["s"]
    assert decisions.reasons["head"].endswith(
        "next in line, in 17m at the latest by limits.run of others"
    )
    behind = "behind job head: would fit now, but may delay it"
    assert decisions.reasons["l"] == f"{behind} (its limits.run ends too late)"
    assert decisions.reasons["e"].endswith("(it has no limits.run)")


def test_a_later_job_without_limit_passes_on_other_devices() -> None:
    """The head will have one node; the other is free for ever."""
    where = cluster(node("n0", 8), node("n1", 4))
    before = runs(where, job("r", 8, run=1000.0))
    decisions = schedule([job("head", 8), job("e", 4, at=1)], before, [], where, NOW)
    assert names(decisions) == ["e"]


def test_what_can_never_start_keeps_nothing() -> None:
    """A gang larger than the cluster says so and others go on."""
    decisions = schedule([job("huge", 16), job("b", 8, at=1)], [], [], EIGHT, NOW)
    assert names(decisions) == ["b"]
    assert "not even if nothing else ran" in decisions.reasons["huge"]


def test_the_youngest_of_the_lowest_priority_is_stopped() -> None:
    """One of two equal jobs makes room; it is the one that loses less."""
    old = runs(EIGHT, job("old", 4, priority=30), since=100.0)
    both = [*old, *started_beside(old, "young")]
    decisions = schedule([job("high", 4, priority=70)], both, [], EIGHT, NOW)
    assert [(one.job, one.needed_by) for one in decisions.preemptions] == [("young", "high")]
    assert decisions.reasons == {"high": "waits for the stop of job young"}


def started_beside(others: list[Running], name: str) -> list[Running]:
    """Another job of four devices that started just now."""
    line = [job(name, 4, priority=30)]
    return queues.started(line, schedule(line, others, [], EIGHT, NOW - 1), NOW - 1)


def test_nobody_is_stopped_twice_nor_for_a_job_that_a_stop_serves() -> None:
    """The next pass waits for the stop that goes on, and keeps those devices."""
    before = [replace(one, stopping=True) for one in runs(EIGHT, job("r", 8, priority=30))]
    line = [job("high", 8, priority=70), job("low", 2, priority=10, run=1.0)]
    decisions = schedule(line, before, [], EIGHT, NOW)
    assert decisions.preemptions == ()
    assert decisions.reasons["high"] == "waits for the stop of job r"
    assert set(decisions.reasons) == {"high", "low"}


def test_what_a_stop_frees_is_promised_once() -> None:
    """The first has the devices of the job that is stopping; for the second another is stopped."""
    old = runs(EIGHT, job("r1", 4, priority=30), job("r2", 4, priority=30))
    line = [job("w1", 4, priority=70), job("w2", 4, priority=70, at=1)]
    decisions = schedule(line, [replace(old[0], stopping=True), old[1]], [], EIGHT, NOW)
    assert [(one.job, one.needed_by) for one in decisions.preemptions] == [("r2", "w2")]
    assert decisions.reasons["w1"] == "waits for the stop of job r1"


def test_equal_priority_and_what_may_not_be_stopped_stay() -> None:
    """Only strictly lower and preemptible jobs are stopped."""
    before = runs(EIGHT, job("r", 8))
    assert not schedule([job("same", 8)], before, [], EIGHT, NOW).preemptions
    fixed = [replace(one, preemptible=False) for one in before]
    assert not schedule([job("high", 8, priority=99)], fixed, [], EIGHT, NOW).preemptions


def test_a_wait_that_is_over_ends() -> None:
    """A job that could start now still does."""
    line = [job("a", 8, wait=10.0), job("b", 8, at=1, wait=10.0), job("c", 8, at=995, wait=10.0)]
    decisions = schedule(line, [], [], EIGHT, NOW)
    assert (names(decisions), decisions.expired) == (["a"], ("b",))
    assert list(decisions.reasons) == ["c"]


def test_jobs_on_one_node_share_its_cpus_by_their_devices() -> None:
    """Two of eight devices come with a quarter of the CPUs, so that the others have theirs."""
    decisions = schedule([job(f"j{i}", 2, at=i) for i in range(4)], [], [], EIGHT, NOW)
    held = [{c for a in s.placement.assignments for c in a.cpus} for s in decisions.starts]
    assert [len(cpus) for cpus in held] == [8, 8, 8, 8]
    assert len(set.union(*held)) == 32


def test_fewer_cpus_than_devices_are_shared() -> None:
    """On a rehearsal node of two CPUs and eight devices two gangs of four run side by side."""
    where = cluster(node("n0", 8, cpus=2))
    line = [job("a", 4), job("b", 4, at=1)]
    first = schedule(line, [], [], where, NOW)
    assert names(first) == ["a", "b"]
    again = schedule(
        line[1:], queues.started(line[:1], schedule(line[:1], [], [], where, 1), 1), [], where, NOW
    )
    assert names(again) == ["b"]


def test_cpu_jobs_take_turns_unless_they_say_how_much() -> None:
    """A gang of slots takes the free CPUs of its node; with a number it takes that many."""
    where = cluster(node("n0", cpus=8))
    kind = DeviceKind.CPU
    greedy = schedule([job("a", 2, kind=kind), job("b", 2, kind=kind, at=1)], [], [], where, NOW)
    assert names(greedy) == ["a"]
    modest = [job(n, 2, kind=kind, cpus=2, at=i) for i, n in enumerate("abc")]
    decisions = schedule(modest, [], [], where, NOW)
    assert names(decisions) == ["a", "b"]
    slots = [a.device.key for s in decisions.starts for a in s.placement.assignments]
    assert slots == ["n0/cpu:0", "n0/cpu:1", "n0/cpu:2", "n0/cpu:3"]


def test_a_quota_of_cpu_time_does_not_close_a_node() -> None:
    """Threads of one gang leave some for the next on a node that has more CPUs than quota."""
    small = replace(node("n0", 8, cpus=32), cpus=CpuBudget(tuple(range(32)), quota=4.0))
    decisions = schedule([job("a", 4), job("b", 4, at=1)], [], [], cluster(small), NOW)
    assert [s.placement.assignments[0].threads for s in decisions.starts] == [1, 1]


def test_one_id_stands_for_one_job() -> None:
    """The same job cannot wait twice, nor wait and run."""
    with pytest.raises(ValueError, match="same id"):
        schedule([job("a", 1), job("a", 2)], [], [], EIGHT, NOW)
    with pytest.raises(ValueError, match="same id"):
        schedule([job("a", 1)], runs(EIGHT, job("a", 1)), [], EIGHT, NOW)


def test_every_line_of_ps_has_a_place_and_a_reason() -> None:
    """First in line first, in the allocator's own words."""
    line = [job("b", 8, at=1), job("a", 8), job("c", 4, at=2)]
    before = runs(EIGHT, job("r", 8))
    decisions = schedule(line, before, [], EIGHT, NOW)
    assert decisions.positions == {"a": 1, "b": 2, "c": 3}
    told = [*decisions.reasons.values()]
    words = "needs 8 free NPUs in one node; n0 has 0: NPU 0-7 in use by job r"
    assert told[0].startswith(f"{words}; next in line")
    assert told[2] == "needs 4 free NPUs in one node; n0 has 0: NPU 0-7 in use by job r"


def test_cpus_that_the_next_needs_are_kept_as_well() -> None:
    """Where ranks share the CPUs of their node, nobody without a limit takes those meanwhile."""
    where = cluster(node("n0", 4, cpus=2))
    before = runs(where, job("r", 4, run=1000.0))
    slots = job("slots", 1, kind=DeviceKind.CPU, cpus=2, at=1)
    decisions = schedule([job("head", 4), slots], before, [], where, NOW)
    assert decisions.reasons["slots"].startswith("behind job head: would fit now")


def test_a_kind_that_nobody_could_see_is_not_taken_for_empty() -> None:
    """Nothing of it starts or is stopped, and the reason says what is not known."""
    before = runs(EIGHT, job("r", 8, priority=10))
    unseen = replace(EIGHT, unknown={ASCEND: "npu-smi does not answer"})
    line = [job("a", 2, priority=90), job("slots", 2, kind=DeviceKind.CPU, cpus=1, at=1)]
    decisions = schedule([*line, job("late", 2, wait=5.0)], [], [], unseen, NOW)
    assert names(decisions) == ["slots"]
    why = "needs 2 NPUs; how many there are is not known: npu-smi does not answer"
    assert decisions.reasons == {"a": why}
    assert decisions.expired == ("late",)
    again = schedule(line, before, [], unseen, NOW)
    assert (again.preemptions, again.reasons["a"]) == ((), why)


def test_eight_ranks_start_on_a_machine_of_two_cpus() -> None:
    """They share what is free, and the next waits."""
    where = cluster(node("n0", cpus=2))
    line = [job(n, 8, kind=DeviceKind.CPU, at=i) for i, n in enumerate("ab")]
    decisions = schedule(line, [], [], where, NOW)
    assert names(decisions) == ["a"]
    assert {a.cpus for a in decisions.starts[0].placement.assignments} == {(0,), (1,)}
    assert decisions.reasons["b"].startswith("needs 8 CPU slots in one node; n0 has no CPU")


def test_a_blamed_device_is_used_only_if_the_job_cannot_do_without() -> None:
    """It waits for another one where there is one, as the allocator would have it."""
    blamed = {"n0/ascend:3": "blamed"}
    whole, part = (
        replace(one, request=replace(one.request, withheld=blamed))
        for one in (job("whole", 8), job("part", 4))
    )
    assert names(schedule([whole], [], [], EIGHT, NOW)) == ["whole"]
    before = [
        replace(one, assignments=tuple(a for a in one.assignments if a.device.index > 3))
        for one in runs(EIGHT, job("r", 8))
    ]
    decisions = schedule([part], before, [], EIGHT, NOW)
    assert "NPU 3 blamed" in decisions.reasons["part"]


def test_a_gang_alone_is_placed_as_a_run_of_its_own() -> None:
    """What the queue gives a job that has its nodes to itself is the allocator's own answer."""
    gang = job("a", 16, 8)
    where = cluster(node("n0", 8, cpus=32), node("n1", 8, cpus=32))
    placed = schedule([gang], [], [], where, NOW).starts[0].placement
    assert placed == allocate(where.inventory, gang.request)


def test_a_reason_is_found_for_one_job_without_the_others() -> None:
    """Words are made when asked for: a look at one of many shapes costs one."""
    line = [job(f"j{i}", i, each=i) for i in range(1, 9)]
    reasons = schedule(line, runs(EIGHT, job("r", 8)), [], EIGHT, NOW).reasons
    assert isinstance(reasons, Reasons)
    assert (len(reasons), reasons.told) == (8, 0)
    assert reasons["j3"].startswith("needs 3 free NPUs")
    assert (reasons["j3"], reasons.told) == (reasons["j3"], 1)


def test_a_record_of_the_store_waits_and_runs() -> None:
    """Jobs that were started before go first; the limit of the wait counts from the last one."""
    record = RECORD
    one = waiting_of(record, Request(ASCEND, 2, 2))
    assert (one.front, one.place, one.since) == (True, 7, 30.0)
    assert (one.overdue(39.0), one.overdue(40.0)) == (False, True)
    placement = schedule([one], [], [], EIGHT, 31.0).starts[0].placement
    spec = loads("{version: 1, name: a, module: m, resources: {device: ascend, ranks: 2}}")
    going = running_of(record, spec, placement, 31.0, preemptible=True, stopping=False)
    assert (going.ends(32.0), going.queue, going.bound) == (91.0, "night", True)


RECORD = JobRecord(
    number=7,
    job="a-000001",
    name="a",
    user="u",
    queue="night",
    priority=40,
    device=ASCEND,
    ranks=2,
    wait_limit=10.0,
    run_limit=60.0,
    run_dir="/runs/a-000001",
    state=JobState.QUEUED,
    reason="",
    attempt=1,
    front=True,
    place=7,
    submitted_at=1.0,
    queued_at=30.0,
    started_at=2.0,
    ended_at=None,
    last_event=5,
    key=None,
)
