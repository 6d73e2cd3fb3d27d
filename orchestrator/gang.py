"""The running attempt as the controller sees it: supervisor messages folded into views."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orchestrator.effort import Effort
from orchestrator.health import Exit, Observation, RankView, p99
from orchestrator.heartbeat import Heartbeat
from orchestrator.layout import AttemptDirectory, read_json, spooled_error
from orchestrator.link import Message
from orchestrator.plan import LaunchPlan
from orchestrator.secrets import Redactor
from orchestrator.silent import Silence
from orchestrator.stragglers import News, Slow, Stragglers

_STEPS_REMEMBERED = 1000
_ERROR_FIELDS = frozenset({"type", "message", "traceback", "code", "monotonic"})


class Gang:
    """All ranks of one attempt."""

    def __init__(
        self, plan: LaunchPlan, files: AttemptDirectory, straggler: float | None = None
    ) -> None:
        """`straggler`: how many times slower than its peers a rank may be; None: not watched."""
        self.plan = plan
        self.redactor = Redactor.of(plan.ranks[0].process.secrets)  # as they are at the start
        self._files = files
        self._ranks = {rank.assignment.rank: RankView(rank.assignment.rank) for rank in plan.ranks}
        self._silence = Silence(frozenset(self._ranks))
        self._stragglers = Stragglers(self._ranks, straggler)
        self._scheduler_exit: Exit | None = None
        self.scheduler_pid: int | None = None
        self._step_times: deque[float] = deque(maxlen=_STEPS_REMEMBERED)
        self._begun_at = time.monotonic()
        self._seen_at = self._begun_at
        self.looked_at = False
        """Whether the supervisor has told how the ranks are."""
        self.stopped_at: float | None = None
        self.stuck: list[dict[str, Any]] = []
        self.examined: list[dict[str, Any]] | None = None
        """What the supervisor found when it was last asked to look closely."""

    @property
    def views(self) -> tuple[RankView, ...]:
        """The ranks in order."""
        return tuple(self._ranks[rank] for rank in sorted(self._ranks))

    def view(self, rank: int | None) -> RankView | None:
        return None if rank is None else self._ranks.get(rank)

    def take(self, message: Message) -> None:
        """Fold one message of the supervisor in; those of other attempts have been left out."""
        handler = getattr(self, f"_on_{message['event']}", None)
        if handler is not None:
            handler(message)

    def began(self, ago: float) -> None:
        """It was begun by another controller, that many seconds ago."""
        self._begun_at = time.monotonic() - ago

    def restore(self, views: Iterable[RankView]) -> None:
        """Take what is known from disk of ranks that nobody watches any more."""
        self._ranks.update({view.rank: view for view in views})

    def _on_started(self, message: Message) -> None:
        if message["rank"] is None:
            self.scheduler_pid = message["pid"]
        self._change(
            message["rank"],
            pid=message["pid"],
            start_time=message["start_time"],
            started_at=message["at"],
        )

    def _on_start_failed(self, message: Message) -> None:
        self._change(message["rank"], start_failed=message["reason"], start_errno=message["errno"])

    def _on_beat(self, message: Message) -> None:
        document = message["beat"]
        beat = Heartbeat(**{**document, "phase_entered": tuple(document["phase_entered"])})
        old = self._ranks[message["rank"]].beat
        if not math.isnan(beat.step_seconds) and (old is None or old.step != beat.step):
            self._step_times.append(beat.step_seconds)
        self._silence.take(message["rank"], beat)
        self._stragglers.beat(message["rank"], beat)
        self._change(message["rank"], beat=beat)
        if beat.failed:
            self._read_error(message["rank"])

    def _on_look(self, message: Message) -> None:
        for one in message["seen"]:
            self.take(one)
        self._seen_at = message["at"]
        self.looked_at = True

    def _on_signs(self, message: Message) -> None:
        self._change(
            message["rank"], process_state=message["process_state"], log_at=message["log_at"]
        )

    def _on_effort(self, message: Message) -> None:
        rank = message["rank"]
        effort = Effort(**message["effort"])
        self._stragglers.effort(rank, message["at"], effort, self._ranks[rank].beat)

    def restore_stragglers(self, told: Mapping[int, Mapping[str, Any]]) -> None:
        """Take over what an earlier controller had told of them: factor and reason, by rank."""
        self._stragglers.restore({rank: Slow(**one) for rank, one in told.items()})

    def stragglers(self) -> list[News]:
        """Who has become a straggler since this was asked last, and who is none any more."""
        return self._stragglers.look()

    def _on_exit(self, message: Message) -> None:
        ended = Exit(message["code"], message["signal"], message["at"], message["asked"])
        if message["rank"] is None:
            self._scheduler_exit = ended
            return
        self._change(message["rank"], exit=ended)
        if not ended.clean:
            self._read_error(message["rank"])

    def _on_examined(self, message: Message) -> None:
        self.examined = message["ranks"]

    def _on_stopped(self, message: Message) -> None:
        self.stopped_at = message["at"]
        self.stuck = message["stuck"]

    def _read_error(self, rank: int) -> None:
        heartbeat = next(r.process.heartbeat for r in self.plan.ranks if r.assignment.rank == rank)
        spooled = spooled_error(Path(heartbeat)) if heartbeat else None
        error = read_json(self._files.error(rank)) or (read_json(spooled) if spooled else None)
        # Anybody may have written it: only a record of ours is evidence.
        if isinstance(error, dict) and error.keys() >= _ERROR_FIELDS:
            self._change(rank, error=self.redactor.value(error))

    def _change(self, rank: int | None, **fields: Any) -> None:
        if rank is not None:
            self._ranks[rank] = replace(self._ranks[rank], **fields)
        elif "start_failed" in fields:
            # Without its scheduler no rank can join: say it of the first.
            self._ranks[0] = replace(self._ranks[0], **fields)

    def observe(self) -> Observation:
        """What `health` decides upon."""
        return Observation(
            now=self._seen_at,
            ranks=self.views,
            begun_at=self._begun_at,
            scheduler_exit=self._scheduler_exit,
            step_times=tuple(self._step_times),
            silent=self._silence.suspect,
        )

    @property
    def agreed(self) -> frozenset[int]:
        """Steps that may be the last at which all ranks agreed; empty: not known."""
        return self._silence.agreed

    @property
    def step_p99(self) -> float | None:
        """What 99 of 100 steps of this attempt took at most, in seconds; None before the second."""
        return p99(self._step_times)

    @property
    def lived(self) -> float:
        """Seconds since the attempt began."""
        return self._seen_at - self._begun_at

    def last_beats(self) -> dict[str, dict[str, Any]]:
        """Every rank's last heartbeat, for a record that outlives tmpfs."""
        return {str(v.rank): asdict(v.beat) for v in self.views if v.beat is not None}

    def pids(self) -> list[list[int | None]]:
        """Rank, pid and start time of every process, for the journal."""
        return [[view.rank, view.pid, view.start_time] for view in self.views]

    def ends(self) -> list[list[Any]]:
        """Rank, state, pid, start time, exit code and signal of every rank, for the record."""
        return [
            [
                view.rank,
                view.state().value,
                view.pid,
                view.start_time,
                view.exit.code if view.exit else None,
                view.exit.signal if view.exit else None,
            ]
            for view in self.views
        ]

    @property
    def started(self) -> bool:
        """Whether every rank has a process."""
        return all(view.pid is not None for view in self._ranks.values())

    @property
    def last_step(self) -> int:
        """The highest step that any rank finished; 0 if none did."""
        return max((v.beat.step for v in self._ranks.values() if v.beat), default=0)

    @property
    def first_step_at(self) -> float | None:
        """When the last rank finished its first step of this attempt; None if one has not."""
        times = [v.beat.first_step_at if v.beat else math.nan for v in self._ranks.values()]
        return None if any(math.isnan(time) for time in times) else max(times)

    def left(self, phase: str) -> float | None:
        """When the last rank left a phase; None if one has not, or has never been in it."""
        times = [v.beat.left(phase) if v.beat else math.nan for v in self._ranks.values()]
        return None if any(math.isnan(time) for time in times) else max(times)

    def training_seconds(self) -> tuple[float, int]:
        """Time from the first to the last step of this attempt, and how many steps."""
        beats = [v.beat for v in self._ranks.values() if v.beat and v.beat.step >= 0]
        if not beats:
            return 0.0, 0
        beat = max(beats, key=lambda b: b.step)
        steps = beat.step - beat.first_step + 1
        seconds = beat.step_at - beat.first_step_at
        # The first step has no beginning on record: it counts as an average one.
        return (seconds * steps / (steps - 1) if steps > 1 else 0.0), steps
