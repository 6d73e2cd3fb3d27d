"""The judgement of a failure, when the gang is down: whom to blame, what it was, what follows."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

from orchestrator import drill, evidence, incident, oom
from orchestrator.attempt import OpenFault, UnderWay
from orchestrator.checkpoints import Broken
from orchestrator.drill.memory import killed
from orchestrator.examiner import notable
from orchestrator.health import Limits, RankView, Sign, Suspect, first_failure
from orchestrator.keeper import CheckpointKeeper
from orchestrator.layout import AttemptDirectory
from orchestrator.patterns import found_in
from orchestrator.policy import Decision, Finding, classify, decide
from orchestrator.recorder import Recorder
from orchestrator.signature import signature
from orchestrator.spec import JobSpec
from orchestrator.states import JobState

_LOOK = 0.5
"""Seconds within which what heartbeats tell is noticed, and ranks are stopped."""


class Judge:
    """Turns a suspect into an incident and a decision, both in the journal."""

    def __init__(
        self,
        spec: JobSpec,
        recorder: Recorder,
        keeper: CheckpointKeeper,
        job: str,
        called: str = "",
    ) -> None:
        """`called` is what a person gives to `muster resume`: the job's id, or its directory."""
        self._spec = spec
        self._job = job
        self._called = called or job
        self._recorder = recorder
        self._keeper = keeper
        self._oom_kills: int | None = None
        self.open_fault: OpenFault | None = None

    def attempt_begins(self) -> None:
        """Remember what was so before, to tell what an attempt has brought."""
        self._oom_kills = oom.kills_counted()

    def judge(
        self,
        way: UnderWay,
        suspect: Suspect,
        files: AttemptDirectory,
        *,
        seen_at: float,
        device_faults: Mapping[int, str],
        whole: bool = True,
        asked_to_stop: bool = False,
    ) -> Decision:
        """The decision about a failed attempt.

        `device_faults`: what is wrong with the devices of ranks, by their tools, now; `whole`:
        there are devices for all ranks, as far as is known; `asked_to_stop`: its ranks had been
        asked to save themselves and leave.
        """
        ledger = self._recorder.ledger
        if ledger.judged_attempt == ledger.attempt:
            return self._decide(incident.finding_of(ledger.incidents[-1]), whole=whole)
        stepped_before = bool(ledger.suspect and ledger.suspect.get("stepped_before"))
        suspect = _blame(way, suspect)
        view = way.gang.view(suspect.rank)
        found = evidence.collect(
            suspect,
            view,
            files,
            way.gang.redactor,
            stepped_before=stepped_before,
            lived=way.gang.lived,
            oom_killed=self._oom_happened() or killed(view.pid if view else None),
            device_fault="; ".join(device_faults.values()),
            asked_to_stop=asked_to_stop,
        )
        finding = classify(found, self._spec.restart.rules, self._found_in(found.log))
        suspect = blamed = evidence.explained(suspect, found)
        if finding.failure.blames_device:
            blamed = _blame_device(suspect, device_faults)
        if found.bad_checkpoint and way.chosen is not None:
            # It verified, but a rank could not load it: never offer it again.
            self._keeper.quarantine(Broken(way.chosen.path, way.chosen.step, found.error_message))
        if suspect.trusted_step is not None:
            # All ranks of this attempt began with the same.
            self._keeper.distrust(max(suspect.trusted_step, way.resumed_step), suspect.cause)
        fault_at, source = self._fault_time(suspect)
        lost = self.open_fault.steps_before if self.open_fault else 0
        self.open_fault = OpenFault(fault_at, max(lost, way.gang.last_step))
        document = incident.opened(
            job=self._job,
            attempt=self._recorder.ledger.attempt,
            suspect=blamed,
            finding=finding,
            evidence=[*evidence.describe(suspect, found, view), *self._seen_alive(way, blamed)],
            gang=way.gang,
            fault_at=fault_at,
            fault_source=source,
            seen_at=seen_at,
            signature=signature(finding, found, stopped=_was_stopped(view)),
            step=max(way.resumed_step, _own_step(view, way.gang.last_step)),
            step_blur=_blur(suspect, view),
            replenished=self._given_back(finding),
        )
        self._recorder.record("failure", _headline(blamed, finding), **document)
        return self._decide(finding, whole=whole)

    def reopen(self) -> None:
        """Remember the failure whose way back another controller has begun."""
        ledger = self._recorder.ledger
        last = ledger.incidents[-1] if ledger.incidents else None
        if last is not None and last["first_step_after"] is None:
            age = time.time() - last["fault_at"]
            self.open_fault = OpenFault(time.monotonic() - age, ledger.best_step)

    def note_recovered(self, way: UnderWay) -> None:
        """The first new step of every rank closes the incident."""
        if self.open_fault is None:
            return
        fault, self.open_fault = self.open_fault, None
        split = incident.recovered(
            way.gang,
            fault_at=fault.at,
            allocated_at=way.allocated_at,
            steps_before=fault.steps_before,
            resumed_step=way.resumed_step,
        )
        reason = f"first new step {split['first_step_after']:.1f} s after the fault"
        self._recorder.record("recovered", reason, incident=split)

    def _given_back(self, finding: Finding) -> int:
        after = self._spec.restart.replenish_after
        return 0 if finding.free else self._recorder.ledger.given_back(finding.failure, after)

    def _decide(self, finding: Finding, *, whole: bool) -> Decision:
        ledger = self._recorder.ledger
        spec = self._spec
        ranks = spec.resources.ranks
        decision = decide(finding, ledger.history, spec.restart, ranks=ranks, whole=whole)
        reason = decision.reason
        if not decision.retry:
            again = f"`muster resume {self._called}` continues it"
            reason = f"{ledger.incidents[-1]['cause']}; {decision.reason}; {again}"
        self._recorder.record(
            "decision",
            reason,
            state=JobState.RECOVERING if decision.retry else JobState.FAILED,
            retry=decision.retry,
            incident=incident.decided(decision),
            decision=incident.chosen(decision),
        )
        return decision

    def _fault_time(self, suspect: Suspect) -> tuple[float, str]:
        """When the fault happened: by the drill's clock if there was one, else by its sign."""
        meant = [
            event.data["at"]
            for event in self._recorder.events()
            if event.kind == "drill"
            and event.attempt == self._recorder.ledger.attempt
            and drill.explains(event.data, suspect)
            and event.data["at"] <= suspect.at
        ]
        return (meant[-1], "drill") if meant else (suspect.at, suspect.sign.value)

    def _seen_alive(self, way: UnderWay, blamed: Suspect) -> list[str]:
        """What was seen of the ranks before their end."""
        events, attempt = self._recorder.events(), self._recorder.ledger.attempt
        return evidence.of_examination(events, attempt, blamed.rank) or notable(way.gang)

    def _found_in(self, log: str) -> Mapping[str, bool | None]:
        """Which patterns of the job's rules a log has; one that takes for ever is told."""
        patterns = [rule.log for rule in self._spec.restart.rules if rule.log is not None]
        found = found_in(log, patterns)
        for pattern, known in found.items():
            if known is None:
                text = f"the job's rule {pattern!r} took too long on this log and was left out"
                self._recorder.record("note", text)
        return found

    def _oom_happened(self) -> bool:
        now, before = oom.kills_counted(), self._oom_kills
        return before is not None and now is not None and now > before


def _own_step(view: RankView | None, of_gang: int) -> int:
    """The step that the failed rank reached: peers may be a step ahead, by chance."""
    if view is None or view.beat is None:
        return max(0, of_gang)
    return view.beat.loss_step if view.beat.loss_not_finite else view.beat.step


def _blur(suspect: Suspect, view: RankView | None) -> int:
    """By how many steps a failure that no rank reports is seen too late, at most."""
    if suspect.sign is not Sign.DIVERGED:
        return 0
    took = view.beat.step_seconds if view is not None and view.beat is not None else math.nan
    return 1 + (math.ceil(_LOOK / took) if took > 0 else 0)


def _was_stopped(view: RankView | None) -> bool:
    return view is not None and view.process_state in ("T", "t")


def _blame(way: UnderWay, suspect: Suspect) -> Suspect:
    """The earliest sign among all that came in until the gang was down."""
    earlier = first_failure(way.gang.observe(), Limits({}, math.inf))
    if earlier is None or earlier.at >= suspect.at:
        return suspect
    # What is in doubt stays in doubt, whatever came before it.
    return replace(earlier, trusted_step=suspect.trusted_step)


def _blame_device(suspect: Suspect, faults: Mapping[int, str]) -> Suspect:
    """The rank whose device is at fault: peers may have died of it before it did."""
    if not faults:
        return suspect
    rank = min(faults, key=lambda rank: (rank != suspect.rank, rank))
    seen = suspect.cause
    if suspect.rank not in (None, rank):
        seen = f"rank {suspect.rank}: {seen}"
    return replace(suspect, rank=rank, cause=f"{faults[rank]}; {seen}")


def _headline(suspect: Suspect, finding: Finding) -> str:
    who = "" if suspect.rank is None else f"rank {suspect.rank}: "
    return f"{who}{suspect.cause}; class {finding.failure.value} ({finding.rule})"
