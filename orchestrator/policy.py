"""What a failure is: one table, and the function that reads it.

Pure. `classify` takes the evidence of one failure to a class: the job's own rules first, then
`RULES` in order, first match wins. What follows from it is the table in `ladder`; both are
known here, so that whoever judges needs one import.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.health import Sign, signal_name
from orchestrator.ladder import POLICY, backoff, decide
from orchestrator.log_patterns import LOG_PATTERNS, LogPattern
from orchestrator.rank import EXIT_RETRY, USER_EXITS
from orchestrator.spec import Rule
from orchestrator.states import FailureClass
from orchestrator.verdicts import Action, Decision, Finding, History

__all__ = [
    "POLICY",
    "RULES",
    "Action",
    "ClassRule",
    "Decision",
    "Evidence",
    "Finding",
    "History",
    "backoff",
    "classify",
    "decide",
    "describe_exit",
    "shown_rule",
]

_STORAGE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE})
_LOST_PORT = re.compile(r"[Pp]ort.{0,40}(is occupied|in use)|Address already in use")
_RENDEZVOUS = re.compile(
    r"Failed to (register|build|initialize).{0,60}(cluster|topology)|cluster_time_out"
    r"|Topology build timed out|Timed out node list"
)
_FULL_LOG = re.compile(r"No space left on device|Disk quota exceeded")
_NO_PROGRAM_ERRNOS = frozenset({errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR})
_OOM_LOG = re.compile(r"std::bad_alloc|Cannot allocate memory|oom-kill|Out of memory")


_SIGTERM = 15


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
    terminated_by: str = ""  # the part of MindSpore that sent the SIGTERM that it died of


@dataclass(frozen=True)
class ClassRule:
    """One line of the table."""

    name: str
    failure: FailureClass
    matches: Callable[[Evidence], bool]
    free: bool = False
    source: str = "what muster itself observed"
    pattern: str = ""
    """The expression, where the rule is a line of `log_patterns`."""


_SPEAKS = frozenset({Sign.EXIT, Sign.ERROR, Sign.LEFT_EARLY})
_KILLED, _ABORTED = 9, 6
_BAD_ALLOC = "std::bad_alloc"


def _by_log(line: LogPattern) -> ClassRule:
    """A rule of the log: only of a rank that ended itself, since only that says why in its log."""
    return ClassRule(
        f"log: {line.name}, {line.meaning}",
        line.failure,
        lambda e: (
            e.sign in _SPEAKS and e.signal != _KILLED and line.found_in(e.error_message, e.log)
        ),
        source=line.source,
        pattern=line.text,
    )


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
    ClassRule(
        "the reported loss is not a number",
        FailureClass.NUMERIC,
        lambda e: e.sign is Sign.NUMERIC,
    ),
    ClassRule(
        "parameters of ranks differ", FailureClass.NUMERIC, lambda e: e.sign is Sign.DIVERGED
    ),
    ClassRule("no step for too long", FailureClass.HANG, lambda e: e.sign is Sign.HANG),
    ClassRule("the node's supervisor died", FailureClass.NODE, lambda e: e.sign is Sign.SUPERVISOR),
    ClassRule(
        "the rendezvous port was taken",
        FailureClass.RENDEZVOUS,
        lambda e: e.sign is Sign.SCHEDULER and bool(_LOST_PORT.search(e.log)),
        free=True,
        source="MindSpore 2.10: text of its scheduler; errno(3)",
        pattern=_LOST_PORT.pattern,
    ),
    ClassRule(
        "the rendezvous scheduler ended",
        FailureClass.RENDEZVOUS,
        lambda e: e.sign is Sign.SCHEDULER,
    ),
    *map(_by_log, LOG_PATTERNS),
    ClassRule(
        "storage is full or failing",
        FailureClass.STORAGE,
        lambda e: (
            e.error_errno in _STORAGE_ERRNOS
            or bool(e.exit_code and _FULL_LOG.search(e.error_message or e.log[-4096:]))
        ),
        source="errno(3)",
        pattern=_FULL_LOG.pattern,
    ),
    ClassRule(
        "loss is not a number",
        FailureClass.NUMERIC,
        lambda e: e.error_type == "FloatingPointError",
        source="Python: FloatingPointError",
    ),
    ClassRule(
        "out of memory",
        FailureClass.OOM,
        lambda e: (
            e.error_type == "MemoryError"
            or bool(_OOM_LOG.search(e.error_message))
            or bool(e.sign in _SPEAKS and e.signal == _ABORTED and _BAD_ALLOC in e.log[-4096:])
        ),
        source="Python: MemoryError; C++: bad_alloc; errno(3)",
        pattern=_OOM_LOG.pattern,
    ),
    ClassRule(
        "ranks did not find each other",
        FailureClass.RENDEZVOUS,
        lambda e: e.error_type is not None and bool(_RENDEZVOUS.search(e.error_message)),
        source="MindSpore 2.10: texts of its dynamic cluster",
        pattern=_RENDEZVOUS.pattern,
    ),
    ClassRule(
        "exception before the job's first step",
        FailureClass.USER,
        lambda e: e.before_first_step and (e.error_type is not None or bool(e.exit_code)),
    ),
    ClassRule(
        "ended by MindSpore itself (SIGTERM)",
        FailureClass.PROCESS,
        lambda e: bool(e.terminated_by),
        source="MindSpore 2.10: texts of its watchdogs (evidence.OWN_TERMS)",
    ),
    ClassRule(
        "terminated from outside (SIGTERM)",
        FailureClass.PREEMPTION,
        lambda e: e.signal == _SIGTERM,
        free=True,
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
            return Finding(rule.failure, shown_rule(rule.log, rule.exit_code))
    for entry in RULES:
        if entry.matches(evidence):
            return Finding(entry.failure, entry.name, entry.free)
    return Finding(FailureClass.PROCESS, "default")


def shown_rule(log: str | None, exit_code: int | None) -> str:
    """The name of a rule of the job."""
    return f"the job's rule {log if log is not None else f'exit code {exit_code}'!r}"


def _own_matches(rule: Rule, evidence: Evidence, in_log: Mapping[str, bool | None] | None) -> bool:
    if rule.log is None:
        by_log = True
    elif in_log is None:
        by_log = re.search(rule.log, evidence.log) is not None
    else:
        by_log = bool(in_log.get(rule.log))
    return by_log and (rule.exit_code is None or rule.exit_code == evidence.exit_code)


def describe_exit(code: int | None, number: int | None) -> str:
    """An exit in words."""
    if number is not None:
        return f"killed by {signal_name(number)}"
    return f"exit code {code}"
