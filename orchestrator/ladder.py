"""What follows from a failure: class, counts and the job's rules → action. One ordered table.

Pure. The rungs: restart in place; elsewhere with the device left alone, only if the class says
so; a smaller world, only if devices for all are lacking and the job allows it; stop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.spec import Backoff, Restart
from orchestrator.states import FailureClass
from orchestrator.verdicts import Action, Decision, Finding, History

_ENDLESS = 20
"""Failures in a row without a step gained that end a run even if none was charged."""

_REPEATED = 2
"""So many times the same failure at the same step is no accident."""


@dataclass(frozen=True)
class Case:
    """All that a row may look at. `whole`: there are devices for every rank, as far as known."""

    finding: Finding
    history: History
    restart: Restart
    ranks: int = 0
    whole: bool = True

    @property
    def budget(self) -> int | None:
        """Restarts that the class may cost; None: any number."""
        return self.restart.budgets[self.finding.failure]

    @property
    def used(self) -> int:
        """Failures of the class that were charged, this one included."""
        return self.history.charged.get(self.finding.failure, 0)

    @property
    def left(self) -> int | None:
        """Restarts that the class has left; None: any number."""
        return None if self.budget is None else max(0, self.budget - self.used)

    @property
    def repeated(self) -> bool:
        """Whether it is the same failure at the same step as before."""
        return self.history.repeats >= _REPEATED

    @property
    def may_shrink(self) -> bool:
        """Whether the job allows a smaller world."""
        return self.restart.min_ranks < self.ranks


@dataclass(frozen=True)
class PolicyRow:
    """One line of the table: `when` is the condition in words, `why` what a person is told."""

    name: str
    when: str
    action: Action
    applies: Callable[[Case], bool]
    why: Callable[[Case], str]
    fallback: bool = False


def _budget_reason(case: Case) -> str:
    failure = case.finding.failure.value
    return (
        f"the budget of {case.budget} restarts for class {failure} is used up "
        f"(restart.budgets.{failure})"
    )


def _repeat_reason(case: Case) -> str:
    again = f"the same failure at the same step, {case.history.repeats} times"
    if case.history.fallback_used:
        return f"{again}, also with restart.fallback: it is deterministic"
    return f"{again}: it is deterministic (restart.fallback may name other arguments)"


POLICY: tuple[PolicyRow, ...] = (
    PolicyRow(
        "a user's mistake",
        "class user, and restart.budgets.user is 0",
        Action.STOP,
        lambda case: case.finding.failure is FailureClass.USER and case.budget == 0,
        lambda case: "a user's mistake is not retried",
    ),
    PolicyRow(
        "deterministic, with a fall-back",
        "the same signature at the same step for the second time, and restart.fallback is unused",
        Action.RESTART,
        lambda case: (
            case.repeated and case.restart.fallback is not None and not case.history.fallback_used
        ),
        lambda case: (
            f"the same failure at the same step, {case.history.repeats} times: "
            "restarting once with the arguments of restart.fallback"
        ),
        fallback=True,
    ),
    PolicyRow(
        "deterministic",
        "the same signature at the same step for the second time",
        Action.STOP,
        lambda case: case.repeated,
        _repeat_reason,
    ),
    PolicyRow(
        "budget used up",
        "more failures of the class were charged than restart.budgets allows",
        Action.STOP,
        lambda case: case.budget is not None and case.used > case.budget,
        _budget_reason,
    ),
    PolicyRow(
        "no progress",
        "restart.no_progress attempts in a row gained no step",
        Action.STOP,
        lambda case: case.history.attempts_without_gain >= case.restart.no_progress,
        lambda case: (
            f"{case.history.attempts_without_gain} attempts in a row gained no step "
            "(restart.no_progress)"
        ),
    ),
    PolicyRow(
        "no end",
        f"more than {_ENDLESS} failures in a row, charged or not",
        Action.STOP,
        lambda case: case.history.failures_in_a_row > _ENDLESS,
        lambda case: f"{case.history.failures_in_a_row} failures in a row, whatever their class",
    ),
    PolicyRow(
        "devices are lacking",
        "not enough devices for all ranks, and restart.min_ranks is below resources.ranks",
        Action.SMALLER,
        lambda case: not case.whole and case.may_shrink,
        lambda case: (
            "devices for all ranks are lacking: a smaller world "
            f"(at least {case.restart.min_ranks}) unless they are back soon; restart"
        ),
    ),
    PolicyRow(
        "the device is to blame",
        "the class blames the device",
        Action.ELSEWHERE,
        lambda case: case.finding.failure.blames_device,
        lambda case: "restart without that device, where others will do",
    ),
    PolicyRow("otherwise", "none of these", Action.RESTART, lambda case: True, lambda _: "restart"),
)
"""First match wins; the last always does."""


def decide(
    finding: Finding, history: History, restart: Restart, *, ranks: int = 0, whole: bool = True
) -> Decision:
    """Whether and how the job starts again. `history` includes this failure.

    `ranks` are those of the job, `whole` whether devices for all of them are there.
    """
    case = Case(finding, history, restart, ranks, whole)
    row = next(row for row in POLICY if row.applies(case))
    if row.action is Action.STOP:
        left = 0 if row.name == "a user's mistake" else case.left
        return Decision(row.action, 0.0, row.why(case), left, row.name)
    law = restart.backoff
    delay = jittered(backoff(history.failures_in_a_row, law), law.jitter, history.seed)
    return Decision(
        row.action,
        delay,
        f"{row.why(case)} in {delay:.1f} s",
        case.left,
        row.name,
        case.may_shrink,
        row.fallback,
    )


def backoff(failures_in_a_row: int, law: Backoff) -> float:
    """Seconds before the next attempt: none after a first failure, then a growing wait.

    A run that gained steps since its last failure counts as a first failure: what made
    progress deserves to come back at once.
    """
    if failures_in_a_row <= 1:
        return 0.0
    # The exponent is bounded, so that a long history cannot overflow.
    exponent = min(failures_in_a_row - 2, 64)
    return float(min(law.max, law.first * law.factor**exponent))


def jittered(delay: float, jitter: float, seed: str) -> float:
    """`delay` shortened by up to its `jitter`th part: jobs that fail together come back apart.

    Drawn from `seed` alone, so a replay waits as long.
    """
    drawn = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:6], "big") / (1 << 48)
    return delay * (1.0 - jitter * drawn)
