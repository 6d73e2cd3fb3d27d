"""A supervisor that says nothing: how long, by whose time, and what is said of it."""

from __future__ import annotations

import pytest

from orchestrator.hearing import SILENCE, Hearing, silence_of


def listened(*waits: tuple[float, float]) -> Hearing:
    """Somebody who has listened: how long each time, and how long it meant to."""
    hearing = Hearing()
    for seconds, meant in waits:
        hearing.waited(seconds, meant)
    return hearing


@pytest.mark.parametrize(
    ("waits", "over"),
    [
        ([], False),
        ([(0.1, 0.1)] * 299, False),
        ([(0.1, 0.1)] * 302, True),
        ([(5.0, 5.0)] * 7, True),
        ([(0.0001, 5.0)] * 1000, False),
        ([(3600.0, 0.1)], False),
        ([(3600.0, 5.0)] * 6, False),
        ([(0.0, -1.0)] * 1000 + [(SILENCE, SILENCE)], False),
    ],
)
def test_only_what_was_listened_to_is_silence(waits: list[tuple[float, float]], over: bool) -> None:
    """Thirty seconds of waiting count, however cut up; a controller's own standstill does not."""
    assert listened(*waits).over is over


def test_a_word_ends_the_silence() -> None:
    """It begins anew after each."""
    hearing = listened((SILENCE, SILENCE))
    hearing.heard()
    hearing.waited(SILENCE, SILENCE)
    assert not hearing.over


@pytest.mark.parametrize(
    ("process", "said"),
    [
        ({"pid": 7, "state": "T"}, "its process is stopped"),
        ({"pid": 7, "state": "D"}, "its process is in uninterruptible sleep"),
        ({"pid": 7, "state": "S"}, "its process is in state S"),
        ({"pid": 7}, "its process is gone"),
    ],
)
def test_the_kernels_word_is_added(process: dict[str, object], said: str) -> None:
    """What keeps a process from speaking is told as far as it is known."""
    told = silence_of({"pid": 7, "seconds": 30.2, "process": process})
    assert told == f"the node's supervisor (pid 7) said nothing for 30 s: {said}"
