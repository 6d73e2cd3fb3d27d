"""Skipped steps: counted over attempts, told, and too many in a row end the run."""

from __future__ import annotations

import pytest

from model.overflow import Overflows


def test_more_in_a_row_than_allowed_are_a_failure() -> None:
    """A finite step between two skipped ones starts the row anew; the total goes on."""
    overflows = Overflows(limit=2)
    for step, skipped in enumerate([True, True, False, True, True], start=1):
        overflows.note(step, skipped=skipped)
    assert overflows.skipped == 4
    with pytest.raises(FloatingPointError, match=r"3 steps in a row, up to step 6.*loss_scale"):
        overflows.note(6, skipped=True)


def test_counts_go_on_after_a_resume() -> None:
    """What a checkpoint keeps is the total and the row; one without it counts from zero."""
    overflows = Overflows(limit=2)
    overflows.note(1, skipped=True)
    later = Overflows(limit=2)
    later.restore({"kind": "static", "value": 1024.0, **overflows.to_json()})
    assert later == overflows
    later.restore({"kind": "static", "value": 1024.0})
    assert later == Overflows(limit=2)
