"""Calls of one lane in order, lanes side by side, threads only while there is work."""

from __future__ import annotations

import threading

from cluster.lanes import Lanes
from tests.runs import poll


def test_a_lane_that_waits_holds_up_no_other_and_keeps_its_order() -> None:
    """The second call of a lane comes after the first; another lane need not wait for it."""
    lanes, gate, done = Lanes(), threading.Event(), []
    lanes.put("slow", lambda: gate.wait(20) and done.append("first"))
    lanes.put("slow", lambda: done.append("second"))
    lanes.put("quick", lambda: done.append("quick"))
    poll(lambda: done == ["quick"], 20, "the other lane")
    assert not lanes.drain(0)
    gate.set()
    assert lanes.drain(20)
    assert done == ["quick", "first", "second"]
    poll(lambda: not {"slow", "quick"} & {t.name for t in threading.enumerate()}, 20, "threads")
