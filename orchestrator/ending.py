"""The end of a gang: asked to save itself, stopped to its last process, its worth recorded."""

from __future__ import annotations

import contextlib
import time

from orchestrator import stop_request
from orchestrator.attempt import UnderWay
from orchestrator.job_ray import Pump
from orchestrator.layout import RunDirectory, Spool, write_json
from orchestrator.node import LocalNode
from orchestrator.rank import EXIT_DONE, EXIT_RETRY
from orchestrator.recorder import Recorder

TERM_GRACE = 10.0
"""Seconds that ranks have between TERM and KILL when a run is stopped on request."""

_TICK = 0.1
_STOP_TIMEOUT = 30.0
_LEAVE_PATIENCE = 120.0
_ORDERLY = frozenset({EXIT_DONE, EXIT_RETRY})


class Ending:
    """Ends attempts of one run; `hear` takes what has arrived within so many seconds."""

    def __init__(
        self,
        node: LocalNode,
        recorder: Recorder,
        directory: RunDirectory,
        spool: Spool,
        hear: Pump,
    ) -> None:
        self._node = node
        self._recorder = recorder
        self._directory = directory
        self._spool = spool
        self._hear = hear

    def stop(self, way: UnderWay, *, grace: float = 0.0) -> None:
        """End the gang and wait until every process of it is gone."""
        way.gang.stopped_at = None
        self._dismiss()
        if self._node.supervised:
            self._node.stop(self._recorder.ledger.attempt, grace)
            deadline = time.monotonic() + grace + _STOP_TIMEOUT
            while way.gang.stopped_at is None and self._node.supervised:
                self._hear(_TICK)
                if time.monotonic() > deadline:
                    # Its ranks die with it; its successor clears what escaped.
                    self._node.kill_supervisor()
        if way.gang.stopped_at is None:
            way.gang.stopped_at = time.monotonic()
        self._node.release_port()
        if way.gang.stuck:
            self._recorder.record("note", "processes that do not die", stuck=way.gang.stuck)

    def let_save(self, way: UnderWay, patience: float) -> None:
        """Have the ranks write a checkpoint and leave, if they all can; not for ever."""
        if not all(view.beat is not None and view.beat.stops for view in way.gang.views):
            return
        try:
            stop_request.ask(self._spool.stop_request(self._recorder.ledger.attempt))
        except OSError as error:
            self._recorder.record("note", f"the ranks cannot be asked to save: {error}")
            return
        self._await_leaving(way, patience)

    def _await_leaving(self, way: UnderWay, patience: float) -> None:
        """Until all have left, or one has ended otherwise and the rest would wait for it."""
        deadline = time.monotonic() + patience
        while self._node.supervised and time.monotonic() < deadline:
            exits = [view.exit for view in way.gang.views]
            if all(exits) or any(one and one.code not in _ORDERLY for one in exits):
                return
            self._hear(_TICK)

    def let_leave(self, way: UnderWay) -> None:
        """Wait for a gang that was asked to leave: the first to go must not cost the others' save.

        Whoever has asked: a SIGTERM from outside does so too.
        """
        gone = [view.exit.code for view in way.gang.views if view.exit is not None]
        asked = stop_request.asked(self._spool.stop_request(self._recorder.ledger.attempt))
        if asked and EXIT_RETRY in gone:
            # Whether the others can be asked need not be known yet: one has left as it was.
            self._await_leaving(way, _LEAVE_PATIENCE)

    def _dismiss(self) -> None:
        """Let TERM end the ranks at once; where that cannot be said, KILL follows."""
        with contextlib.suppress(OSError):
            stop_request.dismiss(self._spool.stop_request(self._recorder.ledger.attempt))

    def record(self, way: UnderWay) -> None:
        """Record what the attempt was worth, once."""
        ledger = self._recorder.ledger
        if ledger.ended_attempt == ledger.attempt:
            return
        seconds, steps = way.gang.training_seconds()
        # Evidence only: a full disk must not turn one failure into another.
        with contextlib.suppress(OSError):
            write_json(self._directory.attempt(ledger.attempt).beats, way.gang.last_beats())
        self._recorder.record(
            "attempt_ended",
            seconds=seconds,
            steps=steps,
            last_step=max(0, way.gang.last_step),
            ends=way.gang.ends(),
            step_p99=way.gang.step_p99,
            agreed=sorted(way.gang.agreed),
        )
