"""The job file as a table: every field, what it may be, and what combinations cannot be.

Defaults are not here but in `orchestrator.spec`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from orchestrator.heartbeat import PHASES
from orchestrator.jobfile.fields import (
    Argument,
    Choice,
    Duration,
    Flag,
    Integer,
    Kind,
    Number,
    Pattern,
    Setting,
    Size,
    Text,
    one_of,
)
from orchestrator.jobfile.sections import ArgumentOrList, Entries, Items, Patterned, Section
from orchestrator.spec import (
    CONTRACT_ENV,
    CONTRACT_ENV_PREFIX,
    NOTIFY_EVENTS,
    VERSION,
    Bind,
    DeviceKind,
    LaunchMode,
    StartMethod,
)
from orchestrator.states import FailureClass

MAX_RANKS = 65_536
_MAX_STEPS = 10**12
_MAX_RESTARTS = 1_000_000

_MODULE = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_SLUG = r"[a-z0-9][a-z0-9._-]{0,62}"
_SLUG_CALLED = "1 to 63 of a-z 0-9 . _ -, the first a letter or digit"
_ENV_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_ENV_NAME_CALLED = "letters, digits and _, no digit first"
_LABEL = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}"

UNLIMITED: Mapping[str, object] = {"unlimited": None}
AUTO: Mapping[str, object] = {"auto": None}
RANKS = Integer(low=1, high=MAX_RANKS)
STEPS = Integer(low=1, high=_MAX_STEPS)
FAILURE = one_of(FailureClass)
BUDGET = Integer(low=0, high=_MAX_RESTARTS, words=UNLIMITED)
MODULE = Text(called="a module's dotted name, such as model.train", pattern=_MODULE)
PATH = Text(called="a path")


def _contract_variable(name: str) -> str:
    owned = name in CONTRACT_ENV or name.startswith(CONTRACT_ENV_PREFIX)
    return "muster sets it for every rank" if owned else ""


def _as_list(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    return f"write [{', '.join(words)}]"


def _environment(values: Kind) -> Entries:
    return Entries(
        values=values, keys=_ENV_NAME, keys_called=_ENV_NAME_CALLED, refused=_contract_variable
    )


PROGRAM: Mapping[str, Kind] = {
    "module": MODULE,
    "command": Items(
        of=Argument(),
        least=1,
        called="a list of program and arguments, such as [python, train.py]",
        example=_as_list,
    ),
    "args": Entries(
        values=ArgumentOrList(item=Argument()),
        keys=r"[A-Za-z_][A-Za-z0-9_.-]*",
        keys_called="an option's name without dashes in front",
    ),
}

JOB = Section(
    required=("version", "name", "resources"),
    fields={
        "version": Integer(low=VERSION, high=VERSION),
        "name": Text(called=_SLUG_CALLED, pattern=_SLUG),
        **PROGRAM,
        "workdir": PATH,
        "after": PATH,
        "env": _environment(Setting()),
        "secrets": _environment(PATH),
        "resources": Section(
            required=("device", "ranks"),
            fields={
                "device": one_of(DeviceKind, meant={"npu": "ascend", "cuda": "gpu"}),
                "ranks": RANKS,
                "ranks_per_node": RANKS,
                "cpus_per_rank": Integer(low=1, high=4096, words=AUTO),
                "memory_per_rank": Size(),
                "nodes": Section(
                    fields={
                        "labels": Entries(
                            values=Setting(), keys=_LABEL, keys_called="a label's name"
                        )
                    }
                ),
            },
        ),
        "launch": Section(
            fields={
                "mode": one_of(LaunchMode),
                "bind": one_of(Bind, meant={"cores": "blocks"}),
                "start": one_of(StartMethod),
                "preload": Items(of=MODULE, called="a list of modules"),
            }
        ),
        "checkpoint": Section(
            fields={
                "every_steps": STEPS,
                "keep": Integer(low=1, high=100_000),
                "snapshot_every_steps": STEPS,
            }
        ),
        "health": Section(
            fields={
                "heartbeat_timeout": Duration(words=AUTO),
                "straggler": Number(low=1.0, high=1000.0),
                "move_stragglers": Flag(),
                "phase_timeouts": Section(fields=dict.fromkeys(PHASES, Duration(words=UNLIMITED))),
                "hang": Section(
                    fields={
                        "factor": Number(low=1.1, high=1000.0),
                        "floor": Duration(),
                        "ceiling": Duration(),
                    }
                ),
            }
        ),
        "restart": Section(
            fields={
                "budgets": Section(fields={failure.value: BUDGET for failure in FailureClass}),
                "replenish_after": Duration(),
                "backoff": Section(
                    fields={
                        "first": Duration(low=0.0),
                        "factor": Number(low=1.0, high=100.0),
                        "max": Duration(low=0.0),
                        "jitter": Number(low=0.0, high=1.0),
                    }
                ),
                "no_progress": Integer(low=1, high=1000),
                "rules": Patterned(
                    pattern="log",
                    of=Section(
                        required=("class",),
                        fields={
                            "log": Pattern(),
                            "exit_code": Integer(low=1, high=255),
                            "class": FAILURE,
                        },
                    ),
                    called="a list of rules, such as [{log: 'EI0006', class: node}]",
                ),
                "min_ranks": RANKS,
                "fallback": Section(required=("args",), fields={"args": PROGRAM["args"]}),
            }
        ),
        "queue": Section(
            fields={
                "name": Text(called=_SLUG_CALLED, pattern=_SLUG),
                "priority": Integer(low=0, high=100),
            }
        ),
        "limits": Section(fields={"wait": Duration(), "run": Duration()}),
        "then": Section(fields=PROGRAM),
        "notify": Items(
            of=Section(
                required=("url",),
                fields={
                    "url": Text(
                        called="an http or https address", pattern=r"https?://[^\s/?#]+[^\s]*"
                    ),
                    "events": Items(
                        of=Choice(words={event: event for event in NOTIFY_EVENTS}),
                        least=1,
                        called=f"a list of events ({', '.join(NOTIFY_EVENTS)})",
                    ),
                },
            ),
            called="a list of addresses, such as [{url: https://…, events: [failed]}]",
        ),
    },
)


def _homes(section: Section, path: str) -> dict[str, str]:
    homes: dict[str, str] = {}
    for name, kind in section.fields.items():
        under = f"{path}.{name}" if path else name
        if path:
            homes[name] = under
        if isinstance(kind, Section) and name not in ("then", "fallback"):
            homes = {**_homes(kind, under), **homes}
    return homes


HOMES: Mapping[str, str] = _homes(JOB, "")
"""The path of each field by its last word, to help with keys that stand in the wrong section."""
