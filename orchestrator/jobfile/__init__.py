"""The job file: YAML read with care, every mistake reported at once, a `JobSpec` at the end."""

from orchestrator.jobfile.loading import from_document, load, loads
from orchestrator.jobfile.problems import JobFileError, Problem

__all__ = ["JobFileError", "Problem", "from_document", "load", "loads"]
