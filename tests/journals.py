"""Hand-made journals of runs that failed, as lists of events; times are small Unix seconds."""

from __future__ import annotations

from typing import Any

from orchestrator.journal import Event
from orchestrator.states import JobState

SPEC: dict[str, Any] = {
    "name": "toy",
    "restart": {
        "budgets": {"process": 3, "numeric": 1, "device": 3, "preemption": "unlimited"},
        "replenish_after": 600.0,
        "no_progress": 3,
        "rules": [{"log": "quota exceeded", "exit_code": None, "class": "storage"}],
    },
}


class Telling:
    """Tells a journal, an attempt at a time."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.attempt = 0
        self.add(0, "created", "job toy", JobState.QUEUED)
        self.add(1, "controller", "controller epoch 1", JobState.QUEUED, run_id="r1", epoch=1)

    def add(
        self, time: float, kind: str, reason: str = "", state: JobState | None = None, **data: Any
    ) -> Telling:
        """One event."""
        self.events.append(Event(float(time), kind, self.attempt, state, reason, data))
        return self

    def begin(self, time: float, resumed: int = 0, **data: Any) -> Telling:
        """An attempt begins, fresh or from a checkpoint."""
        self.attempt += 1
        path = f"/runs/toy/checkpoints/step-{resumed:08d}" if resumed else None
        told = f"resuming from step {resumed}" if resumed else "starting fresh"
        digest = "d1" if resumed else None
        return self.add(
            time, "attempt", told, JobState.STARTING,
            resumed_step=resumed, resumed_from=path, digest=digest, sources="s", **data,
        ).add(time + 1, "running", "every rank has a process", JobState.RUNNING)  # fmt: skip

    def fail(self, time: float, last: int, steps: int, **incident: Any) -> Telling:
        """It failed: stopped, ended, judged. A step took a second."""
        cause = incident.setdefault("cause", "killed by SIGKILL")
        document = {
            "job": "toy",
            "rank": 3,
            "node": "here",
            "device": "cpu:3",
            "class": "process",
            "evidence": [cause],
            "rule": "killed by a signal",
            "free": False,
            "step": last,
            "signature": None,
            "replenished": 0,
            "fault_at": float(time),
            "fault_at_source": "exit",
            "detected_after": 0.01,
            "stopped_after": 0.12,
            **dict.fromkeys(("allocated_after", "joined_after", "loaded_after", "compiled_after")),
            **dict.fromkeys(("first_step_after", "steps_lost", "decision", "budget_left")),
            **incident,
        }
        return (
            self.add(time, "failing", cause, JobState.STOPPING)
            .add(time, "attempt_ended", steps=steps, last_step=last, seconds=float(steps))
            .add(time, "failure", f"{cause}; class {document['class']}", **document)
        )

    def decide(
        self, time: float, text: str, row: str = "otherwise", action: str = "restart", **more: Any
    ) -> Telling:
        """What was decided."""
        incident = {"decision": text, "budget_left": 2, "action": action, "policy": row}
        state = JobState.FAILED if action == "stop" else JobState.RECOVERING
        decision = {"action": action, "row": row, "delay": 0.0, "may_shrink": False, **more}
        return self.add(
            time, "decision", text, state,
            retry=action != "stop", incident=incident, decision=decision,
        )  # fmt: skip

    def recover(self, time: float, first: float, lost: int) -> Telling:
        """The first new step of every rank."""
        split = {"allocated_after": 0.3, "joined_after": 7.5, "loaded_after": 8.0,
                 "compiled_after": 9.5, "first_step_after": first, "steps_lost": lost}  # fmt: skip
        return self.add(time, "recovered", f"first new step {first} s", incident=split)


def killed() -> list[Event]:
    """A rank is killed once; the newest checkpoint is broken, so the run falls back."""
    kill = Telling().begin(2).fail(32, 30, 28).decide(32, "restart: restart in 0.0 s")
    kill.add(32, "quarantined", "checkpoint of step 20 cannot be used: too short", step=20,
             path="/runs/toy/checkpoints/step-00000020")  # fmt: skip
    kill.begin(33, 10).recover(43, 11.0, 20)
    return kill.add(60, "succeeded", "every rank is done", JobState.SUCCEEDED).events


def repeated() -> list[Event]:
    """The same exception at the same step twice: a fall-back, and then the end."""
    same = {
        "rule": "loss is not a number", "class": "numeric", "rank": 0, "device": "cpu:0",
        "cause": "FloatingPointError: loss is nan",
        "evidence": ["FloatingPointError: loss is nan", "exit code 1", "  in step 31"],
        "signature": "numeric; loss is not a number; FloatingPointError: loss is nan",
    }  # fmt: skip
    told = Telling().begin(2).fail(32, 30, 28, **same).decide(32, "restart: restart in 0.0 s")
    told.begin(33, 20).recover(40, 8.0, 10).fail(50, 30, 10, **same)
    told.decide(50, "restart: once with the arguments of restart.fallback",
                "deterministic, with a fall-back", fallback=True)  # fmt: skip
    told.begin(51, 20, fallback={"lr": "0.01"}).recover(60, 9.9, 10).fail(70, 30, 10, **same)
    return told.decide(70, "stop: it is deterministic", "deterministic", "stop").events


def device_lost() -> list[Event]:
    """A device is lost; the run waits for another, and fails again before a new step."""
    lost = {"rule": "a device is not well", "class": "device", "device": "ascend:3",
            "cause": "here/ascend:3: lost; killed by SIGABRT", "node": "here"}  # fmt: skip
    told = Telling().begin(2).fail(32, 30, 28, **lost)
    told.decide(32, "restart: restart without that device", "the device is to blame", "elsewhere")
    told.add(32, "waiting", "8 ascend devices are asked for, 7 are well")
    told.begin(90, 20).fail(95, 0, 0, replenished=2)
    return told.decide(95, "restart: restart in 0.9 s").events
