"""An account of a run as one HTML file: no script, no network, nothing of the job unescaped."""

from __future__ import annotations

from orchestrator.report.page import page

__all__ = ["page"]
