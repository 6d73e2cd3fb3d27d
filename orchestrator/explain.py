"""Why a run did what it did after each failure, from its journal: evidence → rule → class →
counts → row of the policy → action → what came of it.

Pure. What a journal does not say is null: nothing is worked out anew that was not recorded,
but that the rules before the one that matched were asked, since the first match wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.journal import Event
from orchestrator.ledger import Ledger
from orchestrator.policy import POLICY, RULES, shown_rule
from orchestrator.states import FailureClass

SCHEMA = 1

SPLIT = (
    "detected_after",
    "stopped_after",
    "allocated_after",
    "joined_after",
    "loaded_after",
    "compiled_after",
    "first_step_after",
)
"""The parts of the way back, in order; seconds since the fault."""


@dataclass
class _Story:
    """What is gathered of one incident while the journal is read."""

    incident: dict[str, Any]
    counts: dict[str, Any]
    decided: Mapping[str, Any] = field(default_factory=dict)
    before: list[Event] = field(default_factory=list)
    """What happened between the decision and the next attempt."""
    following: Event | None = None
    examined: list[Event] = field(default_factory=list)


def document(
    events: Sequence[Event],
    spec: Mapping[str, Any] | None,
    *,
    job: str,
    run_dir: str,
    observed_at: float,
    goodput: float | None = None,
) -> dict[str, Any]:
    """`muster explain --json`, every incident included.

    `spec` is the document of the job (`spec.json`); without one its limits are not known.
    """
    restart: Mapping[str, Any] = (spec or {}).get("restart", {})
    ledger, stories = _read(events, restart)
    return {
        "schema": SCHEMA,
        "observed_at": observed_at,
        "job": job,
        "run_dir": run_dir,
        "state": ledger.state.value,
        "reason": ledger.reason,
        "attempts": ledger.attempt,
        "goodput": goodput,
        "steps_lost": sum(one["steps_lost"] or 0 for one in ledger.incidents),
        "budgets": _budgets(ledger, restart),
        "explanations": [
            _explained(number, stories, ledger, restart) for number in range(len(stories))
        ],
    }


def tables() -> dict[str, Any]:
    """Both tables as they stand in this release, in the order in which they are asked."""
    return {
        "classification": [
            {
                "rule": rule.name,
                "class": rule.failure.value,
                "charged": not rule.free,
                "pattern": rule.pattern or None,
                "source": rule.source,
            }
            for rule in RULES
        ],
        "policy": [
            {"row": row.name, "when": row.when, "action": row.action.value} for row in POLICY
        ],
    }


def _read(events: Sequence[Event], restart: Mapping[str, Any]) -> tuple[Ledger, list[_Story]]:
    """The ledger, and each incident with the counts as they were when it was judged."""
    ledger = Ledger()
    stories: list[_Story] = []
    examined: list[Event] = []
    for event in events:
        ledger.apply(event)
        if event.kind == "failure":
            stories.append(_Story(ledger.incidents[-1], _counts(ledger, restart)))
            stories[-1].examined, examined = examined, []
        elif event.kind == "examined":
            examined.append(event)
        elif stories:
            _follow(stories[-1], event)
    return ledger, stories


def _follow(story: _Story, event: Event) -> None:
    if event.kind == "decision":
        story.decided = event.data.get("decision", {})
    elif event.kind == "attempt" and story.following is None:
        story.following = event
    elif story.following is None:
        story.before.append(event)


def _counts(ledger: Ledger, restart: Mapping[str, Any]) -> dict[str, Any]:
    incident, history = ledger.incidents[-1], ledger.history
    failure = FailureClass(incident["class"])
    return {
        **_budget(failure, ledger, restart),
        "given_back": incident.get("replenished", 0),
        "repeats": history.repeats if incident.get("signature") else None,
        "attempts_without_gain": history.attempts_without_gain,
        "no_progress": restart.get("no_progress"),
        "failures_in_a_row": history.failures_in_a_row,
    }


def _budget(failure: FailureClass, ledger: Ledger, restart: Mapping[str, Any]) -> dict[str, Any]:
    budget = restart.get("budgets", {}).get(failure.value)
    used = ledger.charged.get(failure, 0)
    left = max(0, budget - used) if isinstance(budget, int) else budget
    return {"class": failure.value, "budget": budget, "used": used, "left": left}


def _budgets(ledger: Ledger, restart: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every class as it stands; `given_back_in`: seconds of training until it is whole again."""
    after = restart.get("replenish_after")
    rows = []
    for failure in FailureClass:
        row = _budget(failure, ledger, restart)
        waits = None
        if after is not None and row["used"]:
            trained = ledger.counted_seconds - ledger.charged_at.get(failure, 0.0)
            waits = round(max(0.0, after - trained), 1)
        rows.append({**row, "given_back_in": waits})
    return rows


def _explained(
    number: int, stories: Sequence[_Story], ledger: Ledger, restart: Mapping[str, Any]
) -> dict[str, Any]:
    story = stories[number]
    one = story.incident
    return {
        "incident": number + 1,
        "attempt": one["attempt"],
        "fault_at": one.get("fault_at"),
        "fault_at_source": one.get("fault_at_source"),
        "rank": one["rank"],
        "node": one.get("node"),
        "device": one.get("device"),
        "cause": one["cause"],
        "evidence": one.get("evidence", []),
        "examined": [event.data for event in story.examined],
        "step": one.get("step"),
        "signature": one.get("signature"),
        "classification": {
            "rule": one.get("rule"),
            "class": one["class"],
            "charged": not one["free"],
            "asked": _rules_asked(one.get("rule"), restart.get("rules", [])),
        },
        "counts": story.counts,
        "policy": {
            "row": one.get("policy"),
            "action": one.get("action"),
            "asked": _rows_asked(one.get("policy")),
        },
        "decision": one.get("decision"),
        "delay": story.decided.get("delay"),
        "may_shrink": story.decided.get("may_shrink"),
        "barred": _barred(one),
        "next": _next(story),
        "split": {name: one.get(name) for name in SPLIT},
        "steps_lost": one.get("steps_lost"),
        "outcome": _outcome(number, stories, ledger),
    }


def _rules_asked(matched: str | None, own: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rules in order up to the one that matched; all, if none of this release has its name."""
    named = [(shown_rule(rule.get("log"), rule.get("exit_code")), rule["class"]) for rule in own]
    named += [(rule.name, rule.failure.value) for rule in RULES]
    named.append(("default", FailureClass.PROCESS.value))
    return _asked(matched, [{"rule": name, "class": failure} for name, failure in named], "rule")


def _rows_asked(matched: str | None) -> list[dict[str, Any]]:
    rows = [{"row": row.name, "when": row.when, "action": row.action.value} for row in POLICY]
    return _asked(matched, rows, "row")


def _asked(matched: str | None, rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    names = [row[key] for row in rows]
    if matched not in names:
        return []  # of another release, or not recorded: what was asked is not known
    last = names.index(matched)
    return [{**row, "matched": place == last} for place, row in enumerate(rows[: last + 1])]


def _barred(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Devices that the run leaves alone since; what `muster devices` bars is not known here."""
    if not FailureClass(one["class"]).blames_device or not one.get("device"):
        return []
    until = "the run ends or is resumed by hand; taken again only where no others will do"
    return [{"device": f"{one['node']}/{one['device']}", "until": until, "why": one["cause"]}]


def _next(story: _Story) -> dict[str, Any] | None:
    """The attempt that followed, and why it started from where it did."""
    event = story.following
    if event is None:
        return None
    data = event.data
    passed = [
        {"step": other.data.get("step"), "why": other.reason}
        for other in story.before
        if other.kind == "quarantined"
    ]
    return {
        "attempt": event.attempt,
        "resumed_from": data.get("resumed_from"),
        "step": data.get("resumed_step"),
        "digest": data.get("digest"),
        "why": _why(data, len(passed)),
        "quarantined": passed,
        "ranks": data.get("ranks"),
        "world_size": data.get("world_size"),
        "fallback": data.get("fallback"),
        "waited_for": [other.reason for other in story.before if other.kind == "waiting"],
    }


def _why(data: Mapping[str, Any], passed: int) -> str:
    if not data.get("resumed_from"):
        return "there was no checkpoint: it started fresh"
    newer = f", after {passed} that did not were put into quarantine" if passed else ""
    return f"the newest that verified{newer}"


def _outcome(number: int, stories: Sequence[_Story], ledger: Ledger) -> str:
    story, one = stories[number], stories[number].incident
    if one.get("first_step_after") is not None:
        return "recovered"
    if one.get("action") == "stop" or str(one.get("decision") or "").startswith("stop"):
        return "the job ended"
    if number + 1 < len(stories):
        return f"the next attempt failed before its ranks had a new step: incident {number + 2}"
    where = "" if story.following is None else f"attempt {story.following.attempt} begun; "
    return f"{where}the job is {ledger.state.value}: {ledger.reason}"
