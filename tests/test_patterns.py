"""Patterns of rules: what a log has of them, however hostile they are."""

from __future__ import annotations

import pytest

from orchestrator import patterns
from orchestrator.patterns import found_in

LOG = "a line\nEI0006: link down\n" + "word " * 40 + "\n"
ENDLESS = r"(\w+\s*)*!"


def test_patterns_are_searched_for() -> None:
    """Each pattern is found or not, once, in a text of any characters."""
    found = found_in(LOG + "é😀\udcff", [r"EI\d+", "EI0007", "😀", "^EI", "(?m)^EI", "EI0007"])
    assert found == {r"EI\d+": True, "EI0007": False, "😀": True, "^EI": False, "(?m)^EI": True}


def test_nothing_to_search() -> None:
    """Without patterns no process is started."""
    assert found_in(LOG, []) == {}


def test_an_endless_search_ends() -> None:
    """A pattern that would take for ever is given up; those around it are answered."""
    assert found_in(LOG, ["line", ENDLESS, "link"]) == {"line": True, ENDLESS: None, "link": True}


def test_all_together_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many endless patterns are given up together; what was known by then is kept."""
    monkeypatch.setattr(patterns, "ALL", 1.5)
    many = ["line", *(ENDLESS + "x" * n for n in range(30))]
    found = found_in(LOG, many)
    assert found["line"] is True or found["line"] is None  # a busy machine may not get so far
    assert all(found[pattern] is None for pattern in many[1:])


def test_a_pattern_of_another_python() -> None:
    """What does not compile here is not found."""
    assert found_in(LOG, ["(", "link"]) == {"(": False, "link": True}
