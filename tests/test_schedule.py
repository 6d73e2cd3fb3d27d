"""The learning rate of every step, against the original's recorded ones and by its own rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.arguments import parse
from model.config import ConfigError
from model.schedule import Schedule

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared" / "golden"
SUBSET = HERE / "golden_data" / "lr_subset.npz"


def recorded() -> dict[str, tuple[dict[str, Any], np.ndarray]]:
    """Arguments and learning rates by name: the shared vectors, else the project's copy."""
    source = SHARED / "training.npz"
    with np.load(source if source.exists() else SUBSET) as file:
        if source.exists():
            arguments = json.loads((SHARED / "training.json").read_text())
        else:
            arguments = json.loads(str(file["arguments"]))
        return {n: (arguments[n], file[n]) for n in file.files if n.startswith("lr/")}


RECORDED = recorded()


def schedule(arguments: dict[str, Any], **changes: Any) -> Schedule:
    """The schedule of recorded arguments, which call two things otherwise."""
    rest = {**arguments, **changes}
    name, milestones = rest.pop("lr_scheduler"), rest.pop("lr_epochs")
    return Schedule(scheduler=name, lr_epochs=tuple(milestones), **rest)


@pytest.mark.parametrize("name", RECORDED)
def test_every_step_has_the_original_learning_rate(name: str) -> None:
    """All steps of all recorded runs agree to 1e-6 of the largest rate."""
    arguments, rates = RECORDED[name]
    ours = schedule(arguments)
    assert ours.total_steps == len(rates)
    found = np.array([ours.learning_rate(step) for step in range(1, len(rates) + 1)])
    assert np.abs(found - rates).max() <= 1e-6 * rates.max()


@settings(deadline=None)
@given(st.permutations(range(1, 60)), st.sampled_from(sorted(RECORDED)))
def test_order_of_asking_does_not_matter(order: list[int], name: str) -> None:
    """A resumed run, which asks for late steps first, gets the same rates."""
    ours = schedule(RECORDED[name][0])
    first = {step: ours.learning_rate(step) for step in order}
    assert all(ours.learning_rate(step) == rate for step, rate in first.items())


def test_half_epoch_of_warm_up_ends_at_the_full_rate() -> None:
    """Warm-up may be a fraction of an epoch and reaches `lr` with its last step."""
    ours = schedule(RECORDED["lr/exponential"][0], steps_per_epoch=10, warmup_epochs=0.5)
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
        schedule(RECORDED["lr/exponential"][0]).learning_rate(0)


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
        schedule(RECORDED["lr/exponential"][0], **changes)
