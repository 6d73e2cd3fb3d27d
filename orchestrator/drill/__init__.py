"""Faults on purpose: their grammar, how each is done to a run, and whether the run kept its word.

`faults` has the kinds and the grammar, `injection` does them, `promise` says what the policy
promised and `verdict` compares it with what the journal tells. `referee` does so beside a running
controller, `rehearsal` for a job file before it is trusted.
"""

from orchestrator.drill.faults import ALIASES, KINDS, Fault, FaultError, due, explains, parse
from orchestrator.drill.injection import Lasting, Target, inject

__all__ = [
    "ALIASES",
    "KINDS",
    "Fault",
    "FaultError",
    "Lasting",
    "Target",
    "due",
    "explains",
    "inject",
    "parse",
]
