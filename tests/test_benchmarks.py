"""The common part of the benchmarks: figures, bench.json, names, logs; nothing is timed here."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cluster.affinity import Bind
from cluster.cpu import CpuBudget
from tests.benchmarks import exact_resume, recovery, registry, step_bind
from tests.benchmarks.__main__ import main, run
from tests.benchmarks.bench import (
    Bench,
    BenchmarkError,
    Progress,
    Unavailable,
    end,
    in_turn,
    place,
)
from tests.benchmarks.figures import (
    Better,
    Entry,
    FiguresFile,
    Measurement,
    Summary,
    table,
    this_machine,
)
from tests.benchmarks.registry import Group
from tests.benchmarks.steps import first_step, pid_in, steps_in

MACHINE = {"cpu": "abacus", "cores": 2, "load": 0.5}
FASTER = Measurement("s", Summary.of([2.0]), Summary.of([8.0]), "them")


@pytest.fixture
def progress() -> Progress:
    """Progress that nobody sees."""
    return Progress(Console(quiet=True))


def entry_of(seconds: float) -> Entry:
    """An entry of a benchmark without a peer."""
    return Measurement("s", Summary.of([seconds])).entry(MACHINE)


def test_a_summary_has_the_middle_and_both_ends() -> None:
    """Median, least, greatest and number, whatever the order; no sample is an error."""
    assert Summary.of([3.0, 1.0, 2.0]) == Summary(2.0, 1.0, 3.0, 3)
    assert Summary.of([1.0, 2.0, 3.0, 10.0]).median == 2.5
    with pytest.raises(ValueError, match="no sample"):
        Summary.of([])


@pytest.mark.parametrize(
    ("ours", "peer", "better", "ratio"),
    [
        (2.0, 8.0, Better.LOWER, 4.0),
        (8.0, 2.0, Better.LOWER, 0.25),
        (8.0, 2.0, Better.HIGHER, 4.0),
        (2.0, 8.0, Better.HIGHER, 0.25),
        (0.0, 8.0, Better.LOWER, None),
    ],
)
def test_a_ratio_above_one_means_that_ours_is_better(
    ours: float, peer: float, better: Better, ratio: float | None
) -> None:
    """Fewer seconds are better, more images too; what cannot be divided has no ratio."""
    found = Measurement("x", Summary.of([ours]), Summary.of([peer]), "them", better).ratio
    assert found == ratio


def test_without_a_peer_there_is_no_ratio_but_a_verdict_has_one() -> None:
    """None where nothing is compared; 1 or 0 for right or wrong."""
    ours = Summary.of([1.0])
    assert Measurement("s", ours).ratio is None
    assert Measurement("s", ours, verdict=True).ratio == 1
    assert Measurement("s", ours, verdict=False).ratio == 0


def test_an_entry_has_the_documented_fields() -> None:
    """Unit, both sides, the peer's name, the ratio and the machine, and nothing else."""
    assert FASTER.entry(MACHINE) == {
        "unit": "s",
        "ours": {"median": 2.0, "min": 2.0, "max": 2.0, "n": 1},
        "peer": {"median": 8.0, "min": 8.0, "max": 8.0, "n": 1},
        "peer_name": "them",
        "ratio": 4.0,
        "machine": MACHINE,
    }


def test_the_machine_is_named(tmp_path: Path) -> None:
    """Its CPU by /proc/cpuinfo or else by platform, usable cores, and the load."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Abacus 3000\n")
    assert this_machine(cpuinfo)["cpu"] == "Abacus 3000"
    machine = this_machine(tmp_path / "missing")
    assert machine["cpu"]
    assert machine.keys() == MACHINE.keys()
    assert machine["cores"] > 0


def test_a_file_keeps_the_entries_of_others(tmp_path: Path) -> None:
    """Putting replaces what is put and nothing else, and leaves no other file behind."""
    file = FiguresFile(tmp_path / "bench.json")
    file.put({"one": entry_of(1), "two": entry_of(2)})
    file.put({"two": entry_of(3)})
    assert {name: entry["ours"]["median"] for name, entry in file.read().items()} == {
        "one": 1,
        "two": 3,
    }
    file.keep_only(["two", "three"])
    assert list(json.loads((tmp_path / "bench.json").read_text())) == ["two"]
    assert os.listdir(tmp_path) == ["bench.json"]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """An entry that JSON cannot hold costs nothing of what was known."""
    file = FiguresFile(tmp_path / "bench.json")
    file.put({"one": entry_of(1)})
    before = file.path.read_bytes()
    with pytest.raises(TypeError):
        file.put({"two": {"ours": object()}})
    assert file.path.read_bytes() == before
    assert os.listdir(tmp_path) == ["bench.json"]


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_something_else_under_that_name_is_not_overwritten(tmp_path: Path, content: str) -> None:
    """Exit code 2 before anything is measured, and the file stays."""
    path = tmp_path / "bench.json"
    path.write_text(content)
    assert main(["--only", "heartbeat", "--out", str(path)]) == 2
    assert path.read_text() == content


def test_the_table_shows_what_is_missing_as_such() -> None:
    """A benchmark without a peer has no ratio in the table either."""
    console = Console(record=True, width=120, file=open(os.devnull, "w"))
    console.print(table({"fast": FASTER.entry(MACHINE), "alone": entry_of(1)}))
    console.file.close()
    fast, alone = (
        line for line in console.export_text().splitlines() if "fast" in line or "alone" in line
    )
    assert "8 s n=1" in fast
    assert "4" in fast
    assert alone.count("–") == 3


@pytest.mark.parametrize(
    ("name", "what"),
    [("nonsense", "is no benchmark"), ("one_day", "is not built yet")],
)
def test_a_name_that_cannot_be_run_is_code_2(
    name: str,
    what: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message says why and lists those that there are; nothing is written."""
    monkeypatch.setattr(registry, "PLANNED", ("one_day",))
    assert main(["--only", name, "--out", str(tmp_path / "bench.json")]) == 2
    message = capsys.readouterr().err
    assert f"{name} {what}" in message
    assert "heartbeat" in message
    assert not list(tmp_path.iterdir())


def test_names_are_unique_and_not_both_built_and_planned() -> None:
    """One name, one benchmark; what is built leaves the list of plans."""
    names = registry.names()
    assert len({*names, *registry.PLANNED}) == len(names) + len(registry.PLANNED)


def test_only_the_wanted_part_of_a_group_is_asked_for() -> None:
    """Benchmarks of the same runs are measured together, and no more than wanted."""
    [(group, wanted)] = registry.chosen(["detection"])
    assert group.names == recovery.NAMES
    assert wanted == {"detection"}
    assert [part for _, part in registry.chosen([])] == [
        frozenset(group.names) for group in registry.GROUPS
    ]


def run_groups(tmp_path: Path, *groups: Group, named: bool = True) -> tuple[int, dict[str, Entry]]:
    """Run these groups; the exit code and what was written."""
    file = FiguresFile(tmp_path / "bench.json")
    code = run([(group, frozenset(group.names)) for group in groups], file, named=named)
    return code, file.read()


def test_one_benchmark_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """The good one is written, the exit code is 1."""

    def fail(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
        raise BenchmarkError("told to")

    good = Group(("fast", "spare"), lambda bench, wanted: {"fast": FASTER, "spare": FASTER})
    code, written = run_groups(tmp_path, Group(("bad",), fail), good)
    assert code == 1
    assert list(written) == ["fast", "spare"]


def test_a_verdict_of_wrong_is_written_and_is_code_1(tmp_path: Path) -> None:
    """Ratio 0 stands in the file, so that nobody overlooks it."""
    wrong = exact_resume.compare({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"})
    assert wrong.different == ("b", "c")
    group = Group(("same",), lambda bench, wanted: {"same": wrong.measurement})
    code, written = run_groups(tmp_path, group)
    assert code == 1
    assert written["same"]["ratio"] == 0
    assert written["same"]["ours"]["median"] == 1
    assert written["same"]["ours"]["n"] == 3


def test_the_same_bytes_in_every_file_are_a_good_verdict() -> None:
    """But no file at all is not."""
    assert exact_resume.compare({"a": "1"}, {"a": "1"}).measurement.ratio == 1
    assert exact_resume.compare({}, {}).measurement.ratio == 0


@pytest.mark.parametrize(("named", "expected"), [(True, 2), (False, 0)])
def test_what_is_not_there_yet_is_left_out(tmp_path: Path, named: bool, expected: int) -> None:
    """Code 2 if it was asked for by name; among all the others it is only said."""

    def lack(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
        raise Unavailable("its job file is not there yet")

    code, written = run_groups(tmp_path, Group(("later",), lack), named=named)
    assert code == expected
    assert written == {}


def test_both_sides_run_in_turn() -> None:
    """Ours, theirs, ours, theirs: a slow minute of the machine meets both."""
    calls: list[str] = []
    found = in_turn(2, lambda n: calls.append(f"ours {n}") or n, lambda n: calls.append("peer"))
    assert calls == ["ours 1", "peer", "ours 2", "peer"]
    assert found == ([1, 2], [None, None])


def test_nothing_of_a_benchmark_outlives_it(progress: Progress, tmp_path: Path) -> None:
    """Neither its directory nor a process that left its session."""
    escape = "import os, time; os.fork() or os.setsid(); print('there', flush=True); time.sleep(60)"
    with place(progress) as bench:
        log = tmp_path / "log"
        process = bench.start([sys.executable, "-c", escape], log)
        bench.until(lambda: log.read_text().count("there") == 2, 30, "both processes")
        assert len(bench.left()) == 2
        end(process, grace=0.0)
        assert len(bench.left()) == 1
    assert bench.left() == []
    assert not bench.directory.exists()


def test_a_program_that_fails_says_what_it_printed(progress: Progress, tmp_path: Path) -> None:
    """With its exit code, whether its output went to a log or to us."""
    argv = [sys.executable, "-c", "import sys; print('oh no', file=sys.stderr); sys.exit(3)"]
    with place(progress) as bench:
        with pytest.raises(BenchmarkError, match=r"(?s)ended with 3.*oh no"):
            bench.complete(argv, tmp_path / "log", 30)
        with pytest.raises(BenchmarkError, match=r"(?s)ended with 3.*oh no"):
            bench.output(argv, 30)
        with pytest.raises(BenchmarkError, match="waited 0 s for Godot"):
            bench.until(lambda: None, 0, "Godot")


def test_steps_are_read_from_a_log_that_is_being_written(tmp_path: Path) -> None:
    """Whole lines only, whatever else stands between them; a missing log has none."""
    log = tmp_path / "log"
    assert steps_in(log) == []
    assert pid_in(log) is None
    log.write_text("[WARNING] x\nPID 42\nSTEP 1 10.5\nnoise STEP 7 1.0\nSTEP 2 10.75\nSTEP 3 10.")
    assert steps_in(log) == [(1, 10.5), (2, 10.75)]
    assert pid_in(log) == 42


def test_a_step_that_was_under_way_is_not_the_way_back() -> None:
    """After the kill a peer may still finish its step; the next round begins at step 1."""
    steps = [(1, 10.0), (20, 30.0), (21, 30.1)]
    assert first_step(steps, after=30.05) is None
    assert first_step([*steps, (1, 70.0)], after=30.05) == 70.0


def run_directory(tmp_path: Path, first_step_at: float) -> recovery.RunDirectory:
    """A run whose rank was killed at 100.0 and whose incident says that 8 s were lost."""
    directory = recovery.RunDirectory(tmp_path)
    incident = {
        "rank": 1,
        "class": "process",
        "fault_at": 5000.0,
        "fault_at_source": "drill",
        "detected_after": 0.03,
        "free": False,
    }
    lines = [
        {"time": 5000.0, "kind": "drill", "attempt": 1, "data": {"at": 100.0}},
        {"time": 5000.1, "kind": "failure", "attempt": 1, "data": incident},
        {"time": 5000.4, "kind": "running", "attempt": 2},
        {"time": 5008.1, "kind": "recovered", "attempt": 2,
         "data": {"incident": {"first_step_after": 8.0}}},
    ]  # fmt: skip
    directory.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    directory.attempt(2).create()
    for rank in range(recovery.RANKS):
        at = first_step_at - 0.01 * rank
        directory.attempt(2).log(rank).write_text(f"STEP 1 {at:.6f}\n")
    return directory


def test_a_recovery_is_read_from_journal_and_logs(tmp_path: Path) -> None:
    """Detection and first step by the incident, the processes by the event `running`."""
    found = recovery.read(run_directory(tmp_path, first_step_at=108.0))
    assert (found.detected, found.first_step) == (0.03, 8.0)
    assert found.processes == pytest.approx(0.4)


def test_an_incident_that_contradicts_the_logs_is_no_figure(tmp_path: Path) -> None:
    """Half a second between them is an error."""
    with pytest.raises(BenchmarkError, match="by the logs"):
        recovery.read(run_directory(tmp_path, first_step_at=108.5))


def test_binding_is_not_measured_where_it_cannot_be_shown() -> None:
    """Fewer than two CPUs a rank, or a quota of that, is Unavailable; sixteen will do."""
    step_bind.require_room(CpuBudget(tuple(range(16))))
    for budget in (CpuBudget(tuple(range(15))), CpuBudget(tuple(range(64)), quota=12.5)):
        with pytest.raises(Unavailable, match="cannot show it: 8 ranks need 16"):
            step_bind.require_room(budget)


def test_modes_of_binding_take_turns() -> None:
    """Every mode once a round, and in the course of three rounds once in every place."""
    rounds = [step_bind.rotated(number) for number in range(3)]
    assert all(set(modes) == set(Bind) for modes in rounds)
    assert all({modes[place] for modes in rounds} == set(Bind) for place in range(3))


def test_a_step_counts_with_its_wait_for_data(tmp_path: Path) -> None:
    """All steps of the metrics, not other lines; missing ones are an error."""
    file = tmp_path / "metrics.jsonl"
    row = '{"step": 1, "loss": 2.0, "step_seconds": 0.5, "data_wait_seconds": 0.25}\n'
    file.write_text(row + '{"evaluation": 1}\n' + row)
    assert step_bind.recorded(file, 2) == [0.75, 0.75]
    for path, why in ((file, "2 steps instead of 3"), (tmp_path / "none", "No such file")):
        with pytest.raises(BenchmarkError, match=why):
            step_bind.recorded(path, 3)
