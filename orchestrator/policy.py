"""What a failure is, and what follows from it: two tables and the functions that read them.

Both are pure. `classify` takes the evidence of one failure to a class: the job's own rules
first, then `RULES` in order, first match wins. `decide` takes the class and the history to
a decision.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.health import Sign, signal_name
from orchestrator.rank import EXIT_RETRY, USER_EXITS
from orchestrator.spec import Backoff, Restart, Rule
from orchestrator.states import FailureClass

_STORAGE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE})
_LOST_PORT = re.compile(r"[Pp]ort.{0,40}(is occupied|in use)|Address already in use")
_RENDEZVOUS = re.compile(
    r"Failed to (register|build|initialize).{0,60}(cluster|topology)|cluster_time_out"
    r"|Topology build timed out|Timed out node list"
)
_FULL_LOG = re.compile(r"No space left on device|Disk quota exceeded")
_NO_PROGRAM_ERRNOS = frozenset({errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR})
_OOM_LOG = re.compile(r"std::bad_alloc|Cannot allocate memory|oom-kill|Out of memory")


_ENDLESS = 20
"""Failures in a row without a step gained that end a run even if none was charged."""


@dataclass(frozen=True)
class Evidence:
    """Everything that may decide a failure's class, as found when the gang was down."""

    sign: Sign
    exit_code: int | None = None
    signal: int | None = None
    error_type: str | None = None
    error_message: str = ""
    error_errno: int | None = None
    bad_checkpoint: str | None = None
    log: str = ""  # the end of the failed rank's log
    oom_killed: bool = False
    before_first_step: bool = False
    start_errno: int | None = None
    terminated_by_us: bool = False
    device_fault: str = ""  # what is wrong with a device of the gang, by its tools, afterwards
    kernel_word: str = ""  # what the kernel logged when it killed the rank for memory
    terminated_by: str = ""  # who sent the SIGTERM that it died of, when we did not


@dataclass(frozen=True)
class Finding:
    """A class, and the name of the rule that gave it."""

    failure: FailureClass
    rule: str
    free: bool = False  # not charged to any budget


@dataclass(frozen=True)
class ClassRule:
    """One line of the table."""

    name: str
    failure: FailureClass
    matches: Callable[[Evidence], bool]
    free: bool = False


RULES: tuple[ClassRule, ...] = (
    ClassRule(
        "checkpoint cannot be loaded", FailureClass.STORAGE, lambda e: e.bad_checkpoint is not None
    ),
    ClassRule("killed for memory", FailureClass.OOM, lambda e: e.oom_killed),
    ClassRule(
        "program cannot be started",
        FailureClass.USER,
        lambda e: e.sign is Sign.NOT_STARTED and e.start_errno in _NO_PROGRAM_ERRNOS,
    ),
    ClassRule(
        "the rank table is not the one that was written",
        FailureClass.STORAGE,
        lambda e: e.sign is Sign.NOT_STARTED and e.start_errno == errno.ESTALE,
    ),
    ClassRule(
        "no room to start a process",
        FailureClass.STORAGE,
        lambda e: e.sign is Sign.NOT_STARTED and e.start_errno in _STORAGE_ERRNOS,
    ),
    ClassRule(
        "a process could not be started", FailureClass.NODE, lambda e: e.sign is Sign.NOT_STARTED
    ),
    ClassRule(
        "the script ignores the checkpoint it is given",
        FailureClass.USER,
        lambda e: e.sign is Sign.IGNORED_RESUME,
    ),
    ClassRule(
        "ranks loaded another checkpoint than they were given",
        FailureClass.STORAGE,
        lambda e: e.sign is Sign.WRONG_RESUME,
    ),
    ClassRule(
        "exit code of a user's mistake (64, 65, 66, 78)",
        FailureClass.USER,
        lambda e: e.exit_code in USER_EXITS,
    ),
    ClassRule(
        "asked to be retried after we stopped it (75)",
        FailureClass.PREEMPTION,
        lambda e: e.exit_code == EXIT_RETRY and e.terminated_by_us,
        free=True,
    ),
    ClassRule(
        "asked to be retried (75)", FailureClass.PROCESS, lambda e: e.exit_code == EXIT_RETRY
    ),
    ClassRule("a device is not well", FailureClass.DEVICE, lambda e: bool(e.device_fault)),
    ClassRule("no step for too long", FailureClass.HANG, lambda e: e.sign is Sign.HANG),
    ClassRule("the node's supervisor died", FailureClass.NODE, lambda e: e.sign is Sign.SUPERVISOR),
    ClassRule(
        "the rendezvous port was taken",
        FailureClass.RENDEZVOUS,
        lambda e: e.sign is Sign.SCHEDULER and bool(_LOST_PORT.search(e.log)),
        free=True,
    ),
    ClassRule(
        "the rendezvous scheduler ended",
        FailureClass.RENDEZVOUS,
        lambda e: e.sign is Sign.SCHEDULER,
    ),
    ClassRule(
        "storage is full or failing",
        FailureClass.STORAGE,
        lambda e: (
            e.error_errno in _STORAGE_ERRNOS
            or bool(e.exit_code and _FULL_LOG.search(e.error_message or e.log[-4096:]))
        ),
    ),
    ClassRule(
        "loss is not a number", FailureClass.NUMERIC, lambda e: e.error_type == "FloatingPointError"
    ),
    ClassRule(
        "out of memory",
        FailureClass.OOM,
        lambda e: e.error_type == "MemoryError" or bool(_OOM_LOG.search(e.error_message)),
    ),
    ClassRule(
        "ranks did not find each other",
        FailureClass.RENDEZVOUS,
        lambda e: e.error_type is not None and bool(_RENDEZVOUS.search(e.error_message)),
    ),
    ClassRule(
        "exception before the job's first step",
        FailureClass.USER,
        lambda e: e.before_first_step and (e.error_type is not None or bool(e.exit_code)),
    ),
    ClassRule("killed by a signal", FailureClass.PROCESS, lambda e: e.signal is not None),
    ClassRule("left before it was done", FailureClass.PROCESS, lambda e: e.sign is Sign.LEFT_EARLY),
)
"""Evidence to class, first match wins; what matches nothing is `process` by name `default`."""


def classify(
    evidence: Evidence,
    own: Sequence[Rule] = (),
    in_log: Mapping[str, bool | None] | None = None,
) -> Finding:
    """The class of a failure; `own` are the job's rules and come first.

    `in_log` says which of their patterns the log has (`patterns.found_in`); None: look here.
    """
    for rule in own:
        if _own_matches(rule, evidence, in_log):
            shown = rule.log if rule.log is not None else f"exit code {rule.exit_code}"
            return Finding(rule.failure, f"the job's rule {shown!r}")
    for entry in RULES:
        if entry.matches(evidence):
            return Finding(entry.failure, entry.name, entry.free)
    return Finding(FailureClass.PROCESS, "default")


def _own_matches(rule: Rule, evidence: Evidence, in_log: Mapping[str, bool | None] | None) -> bool:
    if rule.log is None:
        by_log = True
    elif in_log is None:
        by_log = re.search(rule.log, evidence.log) is not None
    else:
        by_log = bool(in_log.get(rule.log))
    return by_log and (rule.exit_code is None or rule.exit_code == evidence.exit_code)


@dataclass(frozen=True)
class History:
    """What earlier failures of this job used up."""

    charged: Mapping[FailureClass, int]
    attempts_without_gain: int = 0
    failures_in_a_row: int = 0


@dataclass(frozen=True)
class Decision:
    """What happens now: another attempt after `delay` seconds, or the end."""

    retry: bool
    delay: float
    reason: str
    budget_left: int | None  # of the failure's class after this decision; None: unlimited


def decide(finding: Finding, history: History, restart: Restart) -> Decision:
    """Whether the job starts again. `history` includes this failure."""
    budget = restart.budgets[finding.failure]
    used = history.charged.get(finding.failure, 0)
    left = None if budget is None else max(0, budget - used)
    if finding.failure is FailureClass.USER and not budget:
        return Decision(False, 0.0, "a user's mistake is not retried", 0)
    if budget is not None and used > budget:
        reason = (
            f"the budget of {budget} restarts for class {finding.failure.value} is used up "
            f"(restart.budgets.{finding.failure.value})"
        )
        return Decision(False, 0.0, reason, 0)
    if history.attempts_without_gain >= restart.no_progress:
        reason = (
            f"{history.attempts_without_gain} attempts in a row gained no step "
            "(restart.no_progress)"
        )
        return Decision(False, 0.0, reason, left)
    if history.failures_in_a_row > _ENDLESS:
        reason = f"{history.failures_in_a_row} failures in a row, whatever their class"
        return Decision(False, 0.0, reason, left)
    delay = backoff(history.failures_in_a_row, restart.backoff)
    return Decision(True, delay, f"restart in {delay:.1f} s", left)


def backoff(failures_in_a_row: int, law: Backoff) -> float:
    """Seconds before the next attempt: none after a first failure, then a growing wait.

    A run that gained steps since its last failure counts as a first failure: what made
    progress deserves to come back at once.
    """
    if failures_in_a_row <= 1:
        return 0.0
    # The exponent is bounded, so that a long history cannot overflow.
    exponent = min(failures_in_a_row - 2, 64)
    return float(min(law.max, law.first * law.factor**exponent))


def describe_exit(code: int | None, number: int | None) -> str:
    """An exit in words."""
    if number is not None:
        return f"killed by {signal_name(number)}"
    return f"exit code {code}"
