"""The learning rate of every step by its own rules; `test_golden` compares recorded ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.arguments import parse
from model.config import ConfigError
from model.schedule import Schedule
from tests.golden_training import schedule
from tests.golden_vectors import GOLDEN

RECORDED = {name: row for name, row in GOLDEN.training.items() if name.startswith("lr/")}
"""Arguments of recorded schedules."""


@settings(deadline=None)
@given(st.permutations(range(1, 60)), st.sampled_from(sorted(RECORDED)))
def test_order_of_asking_does_not_matter(order: list[int], name: str) -> None:
    """A resumed run, which asks for late steps first, gets the same rates."""
    ours = schedule(RECORDED[name])
    first = {step: ours.learning_rate(step) for step in order}
    assert all(ours.learning_rate(step) == rate for step, rate in first.items())


def test_half_epoch_of_warm_up_ends_at_the_full_rate() -> None:
    """Warm-up may be a fraction of an epoch and reaches `lr` with its last step."""
    ours = schedule(RECORDED["lr/exponential"], steps_per_epoch=10, warmup_epochs=0.5)
    assert [ours.learning_rate(step) for step in (1, 5, 6)] == pytest.approx([2e-4, 1e-3, 1e-3])


def test_schedule_takes_its_numbers_from_the_configuration() -> None:
    """Arguments of the command line arrive in the schedule."""
    config = parse(["--lr=0.5", "--lr_epochs=1,2", "--max_epoch=3", "--lr_gamma=0.5"])
    ours = Schedule.of(config, steps_per_epoch=2)
    rates = [ours.learning_rate(step) for step in range(1, 7)]
    assert rates == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


def test_steps_count_from_one() -> None:
    """There is no step 0."""
    with pytest.raises(ValueError, match="count from 1"):
        schedule(RECORDED["lr/exponential"]).learning_rate(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_scheduler": "linear"},
        {"lr_scheduler": "cosine_annealing_sample", "max_epoch": 119},
        {"lr_scheduler": "cosine_annealing_V2", "max_epoch": 6, "warmup_epochs": 5},
    ],
)
def test_schedules_without_meaning_are_refused(changes: dict[str, Any]) -> None:
    """What the original would fail on in mid-run is refused before the first step."""
    with pytest.raises(ConfigError):
        schedule(RECORDED["lr/exponential"], **changes)
