"""What `muster explain` says of three hand-made journals, word by word, and of any other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator import explain
from orchestrator.cli import main
from orchestrator.explain_text import lines, table_lines
from orchestrator.journal import Event, document_of
from orchestrator.policy import POLICY, RULES, ClassRule
from orchestrator.states import FailureClass
from tests import journals

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden_data"

FEW = tuple(
    ClassRule(name, failure, lambda e: False)
    for name, failure in (
        ("a device is not well", FailureClass.DEVICE),
        ("log: EI0002, a collective waited", FailureClass.HANG),
        ("log: EI0006, a peer is missing", FailureClass.RENDEZVOUS),
        ("loss is not a number", FailureClass.NUMERIC),
        ("killed by a signal", FailureClass.PROCESS),
    )
)
"""A short table, so that a new rule does not change what is said of these journals."""


def told(events: list[Event], spec: dict[str, Any] | None = journals.SPEC) -> dict[str, Any]:
    """The document of a journal."""
    return explain.document(
        events, spec, job="toy", run_dir="/runs/toy", observed_at=100.0, goodput=0.5
    )


def text(document: dict[str, Any]) -> str:
    """All of it, as a person reads it."""
    return "\n".join([*lines(document, document["explanations"]), ""])


@pytest.mark.parametrize("tell", [journals.killed, journals.repeated, journals.device_lost])
def test_the_words_of_an_explanation(
    tell: Callable[[], list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From evidence to outcome, the same text for the same journal."""
    monkeypatch.setattr(explain, "RULES", FEW)
    golden = GOLDEN / f"explain_{tell.__name__}.txt"
    assert text(told(tell())) == golden.read_text()


def test_counts_are_as_they_were_at_each_decision() -> None:
    """Not as they are now: the first failure of a class had one charge, the third three."""
    explanations = told(journals.repeated())["explanations"]
    assert [one["counts"]["used"] for one in explanations] == [1, 2, 3]
    assert [one["counts"]["repeats"] for one in explanations] == [1, 2, 3]
    assert explanations[1]["next"]["fallback"] == {"lr": "0.01"}


def test_a_journal_of_an_earlier_release_is_explained_as_far_as_it_goes() -> None:
    """What was not recorded is null, and a rule that is gone is told as unknown."""
    events = journals.killed()
    for event in events:
        for key in ("signature", "step", "replenished", "decision", "fallback"):
            event.data.pop(key, None)
        for key in ("policy", "action"):
            event.data.get("incident", {}).pop(key, None)
        if event.kind == "failure":
            event.data["rule"] = "a rule of old"
    (one,) = told(events, None)["explanations"]
    assert one["policy"] == {"row": None, "action": None, "asked": []}
    assert one["classification"]["asked"] == [] and one["counts"]["budget"] is None
    assert "was not recorded" in text(told(events, None))


def test_every_prefix_of_a_journal_can_be_explained() -> None:
    """A run may be looked at between any two of its events."""
    for tell in (journals.killed, journals.repeated, journals.device_lost):
        events = tell()
        for length in range(len(events) + 1):
            assert text(told(events[:length]))


def test_a_rank_cannot_write_to_the_terminal() -> None:
    """Escape sequences and line breaks of a log are shown as marks."""
    events = journals.Telling().begin(2).fail(9, 5, 5, cause="a\x1b[2Jb\nc").events
    assert "\x1b" not in text(told(events)) and "a\ufffd[2Jb\ufffdc" in text(told(events))


def test_both_tables_are_printed() -> None:
    """Every rule with its class and source, every row with its condition and action."""
    printed = "\n".join(table_lines(explain.tables()))
    for rule in RULES:
        assert rule.name in printed and rule.source in printed
    for row in POLICY:
        assert f"{row.name}: {row.when}" in printed


def written(events: list[Event], root: Path) -> Path:
    """A run directory with that journal."""
    root.mkdir()
    (root / "spec.json").write_text(json.dumps(journals.SPEC))
    (root / "events.jsonl").write_text(
        "".join(json.dumps(document_of(event)) + "\n" for event in events)
    )
    return root


def test_the_command_shows_the_newest_or_what_is_asked_for(tmp_path: Path) -> None:
    """The newest failure, one attempt's, or all; JSON has `schema` and `observed_at`."""
    run = written(journals.repeated(), tmp_path / "run")

    def asked(*options: str) -> list[int]:
        done = CliRunner().invoke(main, ["explain", str(run), "--json", *options])
        assert done.exit_code == 0, done.output
        document = json.loads(done.stdout)
        assert document["schema"] == 1 and document["observed_at"] > 0
        return [one["attempt"] for one in document["explanations"]]

    assert asked() == [3]
    assert asked("--attempt", "2") == [2]
    assert asked("--all") == [1, 2, 3]
    missing = CliRunner().invoke(main, ["explain", str(run), "--attempt", "7"])
    assert missing.exit_code == 3
    shown = CliRunner().invoke(main, ["explain", str(run)])
    assert "stop by the policy's row: deterministic" in shown.output


def test_without_a_job_there_are_the_tables() -> None:
    """`--tables` needs no run; neither is wrong usage."""
    done = CliRunner().invoke(main, ["explain", "--tables", "--json"])
    assert {"schema", "observed_at", "classification", "policy"} <= set(json.loads(done.stdout))
    assert CliRunner().invoke(main, ["explain"]).exit_code == 2


def test_explaining_imports_nothing_heavy() -> None:
    """Neither Ray, MindSpore, NumPy, YAML nor rich: it answers at once."""
    program = (
        "import sys\nimport orchestrator.explain, orchestrator.explain_text, orchestrator.report\n"
        "print(*{'ray', 'mindspore', 'numpy', 'yaml', 'rich', 'cv2'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
