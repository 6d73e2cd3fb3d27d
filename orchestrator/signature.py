"""By what two failures are told to be the same: a text without what changes from run to run.

Pure. A failure that came from outside (a kill, a preemption, the node, a device) has no
signature: that it comes again says nothing of the job.
"""

from __future__ import annotations

import re
import signal

from orchestrator.policy import Evidence
from orchestrator.rank import EXIT_RETRY
from orchestrator.verdicts import Finding

_LONGEST = 200

_CHANGING = (
    (re.compile(r"0x[0-9a-fA-F]+"), "<address>"),
    (re.compile(r"(?<![\w<])[\w.+-]*(?:/[\w.+-]+){1,64}/?"), "<path>"),
    (re.compile(r"\b[0-9a-fA-F]{8,}\b"), "<id>"),
    (re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"), "<n>"),
    (re.compile(r"\s+"), " "),
)
"""In this order: an address is no number, a path may hold both."""

_OWN_SIGNALS = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
    }
)
"""Signals that a process brings upon itself."""


def signature(finding: Finding, evidence: Evidence, *, stopped: bool = False) -> str | None:
    """The failure without numbers, addresses and paths; None if it came from outside.

    `stopped`: the process had been stopped by a signal (SIGSTOP), and hung for that.
    """
    if finding.free or stopped or not finding.failure.may_repeat or _asks(evidence):
        return None
    if evidence.signal is not None and evidence.signal not in _OWN_SIGNALS:
        return None
    parts = [finding.failure.value, finding.rule, _end(evidence)]
    message = evidence.error_message.strip().partition("\n")[0]
    if evidence.error_type is not None:
        parts.append(f"{evidence.error_type}: {normal(message)}")
    return "; ".join(filter(None, parts))


def normal(message: str) -> str:
    """A message with numbers, addresses and paths replaced, at most 200 characters."""
    text = message[: 8 * _LONGEST]
    for pattern, instead in _CHANGING:
        text = pattern.sub(instead, text)
    return text.strip()[:_LONGEST]


def _asks(evidence: Evidence) -> bool:
    """It wants to be started again, and should know."""
    return evidence.signal is None and evidence.exit_code == EXIT_RETRY


def _end(evidence: Evidence) -> str:
    if evidence.signal is not None:
        return signal.Signals(evidence.signal).name
    return "" if evidence.exit_code is None else f"exit code {evidence.exit_code}"
