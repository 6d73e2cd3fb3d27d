"""What no job can be, although each field of it is right on its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator import secrets
from orchestrator.jobfile.problems import NOWHERE, Place, Report, quoted
from orchestrator.spec import Backoff, DeviceKind, Hang, LaunchMode, StartMethod

_DIVISORS_SHOWN = 12


@dataclass(frozen=True)
class Draft:
    """The fields that are right on their own, and where each stands."""

    values: Mapping[str, Any]
    places: Mapping[str, Place]
    cwd: Path

    def get(self, path: str) -> Any:
        """The value at a dotted path; None if it is not there or was not right."""
        value: Any = self.values
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def stands(self, path: str) -> bool:
        """Whether the field stands in the file, right or wrong."""
        return path in self.places

    @property
    def workdir(self) -> Path:
        """The working directory, absolute; where the user stands if none is given."""
        return self.cwd / expanded(self.get("workdir") or ".")


@dataclass(frozen=True)
class Conflict:
    """A combination that cannot be, blamed on the field at `path`."""

    path: str
    found: str
    allowed: str
    hint: str = ""


Check: TypeAlias = Callable[[Draft], Iterator[Conflict]]


def check(draft: Draft, report: Report, *, surroundings: bool = True) -> None:
    """Report every combination of `CHECKS` that the draft breaks.

    Without `surroundings` nothing is looked for on disk.
    """
    for rule in (*CHECKS, *SURROUNDINGS) if surroundings else CHECKS:
        for conflict in rule(draft):
            place = _nearest_place(conflict.path, draft.places)
            report.add(place, conflict.path, conflict.found, conflict.allowed, conflict.hint)


def _nearest_place(path: str, places: Mapping[str, Place]) -> Place:
    """Where the field stands, or the section that lacks it; the whole file is at ""."""
    while path and path not in places:
        path = path.rpartition(".")[0]
    return places.get(path, NOWHERE)


def expanded(text: str) -> Path:
    """The path with `~` replaced, or as it is where there is no such home."""
    return Path(os.path.expanduser(text))


def divisors(number: int) -> str:
    """The divisors of `number` in words, the largest first."""
    all_of_them = [d for d in range(number, 0, -1) if number % d == 0]
    more = " …" if len(all_of_them) > _DIVISORS_SHOWN else ""
    return ", ".join(map(str, all_of_them[:_DIVISORS_SHOWN])) + more


def _one_program(draft: Draft) -> Iterator[Conflict]:
    for prefix in ("", "then."):
        if prefix and not isinstance(draft.get("then"), Mapping):
            continue
        module, command = f"{prefix}module", f"{prefix}command"
        if draft.stands(module) and draft.stands(command):
            yield Conflict(command, "both module and command", "one of them")
        elif not draft.stands(module) and not draft.stands(command):
            hint = "write module: model.train, or command: [python, train.py]"
            yield Conflict(module, "neither module nor command", "one of them", hint)


def _divides(path: str) -> Check:
    def rule(draft: Draft) -> Iterator[Conflict]:
        ranks, part = draft.get("resources.ranks"), draft.get(path)
        if ranks is not None and part is not None and ranks % part:
            allowed = f"a divisor of resources.ranks ({ranks}): {divisors(ranks)}"
            yield Conflict(path, str(part), allowed)

    return rule


def _rank_table_needs_ascend(draft: Draft) -> Iterator[Conflict]:
    device: DeviceKind | None = draft.get("resources.device")
    mode = draft.get("launch.mode")
    if mode is LaunchMode.RANK_TABLE and device is not None and not device.has_rank_table:
        found = f"rank_table with resources.device {device.value}"
        yield Conflict("launch.mode", found, "dynamic or none on this device")


def _fork_needs_module(draft: Draft) -> Iterator[Conflict]:
    if draft.get("launch.start") is StartMethod.FORK and draft.stands("command"):
        hint = "a fork server runs modules only: give module instead of command to fork"
        yield Conflict("launch.start", "fork with command", "auto or spawn", hint)


def _one_interval(draft: Draft) -> Iterator[Conflict]:
    ours, theirs = draft.get("checkpoint.every_steps"), draft.get("args.ckpt_interval")
    if ours is not None and theirs is not None and theirs != str(ours):
        found = f"{quoted(theirs)} with checkpoint.every_steps {ours}"
        hint = "leave one of them out: checkpoint.every_steps sets the trainer's interval"
        yield Conflict("args.ckpt_interval", found, "the same number", hint)


def _backoff_grows(draft: Draft) -> Iterator[Conflict]:
    given = draft.get("restart.backoff") or {}
    backoff = Backoff(**given)
    # A bound that the file gives is to blame before a default is.
    path = "restart.backoff." + ("max" if "max" in given else "first")
    if backoff.max < backoff.first:
        found = f"first {backoff.first:g} s and max {backoff.max:g} s"
        hint = "" if "max" in given else f"restart.backoff.max is {backoff.max:g} s by default"
        yield Conflict(path, found, "max not below first", hint)


def _moves_who_is_found(draft: Draft) -> Iterator[Conflict]:
    if draft.get("health.move_stragglers") and not draft.stands("health.straggler"):
        hint = "health.straggler says how slow a rank may be, such as 1.5"
        path = "health.move_stragglers"
        yield Conflict(path, "true without health.straggler", "both, or false", hint)


def _hang_limits_fit(draft: Draft) -> Iterator[Conflict]:
    given = draft.get("health.hang") or {}
    law = Hang(**given)
    path = "health.hang." + ("ceiling" if "ceiling" in given else "floor")
    if law.ceiling < law.floor:
        found = f"floor {law.floor:g} s and ceiling {law.ceiling:g} s"
        other = "" if {"floor", "ceiling"} <= given.keys() else _other_of(path)
        hint = f"health.hang.{other} is {getattr(law, other):g} s by default" if other else ""
        yield Conflict(path, found, "ceiling not below floor", hint)


def _other_of(path: str) -> str:
    return "floor" if path.endswith("ceiling") else "ceiling"


def _secrets_apart(draft: Draft) -> Iterator[Conflict]:
    for name in draft.get("secrets") or {}:
        if name in (draft.get("env") or {}):
            yield Conflict(f"secrets.{name}", "a name that env has too", "each name once")


def _rules_match_something(draft: Draft) -> Iterator[Conflict]:
    rules = draft.get("restart.rules") or ()
    for i in range(len(rules)):
        path = f"restart.rules[{i}]"
        if not draft.stands(f"{path}.log") and not draft.stands(f"{path}.exit_code"):
            yield Conflict(f"{path}.class", "a rule without log and exit_code", "one or both")


def _workdir_is_there(draft: Draft) -> Iterator[Conflict]:
    if not os.path.isdir(draft.workdir):
        yield Conflict("workdir", quoted(str(draft.workdir)), "a directory that exists")


def _secrets_are_safe(draft: Draft) -> Iterator[Conflict]:
    for name, text in (draft.get("secrets") or {}).items():
        path = draft.workdir / expanded(text)
        try:
            secrets.read_one(path)
        except secrets.Unusable as error:
            found = str(error.strerror)
            hint = f"chmod 600 {path}" if " with mode " in found else ""
            yield Conflict(f"secrets.{name}", found, secrets.ALLOWED, hint)


CHECKS: tuple[Check, ...] = (
    _one_program,
    _divides("resources.ranks_per_node"),
    _divides("restart.min_ranks"),
    _rank_table_needs_ascend,
    _fork_needs_module,
    _one_interval,
    _backoff_grows,
    _moves_who_is_found,
    _hang_limits_fit,
    _secrets_apart,
    _rules_match_something,
)
SURROUNDINGS: tuple[Check, ...] = (_workdir_is_there, _secrets_are_safe)
