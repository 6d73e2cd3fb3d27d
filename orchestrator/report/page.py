"""The page: summary, time line, failures with the way back, budgets, what happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.explain import SPLIT
from orchestrator.report.markup import Html, el, join
from orchestrator.report.style import STYLE
from orchestrator.report.timeline import timeline

_MOST_EVENTS = 1000
"""Events listed; of a longer run the newest."""

_QUIET = frozenset({"controller", "warmed", "ray_ready", "supervisor_started", "retired"})


def page(
    status: Mapping[str, Any], events: Sequence[Mapping[str, Any]], explained: Mapping[str, Any]
) -> str:
    """The whole file. Takes the documents of `status`, `events` and `explain --json`."""
    job, incidents = status["job"], explained["explanations"]
    ended = events[-1]["time"] if events else explained["observed_at"]
    terminal = status["state"] in ("SUCCEEDED", "FAILED", "CANCELLED")
    until = ended if terminal else explained["observed_at"]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", f"{job}: {status['state']}"),
        el("style", Html(STYLE)),
    )
    body = el(
        "body",
        el("h1", job, " ", el("span", status["state"], class_=f"state {_tone(status)}")),
        el("p", status["reason"]),
        _summary(status, explained),
        el("h2", "Time line"),
        timeline(events, incidents, until),
        el("h2", "Failures"),
        _table(incidents) if incidents else el("p", "None."),
        join(map(_incident, incidents)),
        el("h2", "Budgets"),
        _budgets(explained["budgets"]),
        el("h2", "What happened"),
        _events(events),
        el("p", f"Written at {_clock(explained['observed_at'])}.", class_="dim"),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _tone(status: Mapping[str, Any]) -> str:
    return {"SUCCEEDED": "good", "FAILED": "bad", "CANCELLED": "bad"}.get(status["state"], "busy")


def _summary(status: Mapping[str, Any], explained: Mapping[str, Any]) -> Html:
    goodput = status["goodput"]
    total = f" of {status['steps_total']}" if status.get("steps_total") else ""
    shown = {
        "attempts": status["attempt"],
        "step": f"{_known(status['step'])}{total}",
        "goodput": "not known" if goodput is None else f"{goodput:.1%}",
        "failures": len(explained["explanations"]),
        "steps trained again": explained["steps_lost"],
        "run directory": status["run_dir"],
    }
    if status.get("simulated"):
        shown["devices"] = "simulated"
    meaning = (
        "Goodput: time in steps that counted, over the time since the first start. "
        "Steps that were trained again count once."
    )
    rows = join(el("div", el("dt", name), el("dd", value)) for name, value in shown.items())
    return join([el("dl", rows), el("p", meaning, class_="dim")])


def _table(incidents: Sequence[Mapping[str, Any]]) -> Html:
    names = [name.removesuffix("_after").replace("_", " ") for name in SPLIT]
    head = ["", "attempt", "rank", "class", "cause", *names, "steps again", "decision"]
    rows = [
        [
            one["incident"],
            one["attempt"],
            one["rank"],
            one["classification"]["class"],
            one["cause"],
            *(_seconds(one["split"].get(name)) for name in SPLIT),
            one["steps_lost"],
            one["policy"]["action"],
        ]
        for one in incidents
    ]
    told = el("p", "Seconds since the fault, part by part of the way back.", class_="dim")
    return join([told, _rows(head, rows)])


def _incident(one: Mapping[str, Any]) -> Html:
    found, counts, policy, after = (
        one["classification"], one["counts"], one["policy"], one["next"]
    )  # fmt: skip
    facts = {
        "class": f"{found['class']}, by rule: {found['rule']}",
        "charged": "yes" if found["charged"] else "no",
        "budget": f"{counts['used']} charged of {_known(counts['budget'])}",
        "step": one["step"],
        "signature": one["signature"],
        "policy": f"{_known(policy['row'])} → {_known(policy['action'])}",
        "decision": one["decision"],
        "next attempt": _after(after),
        "outcome": one["outcome"],
    }
    if one["barred"]:
        facts["left alone"] = "; ".join(f"{b['device']} until {b['until']}" for b in one["barred"])
    examined = [
        f"rank {rank}: {text}"
        for event in one["examined"]
        for rank, text in event.get("summary", {}).items()
    ]
    evidence = "\n".join(map(str, [*one["evidence"], *examined]))
    who = "" if one["rank"] is None else f"rank {one['rank']}: "
    return el(
        "details",
        el("summary", f"Incident {one['incident']}, attempt {one['attempt']}: {who}{one['cause']}"),
        el("dl", join(el("div", el("dt", name), el("dd", value)) for name, value in facts.items())),
        el("pre", evidence),
        open="open" if after is None else None,
    )


def _after(after: Mapping[str, Any] | None) -> str | None:
    if after is None:
        return None
    again = f" from step {after['step']}" if after["resumed_from"] else ""
    extra = "" if not after["fallback"] else ", with the arguments of restart.fallback"
    return f"{after['attempt']}{again}: {after['why']}{extra}"


def _budgets(budgets: Iterable[Mapping[str, Any]]) -> Html:
    head = ["class", "restarts allowed", "charged", "left", "whole again after training (s)"]
    keys = ("class", "budget", "used", "left", "given_back_in")
    return _rows(head, [[row[key] for key in keys] for row in budgets])


def _events(events: Sequence[Mapping[str, Any]]) -> Html:
    told = [event for event in events if event["kind"] not in _QUIET]
    rows = [
        [_clock(event["time"]), event["attempt"], event["kind"], event["state"], event["reason"]]
        for event in told[-_MOST_EVENTS:]
    ]
    note = f"The newest {_MOST_EVENTS} of {len(told)}." if len(told) > _MOST_EVENTS else ""
    return join([el("p", note), _rows(["time", "attempt", "event", "state", ""], rows)])


def _rows(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    top = el("tr", join(el("th", name) for name in head))
    body = join(
        el("tr", join(el("td", "" if cell is None else cell) for cell in row)) for row in rows
    )
    return el("div", el("table", el("thead", top), el("tbody", body)), class_="wide")


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _known(value: object) -> object:
    return "not known" if value is None else value


def _clock(at: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return str(at)
