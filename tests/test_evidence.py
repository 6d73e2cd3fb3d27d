"""Why a process is dead: who sent the signal, and what is told of ranks that were looked at."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.evidence import OWN_TERMS, collect, explained, of_examination
from orchestrator.health import RankView, Sign, Suspect
from orchestrator.journal import Event
from orchestrator.layout import AttemptDirectory
from orchestrator.policy import Evidence
from tests.support_core import killed, view


@pytest.fixture
def files(tmp_path: Path) -> AttemptDirectory:
    """An attempt without anything in it."""
    made = AttemptDirectory(tmp_path / "001")
    made.create()
    return made


def gathered(files: AttemptDirectory, seen: RankView, log: str = "", **fields: Any) -> Evidence:
    """What is found about rank 1, which has ended."""
    files.log(1).write_text(log)
    known: dict[str, Any] = {"stepped_before": True, "lived": 5.0, "oom_killed": False}
    return collect(Suspect(1, 5.0, Sign.EXIT, "killed"), seen, files, **{**known, **fields})


def ended(number: int, *, asked: bool = False) -> RankView:
    """Rank 1, ended by a signal; its pid is nobody's."""
    return view(1, pid=2**22 + 7, exit=killed(5.0, number, asked=asked))


@pytest.mark.parametrize(("words", "who"), OWN_TERMS)
def test_a_sigterm_of_mindspores_own_is_told_from_a_strangers(
    files: AttemptDirectory, words: str, who: str
) -> None:
    """By the line that MindSpore writes before it ends its own process."""
    log = f"[ERROR] DISTRIBUTED(1,python): {words} Node: 0\nbye\n"
    found = gathered(files, ended(signal.SIGTERM), log)
    assert found.terminated_by == who
    cause = explained(Suspect(1, 5.0, Sign.EXIT, "killed by SIGTERM"), found).cause
    assert cause == f"killed by SIGTERM, sent by {who}"


def test_the_last_word_about_a_sigterm_counts(files: AttemptDirectory) -> None:
    """Several of MindSpore's watchdogs may have spoken; the last one did it."""
    log = "\n".join(words for words, _ in reversed(OWN_TERMS))
    assert gathered(files, ended(signal.SIGTERM), log).terminated_by == OWN_TERMS[0][1]


def test_a_sigterm_that_nothing_explains_is_somebody_elses(files: AttemptDirectory) -> None:
    """Neither ours nor MindSpore's."""
    found = gathered(files, ended(signal.SIGTERM), "training on\n")
    assert found.terminated_by == ""
    cause = explained(Suspect(1, 5.0, Sign.EXIT, "killed by SIGTERM"), found).cause
    assert "outside muster and MindSpore" in cause


def test_our_own_sigterm_is_no_evidence(files: AttemptDirectory) -> None:
    """Nor is another signal somebody's SIGTERM."""
    assert gathered(files, ended(signal.SIGTERM, asked=True), OWN_TERMS[0][0]).terminated_by == ""
    assert gathered(files, ended(signal.SIGSEGV), OWN_TERMS[0][0]).terminated_by == ""


def test_the_kernels_word_makes_a_kill_one_for_memory(
    files: AttemptDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no counter of a cgroup could be read; and only a SIGKILL can be one."""
    said = "Out of memory: Killed process 4711 (python)"
    monkeypatch.setattr("orchestrator.oom.kill_logged", lambda pid, since: said)
    found = gathered(files, ended(signal.SIGKILL))
    assert found.oom_killed and found.kernel_word == said
    suspect = Suspect(1, 5.0, Sign.EXIT, "killed by SIGKILL")
    assert explained(suspect, found).cause == f"killed by SIGKILL, for memory: {said}"
    assert not gathered(files, ended(signal.SIGTERM)).oom_killed


def test_a_counted_kill_is_told_as_one(files: AttemptDirectory) -> None:
    """The counter of the group names nobody: the cause says that it is the counter's word."""
    found = gathered(files, ended(signal.SIGKILL), oom_killed=True)
    suspect = Suspect(1, 5.0, Sign.EXIT, "killed by SIGKILL")
    assert explained(suspect, found).cause.endswith("for memory by its cgroup's counter")
    plain = replace(found, oom_killed=False)
    assert explained(suspect, plain) == suspect


def event(kind: str, attempt: int, **data: Any) -> Event:
    """One event of a journal."""
    return Event(time=1.0, kind=kind, state=None, attempt=attempt, reason="", data=data)


def test_lines_about_a_hung_gang_begin_with_the_blamed_rank() -> None:
    """From the last look at this attempt; of a large gang some, and how many are left out."""
    old = event("examined", 1, summary={"0": "old"}, files=[])
    new = event("examined", 2, summary={str(rank): f"at {rank}" for rank in range(20)}, files=[])
    lines = of_examination([old, new, event("note", 2)], 2, 7)
    assert lines[:3] == ["rank 7: at 7", "rank 0: at 0", "rank 1: at 1"]
    assert len(lines) == 17 and lines[-1].startswith("4 more ranks")
    assert of_examination([old], 2, None) == []
