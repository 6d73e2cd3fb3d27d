"""What texts in a log mean: every line of the table met by a text of its source's form."""

from __future__ import annotations

import pytest

from orchestrator.health import Sign
from orchestrator.log_patterns import LOG_PATTERNS, SEARCHED, LogPattern
from orchestrator.policy import Evidence, classify
from orchestrator.states import FailureClass

TEXTS = {
    "EI0019": "2025-11-21-11:38:29.575.404 Communication_Error_Bind_IP_Port(EI0019): Failed to",
    "EI0005": "EI0005: 2024-04-24-06:32:27.781.599 The arguments for ...",
    "HBM ECC": "device 3: error code 80E01801",
    "HCCL watchdog": "[HcclWatchDog] Try to kill this process by SIGTERM",
    "GPU off the bus": "NVRM: Xid (PCI:0000:17:00): 79, pid=12, GPU has fallen off the bus.",
    "CUDA ECC": "CUDA failure: uncorrectable ECC error encountered",
    "CUDA devices unavailable": "all CUDA-capable device(s) is/are busy or unavailable",
    "CUDA out of memory": "CUDA error: out of memory",
    "CUDA memory access": "an illegal memory access was encountered",
    "CUDA launch": "unspecified launch failure",
    "RDMA retries": "wc status 12: IBV_WC_RETRY_EXC_ERR",
    "NCCL network": "NCCL error 6: remote process exited or there was a network error",
    "file system": "OSError: [Errno 30] Read-only file system: '/data'",
}


def text_of(line: LogPattern) -> str:
    """A text as the source has it; codes of HCCL all have one form."""
    return TEXTS.get(line.name, f"[ERROR] x({line.name}): it failed")


@pytest.mark.parametrize("line", LOG_PATTERNS, ids=lambda line: line.name)
def test_each_line_is_met_by_its_text(line: LogPattern) -> None:
    """In the log of a rank that left, or in what it raised, before its first step or later."""
    text = text_of(line)
    name = f"log: {line.name}, {line.meaning}"
    for evidence in (
        Evidence(Sign.EXIT, exit_code=1, log=f"step 3\n{text}\n"),
        Evidence(Sign.EXIT, signal=15, log=text),
        Evidence(Sign.ERROR, error_type="RuntimeError", error_message=text, before_first_step=True),
    ):
        assert (classify(evidence).rule, classify(evidence).failure) == (name, line.failure)


def test_every_line_has_a_meaning_and_a_source() -> None:
    """Nothing in the table is a guess of ours, and no name stands twice."""
    assert all(line.meaning and line.source for line in LOG_PATTERNS)
    assert len({line.name for line in LOG_PATTERNS}) == len(LOG_PATTERNS)
    assert set(TEXTS) <= {line.name for line in LOG_PATTERNS}


def test_a_cause_goes_before_its_echo() -> None:
    """A rank table that cannot be read is a mistake, whatever timed out after it."""
    log = "EI0002: notify wait timed out\nEI0004: Failed to parse the ranktable file"
    assert classify(Evidence(Sign.EXIT, exit_code=1, log=log)).failure is FailureClass.USER


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(Sign.EXIT, signal=9, log="EI0013"),
        Evidence(Sign.EXIT, exit_code=1, log="EI0013" + " " * SEARCHED),
        Evidence(Sign.EXIT, exit_code=1, log="XEI0013 EI00131 ei0013"),
    ],
)
def test_what_says_nothing_of_this_end_is_not_searched(evidence: Evidence) -> None:
    """A rank that was killed did not say why; what stands far up it survived; words are whole."""
    assert classify(evidence).failure is FailureClass.PROCESS


def test_a_hang_is_a_hang_whatever_the_log_says() -> None:
    """What was observed directly goes before the log."""
    assert classify(Evidence(Sign.HANG, log="EI0013")).failure is FailureClass.HANG
