"""From fields that are right to a `JobSpec`: names, enumerations and defaults fall into place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.jobfile.combinations import Draft, expanded
from orchestrator.spec import (
    DEFAULT_BUDGETS,
    DEFAULT_PHASE_TIMEOUTS,
    Backoff,
    Checkpoint,
    FollowUp,
    Hang,
    Health,
    JobSpec,
    Launch,
    LaunchMode,
    Limits,
    Notification,
    Queue,
    Resources,
    Restart,
    Rule,
)
from orchestrator.states import FailureClass


def build(draft: Draft) -> JobSpec:
    """The job of a draft in which no problem was found."""
    values = draft.values
    secrets = values.get("secrets", {})
    resources = _resources(values["resources"])
    return JobSpec(
        name=values["name"],
        **_program(values),
        workdir=draft.workdir,
        after=draft.workdir / expanded(values["after"]) if "after" in values else None,
        env=values.get("env", {}),
        secrets={name: draft.workdir / expanded(text) for name, text in secrets.items()},
        resources=resources,
        launch=_launch(resources, values.get("launch", {})),
        checkpoint=Checkpoint(**values.get("checkpoint", {})),
        health=_health(values.get("health", {})),
        restart=_restart(values.get("restart", {}), resources.ranks),
        queue=Queue(**values.get("queue", {})),
        limits=Limits(**values.get("limits", {})),
        then=FollowUp(**_program(values["then"])) if "then" in values else None,
        notify=tuple(Notification(**fields) for fields in values.get("notify", ())),
        given=frozenset(draft.places) - {""},
    )


def _program(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "module": values.get("module"),
        "command": values.get("command"),
        "args": tuple(values.get("args", {}).items()),
    }


def _resources(values: Mapping[str, Any]) -> Resources:
    rest = {name: value for name, value in values.items() if name != "nodes"}
    labels = values.get("nodes", {}).get("labels", {})
    return Resources(**{"ranks_per_node": rest["ranks"], **rest, "node_labels": labels})


def _launch(resources: Resources, values: Mapping[str, Any]) -> Launch:
    return Launch(**{"mode": LaunchMode.default_for(resources.device), **values})


def _health(values: Mapping[str, Any]) -> Health:
    timeouts = {**DEFAULT_PHASE_TIMEOUTS, **values.get("phase_timeouts", {})}
    limited = {phase: limit for phase, limit in timeouts.items() if limit is not None}
    hang = Hang(**values.get("hang", {}))
    return Health(**{**values, "phase_timeouts": limited, "hang": hang})


def _restart(values: Mapping[str, Any], ranks: int) -> Restart:
    named = values.get("budgets", {})
    budgets = {FailureClass(name): budget for name, budget in named.items()}
    composed = {
        "budgets": {**DEFAULT_BUDGETS, **budgets},
        "backoff": Backoff(**values.get("backoff", {})),
        "rules": tuple(_rule(fields) for fields in values.get("rules", ())),
    }
    if "fallback" in values:
        composed["fallback"] = tuple(values["fallback"].get("args", {}).items())
    return Restart(**{"min_ranks": ranks, **values, **composed})


def _rule(values: Mapping[str, Any]) -> Rule:
    rest = {name: value for name, value in values.items() if name != "class"}
    return Rule(failure=values["class"], **rest)
