"""The store of the controller as a service: SQLite, opened by one process, durable when it answers.

No other package knows SQL. Values are in `values`, refusals in `errors`.
"""

from orchestrator.store.store import Store

__all__ = ["Store"]
