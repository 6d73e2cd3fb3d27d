"""The learning rate as a pure function of the global step, for the original's schedulers.

Nothing here remembers anything: a resumed run asks for its step and gets the same number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from model.config import Config, ConfigError

# cosine_annealing_sample leaves out every second one of these epochs of a longer cosine.
_FIRST_SAMPLED = 60
_SAMPLED = 60


@dataclass(frozen=True)
class Schedule:
    """The course of one training run. Epochs may be fractions only in `warmup_epochs`.

    `steps_per_epoch` are optimizer steps; every other field is a parameter of the same name.
    """

    scheduler: str
    lr: float
    steps_per_epoch: int
    max_epoch: int
    warmup_epochs: float = 0.0
    lr_epochs: tuple[int, ...] = (220, 250)
    lr_gamma: float = 0.1
    eta_min: float = 0.0
    T_max: int = 320

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before the first step. Raises ConfigError."""
        if self.scheduler not in _COURSES:
            raise ConfigError([f"lr_scheduler={self.scheduler}: expected {', '.join(_COURSES)}"])
        if self.scheduler == "cosine_annealing_sample" and self.max_epoch < 2 * _SAMPLED:
            raise ConfigError(
                [f"cosine_annealing_sample needs max_epoch of {2 * _SAMPLED} or more"]
            )
        if self.scheduler == "cosine_annealing_V2" and _second_start(self) <= self.warmup_steps:
            raise ConfigError(["cosine_annealing_V2 needs warm-up to end in the first two thirds"])

    @classmethod
    def of(cls, config: Config, steps_per_epoch: int) -> Schedule:
        """The schedule that a configuration asks for."""
        return cls(
            scheduler=config.lr_scheduler,
            lr=config.lr,
            steps_per_epoch=steps_per_epoch,
            max_epoch=config.max_epoch,
            warmup_epochs=config.warmup_epochs,
            lr_epochs=config.lr_epochs,
            lr_gamma=config.lr_gamma,
            eta_min=config.eta_min,
            T_max=config.T_max,
        )

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.max_epoch * self.steps_per_epoch

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up."""
        return int(self.warmup_epochs * self.steps_per_epoch)

    def learning_rate(self, step: int) -> float:
        """The learning rate of global step `step`, which counts from 1."""
        if step < 1:
            raise ValueError(f"step {step}: steps count from 1")
        index = step - 1
        if index < self.warmup_steps:
            return self.lr * (index + 1) / self.warmup_steps
        return _COURSES[self.scheduler](self, index)


def _exponential(schedule: Schedule, index: int) -> float:
    """The rate falls at every milestone reached; one inside warm-up never counts."""
    steps = [epoch * schedule.steps_per_epoch for epoch in schedule.lr_epochs]
    passed = sum(schedule.warmup_steps <= step <= index for step in steps)
    return float(schedule.lr * schedule.lr_gamma**passed)


def _cosine(schedule: Schedule, index: int) -> float:
    """Constant within an epoch; the original raises T_max to max_epoch, here only."""
    half_period = max(schedule.T_max, schedule.max_epoch)
    return _half_cosine(schedule, schedule.lr, index // schedule.steps_per_epoch, half_period)


def _cosine_v2(schedule: Schedule, index: int) -> float:
    """A cosine for two thirds of the run, then a faster one from where that stood."""
    start = _second_start(schedule)
    if index < start:
        epoch = index // schedule.steps_per_epoch
        return _half_cosine(schedule, schedule.lr, epoch, schedule.T_max)
    turn = (start - 1) // schedule.steps_per_epoch
    top = _half_cosine(schedule, schedule.lr, turn, schedule.T_max)
    epoch = index // schedule.steps_per_epoch - turn
    return _half_cosine(schedule, top, epoch, schedule.max_epoch // 3)


def _cosine_sampled(schedule: Schedule, index: int) -> float:
    """A cosine 60 epochs longer than the run, of which every second of 120 is left out."""
    epoch = index // schedule.steps_per_epoch
    if epoch >= _FIRST_SAMPLED + _SAMPLED:
        epoch += _SAMPLED
    elif epoch >= _FIRST_SAMPLED:
        epoch = _FIRST_SAMPLED + 1 + 2 * (epoch - _FIRST_SAMPLED)
    return _half_cosine(schedule, schedule.lr, epoch, schedule.max_epoch + _SAMPLED)


def _half_cosine(schedule: Schedule, top: float, epoch: int, half_period: int) -> float:
    swing = (1.0 + math.cos(math.pi * epoch / half_period)) / 2.0
    return schedule.eta_min + (top - schedule.eta_min) * swing


def _second_start(schedule: Schedule) -> int:
    """The first index of the last third."""
    return math.ceil(schedule.total_steps * 2 / 3)


_COURSES: dict[str, Callable[[Schedule, int], float]] = {
    "exponential": _exponential,
    "cosine_annealing": _cosine,
    "cosine_annealing_V2": _cosine_v2,
    "cosine_annealing_sample": _cosine_sampled,
}
