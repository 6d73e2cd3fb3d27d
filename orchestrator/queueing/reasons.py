"""Why jobs wait, noted during a pass and put into words at its end, once for equal requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from cluster.allocate import Request
from orchestrator.queueing import words
from orchestrator.queueing.room import Room

WORDED = 6
"""So many different refused requests get the allocator's own words in one pass."""

Shape = tuple[Any, ...]


def shape_of(request: Request) -> Shape:
    """Requests of one shape get one answer; how ranks are bound makes no difference to whether."""
    counts = (request.kind.value, request.ranks, request.ranks_per_node, request.cpus_per_rank)
    return (*counts, frozenset(request.withheld)) if request.withheld else counts


class _Asked(NamedTuple):
    """A refusal to be put into words: of which request, and in which room."""

    shape: Shape
    empty: bool


@dataclass(frozen=True)
class _Said:
    """A sentence around the allocator's words, or in their place."""

    asked: _Asked | None
    sentence: Callable[[str], str]
    otherwise: str


class Reasons:
    """A sentence for each job that waits, in the order in which they are noted."""

    def __init__(self) -> None:
        self._said: dict[str, _Said] = {}
        self._requests: dict[_Asked, Request] = {}

    def say(self, job: str, sentence: str) -> None:
        """A reason that needs no other words."""
        self._said[job] = _Said(None, str, sentence)

    def same(self, job: str, other: str) -> None:
        """It waits for the reason of another."""
        self._said[job] = self._said[other]

    def __contains__(self, job: str) -> bool:
        return job in self._said

    def refused(self, job: str, request: Request, shape: Shape, first: str | None) -> None:
        """The allocator refuses; `first` has the earliest claim on devices of that kind."""
        self._note(job, request, _Asked(shape, empty=False), str, first)

    def head(self, job: str, request: Request, shape: Shape, seconds: float) -> None:
        """The allocator refuses, and the job is the next of its kind, in so many seconds."""
        sentence = partial(words.next_up, seconds=seconds)
        self._note(job, request, _Asked(shape, empty=False), sentence)

    def never(self, job: str, request: Request, shape: Shape) -> None:
        """It is refused in the empty cluster as well."""
        self._note(job, request, _Asked(shape, empty=True), words.never)

    def told(self, free: Room, empty: Room) -> Mapping[str, str]:
        """Everything in words, as the allocator finds these rooms."""
        answers = self._answers(free, empty)
        return {
            job: said.sentence(answers.get(said.asked) or said.otherwise)
            for job, said in self._said.items()
        }

    def _note(
        self,
        job: str,
        request: Request,
        asked: _Asked,
        sentence: Callable[[str], str],
        first: str | None = None,
    ) -> None:
        self._requests.setdefault(asked, request)
        self._said[job] = _Said(asked, sentence, words.not_together(request, first))

    def _answers(self, free: Room, empty: Room) -> Mapping[_Asked | None, str]:
        """The allocator's words for the first requests, by what they share of the work."""
        alike: defaultdict[Shape, list[_Asked]] = defaultdict(list)
        for asked, request in islice(self._requests.items(), WORDED):
            own = asked.shape if request.withheld else None
            alike[asked.empty, request.kind, request.cpus_per_rank, own].append(asked)
        told: dict[_Asked | None, str] = {}
        for key, group in alike.items():
            room = empty if key[0] else free
            requests = [self._requests[asked] for asked in group]
            told.update(zip(group, room.why(requests), strict=True))
        return told
