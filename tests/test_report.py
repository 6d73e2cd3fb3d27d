"""The page about a run: whole, self-contained, and safe whatever a job is called or writes."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import explain
from orchestrator.cli import main
from orchestrator.journal import Event
from orchestrator.report import page
from orchestrator.report.markup import Html, el, text
from orchestrator.report.timeline import pieces
from tests import journals
from tests.test_explain import told, written

HOSTILE = "</title><script>alert(1)</script><img src=x onerror='x'>\"&\x00\x1b[0m\ud800"


def documents(events: list[Event]) -> list[dict[str, Any]]:
    """Events as `muster events --json` has them."""
    return [
        {**vars(event), "state": event.state.value if event.state else None} for event in events
    ]


def status(**fields: Any) -> dict[str, Any]:
    """What a page needs of `muster status --json`."""
    return {
        "job": "toy", "state": "FAILED", "reason": "it ended", "attempt": 3, "step": 30,
        "steps_total": 100, "goodput": 0.5, "run_dir": "/runs/toy", "simulated": False, **fields,
    }  # fmt: skip


class Reader(HTMLParser):
    """Notes what elements and attributes a page has, and whether they are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("tell", [journals.killed, journals.repeated, journals.device_lost])
def test_a_page_is_whole_and_needs_nothing_else(tell: Any) -> None:
    """Well-formed, no script, no address of anything, light and dark, as wide as a phone."""
    html = page(status(), documents(tell()), told(tell()))
    read = Reader(html)
    assert read.open == []
    assert not {"script", "link", "img", "iframe"} & read.tags
    assert not {"src", "href", "style"} & read.attributes
    assert "://" not in html and "url(" not in html and "@import" not in html
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html
    for one in told(tell())["explanations"]:
        assert f"Incident {one['incident']}, attempt {one['attempt']}" in html


def test_hostile_names_and_logs_are_text() -> None:
    """In the title, the summary, evidence, reasons, devices: everywhere."""
    hostile = journals.Telling().begin(2)
    hostile.fail(9, 5, 5, cause=HOSTILE, evidence=[HOSTILE], rule=HOSTILE, node=HOSTILE,
                 device=HOSTILE, signature=HOSTILE, **{"class": "device"})  # fmt: skip
    hostile.add(9, "examined", files=[], summary={HOSTILE: HOSTILE})
    hostile.decide(9, HOSTILE, HOSTILE, "elsewhere").add(9, "waiting", HOSTILE)
    hostile.add(9, "quarantined", HOSTILE, step=1, path=HOSTILE)
    explained = told(hostile.events)
    facts = status(job=HOSTILE, reason=HOSTILE, run_dir=HOSTILE, step=HOSTILE)
    html = page(facts, documents(hostile.events), explained)
    harmless = page(status(), documents(journals.killed()), told(journals.killed()))
    read = Reader(html)
    assert "script" not in read.tags and "onerror" not in read.attributes
    assert read.tags <= Reader(harmless).tags | {"circle"}
    assert "\x00" not in html and "\x1b" not in html
    html.encode()


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_stays_text(value: str) -> None:
    """As content and as attribute, it opens nothing and closes nothing."""
    read = Reader(el("p", value, title=value))
    assert (read.tags, read.attributes, read.open) == ({"p"}, {"title"}, [])
    assert text(Html("<b>")) == "<b>"


def test_the_time_line_has_attempts_failures_and_the_way_back() -> None:
    """Each lane has what the journal says of it, in order of the parts."""
    events, explained = journals.device_lost(), told(journals.device_lost())
    drawn = pieces(documents(events), explained["explanations"], 100.0)
    lanes = {lane: [p for p in drawn if p.lane == lane] for lane in {p.lane for p in drawn}}
    assert [(p.start, p.end) for p in lanes["attempts"]] == [(2, 32), (90, 95)]
    assert [p.start for p in lanes["failures"]] == [32, 95]
    assert [(p.start, p.end) for p in lanes["waiting"]] == [(0, 2), (32, 90)]
    killed = pieces(documents(journals.killed()), told(journals.killed())["explanations"], 60.0)
    way = [p for p in killed if p.lane == "way back"]
    assert way[0].start == 32 and way[-1].end == 43
    assert all(one.end == other.start for one, other in itertools.pairwise(way))


def test_a_run_that_never_began_has_a_page() -> None:
    """There is nothing to draw, and it says so."""
    empty = explain.document([], None, job="toy", run_dir="/x", observed_at=1.0)
    html = page(status(state="QUEUED", goodput=None, step=None, attempt=0), [], empty)
    assert "Nothing was started yet" in html and "not known" in html


def test_the_command_writes_a_whole_file_or_none(tmp_path: Path) -> None:
    """Beside the name first; a place that cannot be written to is told, with exit code 2."""
    run = written(journals.repeated(), tmp_path / "run")
    target = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["report", str(run), "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(target)
    html = target.read_text()
    assert html.startswith("<!doctype html>") and html.endswith("</html>\n")
    assert re.search(r"goodput</dt><dd>\d", html)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "page.html"}
    bad = CliRunner().invoke(main, ["report", str(run), "-o", str(tmp_path / "no" / "page.html")])
    assert bad.exit_code == 2 and "No such file" in bad.output


def test_incidents_say_what_they_cost(tmp_path: Path) -> None:
    """The goodput of the run stands beside its incidents, for people and for programs."""
    run = written(journals.killed(), tmp_path / "run")
    shown = CliRunner().invoke(main, ["incidents", str(run)]).output
    assert "incidents 1, steps trained again 20, goodput" in shown
    document = json.loads(CliRunner().invoke(main, ["incidents", str(run), "--json"]).stdout)
    # 28 steps of a second, of which 8 were kept, in the 58 s from the first start to the end.
    assert document["goodput"] == pytest.approx(8 / 58, abs=1e-3)


def test_a_page_about_a_long_run_is_bounded_and_shows_every_failure() -> None:
    """100 failures among 10 000 checkpoints: what is not drawn is what went well."""
    long = journals.Telling().begin(2)
    for number in range(100):
        at = 10.0 + 1000 * number
        for step in range(100):
            long.add(at + step, "checkpoint", f"step {step} verified", step=step, path=f"/{step}",
                     digest="d", verified=True)  # fmt: skip
        long.fail(at + 200, 5, 5, evidence=["x" * 200] * 20).decide(at + 201, "restart").begin(
            at + 210
        )
    html = page(status(), documents(long.events), told(long.events))
    assert Reader(html).open == []
    assert html.count('class="fault"') == 100
    assert "pieces more are not drawn" in html
    assert len(html) < 2 << 20
