"""Trouble that no rank notices itself: a loss that is no number, and parameters that differ.

Ranks tell digests of what must be the same everywhere; those of the same step are compared.
Times are CLOCK_MONOTONIC seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.health import Sign, Suspect
from orchestrator.heartbeat import Heartbeat

_REMEMBERED = 16


@dataclass(frozen=True)
class _Round:
    """Digests of one step by rank, and the step at which the same was compared before."""

    since: int
    digests: dict[int, int] = field(default_factory=dict)


class Silence:
    """The heartbeats of one attempt, as far as they tell of silent trouble."""

    def __init__(self, ranks: frozenset[int]) -> None:
        self._ranks = ranks
        self._newest: dict[int, int] = {}  # rank → the step of its newest digest
        self._rounds: dict[int, _Round] = {}  # by step
        self.suspect: Suspect | None = None
        """What was found first; it stays."""
        self.agreed: frozenset[int] = frozenset()
        """Steps that may be the last at which all agreed, if they differ later; empty: unknown."""

    def take(self, rank: int, beat: Heartbeat) -> None:
        """Look at one more heartbeat."""
        self.suspect = self.suspect or bad_loss(rank, beat) or self._compared(rank, beat)

    def _compared(self, rank: int, beat: Heartbeat) -> Suspect | None:
        step = beat.digest_step
        if step < 0 or self._newest.get(rank) == step:
            return None
        self._newest[rank] = step
        self._rounds.setdefault(step, _Round(beat.digest_since)).digests[rank] = beat.digest
        complete = [step for step in sorted(self._rounds) if self._complete(step)]
        for old in sorted(self._rounds.keys() - complete)[:-_REMEMBERED]:
            del self._rounds[old]
        rounds = {step: self._rounds.pop(step) for step in complete}
        for at, one in rounds.items():
            if self._unanimous(one):
                self.agreed = agreements(self.agreed, at, one.since)
        found = (
            divergence(step, one.digests, len(self._ranks), at=beat.beat_at, since=one.since)
            for step, one in rounds.items()
        )
        return next(filter(None, found), None)

    def _unanimous(self, one: _Round) -> bool:
        """Whether all ranks have told the same; of one alone nothing is compared."""
        everybody = one.digests.keys() == self._ranks
        return everybody and len(self._ranks) > 1 and len(set(one.digests.values())) == 1

    def _complete(self, step: int) -> bool:
        """Whether no other rank will tell of this step: who looks now and then may miss some."""
        return all(self._newest.get(rank, -1) >= step for rank in self._ranks)


def bad_loss(rank: int, beat: Heartbeat) -> Suspect | None:
    """A loss that was reported and is NaN or infinite."""
    if not beat.loss_not_finite:
        return None
    cause = f"the loss that it reported is {beat.loss} (at step {beat.loss_step})"
    return Suspect(rank, beat.step_at, Sign.NUMERIC, cause)


def agreements(known: frozenset[int], step: int, since: int) -> frozenset[int]:
    """The steps that a later difference may be found to have begun after.

    Known before, and now all agreed after `step` on what had been compared at `since`. Parts of
    the parameters are compared in turn, so nothing that comes goes back further than `since`,
    to which others of a first round go back too.
    """
    return frozenset({one for one in known if one > since} | {max(0, since), step})


def divergence(
    step: int, digests: Mapping[int, int], ranks: int, *, at: float, since: int
) -> Suspect | None:
    """What digests of the same step, by rank, say; None where all agree.

    Whom most of all `ranks` contradict is named, if it is one. What was saved after step `since`
    is in doubt: then the parameters that differ were compared, or loaded, before.
    """
    counted = Counter(digests.values()).most_common()
    if len(counted) < 2:
        return None
    common, votes = counted[0]
    odd = sorted(rank for rank, digest in digests.items() if digest != common)
    trusted = max(0, since)
    if 2 * votes <= ranks:
        cause = f"parameters differ after step {step}; whose are wrong: not determined"
        return Suspect(None, at, Sign.DIVERGED, cause, trusted)
    if len(odd) > 1:
        named = ", ".join(map(str, odd))
        cause = f"the parameters of ranks {named} differ from all others' after step {step}"
        return Suspect(None, at, Sign.DIVERGED, cause, trusted)
    cause = f"its parameters differ from all others' after step {step}"
    return Suspect(odd[0], at, Sign.DIVERGED, cause, trusted)
