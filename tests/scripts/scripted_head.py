"""A real controller whose jobs move as the lines on its stdin say, and by nothing else."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from orchestrator.service.head import Head
from orchestrator.service.serve import main
from orchestrator.states import JobState
from orchestrator.store.values import happened


class ScriptedHead(Head):
    """Drives nothing. A line: {"job", "state", "attempt", "reason"}; its end is ours."""

    def begin(self) -> None:
        threading.Thread(target=self._obey, daemon=True).start()

    def close(self, *, keep_ranks: bool) -> None:
        self.accepting = False

    def health(self) -> dict[str, Any]:
        return {**super().health(), "ray": None}

    def status(self, job: str) -> dict[str, Any]:
        record = self.store.job(job)
        return {
            "schema": 1,
            "observed_at": time.time(),
            "job": job,
            "name": record.name,
            "state": record.state.value,
            "reason": record.reason,
            "run_dir": record.run_dir,
            "simulated": False,
            "attempt": record.attempt,
            "restarts": {},
            **dict.fromkeys(("step", "steps_total", "loss", "images_per_second", "goodput")),
            "checkpoint": None,
            "ranks": [],
        }

    def _obey(self) -> None:
        for line in sys.stdin:
            order = json.loads(line)
            seen = self.store.job(order["job"]).state
            event = happened(
                "moved", order["reason"], state=JobState(order["state"]), attempt=order["attempt"]
            )
            told = self.store.transition(order["job"], event, seen=seen, epoch=self.epoch)
            self.news.tell(order["job"], told.sequence)
        os._exit(3)  # whoever gave the orders is gone


if __name__ == "__main__":
    sys.exit(main(head_class=ScriptedHead))
