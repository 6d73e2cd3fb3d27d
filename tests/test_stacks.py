"""Stacks of hung ranks: read from what faulthandler really writes, and what they say of a rank."""

from __future__ import annotations

import faulthandler
import tempfile
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.examiner import sharpened
from orchestrator.health import NOT_DETERMINED, Sign, Suspect
from orchestrator.stacks import (
    Found,
    Frame,
    Place,
    Sight,
    Thread,
    main_thread,
    parse,
    place_of,
    verdict,
)

SITE = "/venv/lib/python3.11/site-packages"
STDLIB = "/usr/lib/python3.11"
TRAIN = Frame("/job/train.py", 40, "main")
NET = Frame(f"{SITE}/mindspore/common/api.py", 900, "__call__")
RUN = Frame(f"{SITE}/mindspore/train/model.py", 700, "train")
LOADER = Frame("/job/data.py", 88, "batches")
QUEUE = Frame(f"{STDLIB}/queue.py", 171, "get")
WAIT = Frame(f"{STDLIB}/threading.py", 327, "wait")


def sight(*frames: Frame, state: str = "S", wchan: str = "hrtimer_nanosleep") -> Sight:
    """A rank whose main thread is at these frames, the innermost first."""
    return Sight(0, state, wchan, (Thread("0x1", False, (WAIT,)), Thread("0x2", True, frames)))


@pytest.mark.parametrize(
    ("seen", "place", "frame"),
    [
        (sight(TRAIN), Place.USER, TRAIN),
        (sight(TRAIN, state="R", wchan=""), Place.USER, TRAIN),
        (sight(WAIT, QUEUE, TRAIN, wchan="futex_wait_queue"), Place.USER, TRAIN),
        # a tensor may wait for the device like this
        (sight(TRAIN, wchan="futex_wait_queue"), Place.UNCLEAR, TRAIN),
        (sight(NET, TRAIN, wchan="futex_wait_queue"), Place.GRAPH, NET),
        (sight(NET, LOADER, TRAIN), Place.GRAPH, NET),
        (sight(Frame("/job/callback.py", 3, "on_step"), RUN, TRAIN), Place.USER, None),
        (sight(Frame(f"{SITE}/torch/distributed/c10d.py", 5, "f"), TRAIN), Place.COLLECTIVE, None),
        (sight(Frame("/job/comm.py", 9, "all_reduce_mean"), TRAIN), Place.COLLECTIVE, None),
        (sight(Frame(f"{SITE}/numpy/lib/stride.py", 9, "barrier"), TRAIN), Place.USER, TRAIN),
        (sight(WAIT, QUEUE, LOADER, TRAIN), Place.DATA, LOADER),
        (sight(Frame("/job/crop.py", 3, "crop"), LOADER, TRAIN), Place.DATA, None),
        (sight(WAIT, Frame("/job/train.py", 3, "next_batch"), TRAIN), Place.DATA, None),
        (sight(Frame(f"{SITE}/mindspore/dataset/engine/iterators.py", 1, "g")), Place.DATA, None),
        (sight(Frame(f"{SITE}/torch/utils/data/dataloader.py", 1, "g")), Place.DATA, None),
        (sight(Frame(f"{STDLIB}/threading.py", 1590, "_shutdown")), Place.LEAVING, None),
        (sight(), Place.LEAVING, None),
        (sight(WAIT), Place.UNCLEAR, WAIT),
        (sight(TRAIN, state="T"), Place.STOPPED, None),
        (sight(LOADER, TRAIN, state="D"), Place.DISK, LOADER),
        (Sight(0, "S", "ep_poll"), Place.UNKNOWN, None),
    ],
)
def test_where_a_rank_is(seen: Sight, place: Place, frame: Frame | None) -> None:
    """The first frame from inside that says anything decides, after what the process says."""
    found = place_of(seen)
    assert found.place is place
    if frame is not None:
        assert found.frame == frame


@pytest.mark.parametrize(
    ("phase", "place"),
    [
        (None, Place.GRAPH),
        ("train", Place.GRAPH),
        ("compile", Place.BUSY),
        ("evaluate", Place.BUSY),
    ],
)
def test_the_framework_is_where_a_rank_waits_only_in_training(
    phase: str | None, place: Place
) -> None:
    """Who compiles there is waited for by the others."""
    threads = (Thread("0x1", True, (NET, TRAIN)),)
    assert place_of(Sight(0, "S", "ep_poll", threads, phase)).place is place


GRAPH = Found(Place.GRAPH, NET)
BARRIER = Found(Place.COLLECTIVE, NET)
ASLEEP = Found(Place.USER, TRAIN, "time.sleep(3600)")


@pytest.mark.parametrize(
    ("found", "ranks", "text"),
    [
        (
            [GRAPH, ASLEEP],
            (1,),
            "it is in the job's own Python code, /job/train.py:40 in main: time.sleep(3600), "
            "while rank 0 waits inside the framework",
        ),
        ([GRAPH, ASLEEP, BARRIER, ASLEEP], (1, 3), "ranks 0, 2 wait inside the framework or in"),
        ([GRAPH, Found(Place.DATA, LOADER)], (1,), "in the data pipeline"),
        ([GRAPH, Found(Place.DISK)], (1,), "in uninterruptible sleep"),
        ([GRAPH, Found(Place.LEAVING)], (1,), "on its way out of Python"),
        ([ASLEEP, Found(Place.STOPPED)], (1,), "stopped by a signal"),
        ([Found(Place.STOPPED), Found(Place.STOPPED)], (), "every rank is stopped by a signal"),
        ([GRAPH, GRAPH], (), "every rank is inside the framework"),
        ([GRAPH, BARRIER], (), "every rank waits inside the framework"),
        ([ASLEEP, ASLEEP], (), "every rank is in the job's own Python code"),
        ([Found(Place.DATA), Found(Place.DATA)], (), "every rank is in the data pipeline"),
        ([GRAPH, Found(Place.UNKNOWN)], (), ""),
        ([GRAPH, ASLEEP, ASLEEP], (), ""),  # they may wait for the one, in Python
        ([Found(Place.BUSY), ASLEEP], (), ""),
        ([GRAPH, Found(Place.UNCLEAR)], (), ""),
        ([ASLEEP, Found(Place.UNKNOWN)], (), ""),
        ([Found(Place.UNKNOWN)] * 2, (), ""),
        ([ASLEEP], (0,), "it is in the job's own Python code"),
        ([], (), ""),
    ],
)
def test_whom_the_places_name(found: list[Found], ranks: tuple[int, ...], text: str) -> None:
    """Who is elsewhere while others wait in the framework; nobody where that cannot be told."""
    judged = verdict(dict(enumerate(found)))
    assert judged.ranks == ranks
    assert text in judged.text and bool(text) == bool(judged.text)


@given(st.lists(st.sampled_from(list(Place)), max_size=8))
def test_nobody_is_named_who_waits(places: list[Place]) -> None:
    """Named are only ranks that hold up others, and never all of a gang of several."""
    judged = verdict({rank: Found(place) for rank, place in enumerate(places)})
    assert all(places[rank].blames for rank in judged.ranks)
    assert len(judged.ranks) < len(places) or len(places) <= 1


ALIKE = Suspect(None, 5.0, Sign.HANG, "no step for 60 s" + NOT_DETERMINED)


def test_a_verdict_names_who_was_not_determined() -> None:
    """The words that nobody is known go when somebody is."""
    sharp = sharpened(ALIKE, verdict({0: GRAPH, 1: ASLEEP}))
    assert (sharp.rank, sharp.at) == (1, 5.0)
    assert sharp.cause.startswith("no step for 60 s; it is in the job's own Python code")
    alike = sharpened(ALIKE, verdict({0: GRAPH, 1: GRAPH}))
    assert alike.rank is None
    assert alike.cause == ALIKE.cause + "; every rank is inside the framework"
    assert sharpened(ALIKE, verdict({})) == ALIKE


def test_a_rank_that_is_behind_stays_the_suspect() -> None:
    """What the heartbeats have shown is not overruled; what was seen is told all the same."""
    behind = Suspect(0, 5.0, Sign.HANG, "no step for 60 s")
    sharp = sharpened(behind, verdict({0: GRAPH, 1: ASLEEP}))
    assert sharp.rank == 0 and "; rank 1: it is in the job's own" in sharp.cause
    own = sharpened(behind, verdict({0: ASLEEP, 1: GRAPH}))
    assert own.rank == 0 and "; it is in the job's own" in own.cause


def inner(ready: threading.Event, end: threading.Event) -> None:
    """Where the other thread is when the stacks are written."""
    ready.set()
    end.wait()


def test_what_faulthandler_writes_is_read() -> None:
    """Every thread with its functions, the main one last."""
    ready, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=inner, args=(ready, end))
    thread.start()
    ready.wait()
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        end.set()
        file.seek(0)
        threads = parse(file.read())
    thread.join()
    assert any("inner" in [frame.function for frame in one.frames] for one in threads)
    main = main_thread(threads)
    assert main is not None and main.current
    assert main.frames[0].function == "test_what_faulthandler_writes_is_read"
    assert main.frames[0].file == __file__


def written(threads: Sequence[Thread]) -> str:
    """A dump as faulthandler writes it."""
    blocks = []
    for one in threads:
        head = f"{'Current thread' if one.current else 'Thread'} {one.ident}"
        lines = [
            f'  File "{f.file}", line {"???" if f.line is None else f.line} in {f.function}'
            for f in one.frames
        ]
        blocks.append("\n".join([f"{head} (most recent call first):", *lines]))
    return "\n\n".join(blocks) + "\n"


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
FRAMES = st.builds(Frame, NAMES, st.none() | st.integers(0, 999_999_999), NAMES)
THREADS = st.lists(
    st.builds(
        Thread,
        st.integers(0, 2**64 - 1).map(hex),
        st.booleans(),
        st.lists(FRAMES, max_size=4).map(tuple),
    ),
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(THREADS)
def test_a_dump_is_read_as_it_was_written(threads: list[Thread]) -> None:
    """Whatever files and functions are called."""
    assert parse(written(threads)) == tuple(threads)


@settings(max_examples=200, deadline=None)
@given(THREADS, st.data())
def test_a_dump_that_was_cut_off_is_read_as_far_as_it_goes(
    threads: list[Thread], data: st.DataObject
) -> None:
    """The threads before the cut are whole, and nothing is made up."""
    dump = written(threads)
    cut = parse(dump[: data.draw(st.integers(0, len(dump)))])
    assert cut[:-1] == tuple(threads[: max(0, len(cut) - 1)])
    assert len(cut) <= len(threads)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_text_is_too_odd_to_be_read(text: str) -> None:
    """Anybody may have written that file."""
    place_of(Sight(0, "S", "", parse(text)))
