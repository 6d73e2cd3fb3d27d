"""Evaluation during training: by all ranks together, of checkpoints as they lie on disk.

Whole batches are dealt out in turn, since an image's detections depend on its batch; so the result
is that of `python -m model.evaluate --pretrained=STEP_DIRECTORY`. Ranks hand their detections to
rank 0, whose result is a file that the others wait for: all take the same decision from the same
files. The network for it is a second copy of the weights; it is built, and its graph compiled,
once a process, when it is first needed.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.config import METRICS, Config
from model.evaluate import Detector, Evaluation, held_out, write_results
from model.exchange import Exchange
from model.history import Decision, Entry, History, decide, manifest_of, point_to_best
from model.journal import LOGGER, Metrics
from orchestrator.rank import Rank

if TYPE_CHECKING:
    from model.run import Run

BATCHES_PER_RANK = 8
"""No rank takes part for fewer: compiling the graph for them would cost more than they save."""
WAIT_SECONDS = 7200.0
FOLDER = "evaluations"

_ASIDE = re.compile(r"\.step-\d{8,}\.attempt-\d+\.evaluation")


def participants(batches: int, ranks: int) -> int:
    """How many ranks evaluate `batches`: all, or as many as have enough to do, rank 0 first."""
    return max(1, min(ranks, batches // BATCHES_PER_RANK))


@dataclass
class Validation:
    """One rank's hand in evaluating the checkpoints of a run.

    `checkpoints` is where step directories lie; `metrics` is rank 0's file, None elsewhere.
    """

    config: Config
    rank: Rank
    history: History
    checkpoints: Path
    steps_per_epoch: int
    total_steps: int
    metrics: Path | None
    make_detector: Callable[[], Detector]
    wait_seconds: float = WAIT_SECONDS
    _newest: tuple[int, Evaluation | None] | None = field(default=None, init=False)

    @classmethod
    def of(cls, run: Run) -> Validation:
        """Prepare the evaluations of `run`."""
        from model.run import checkpoint_to_resume, metrics_file

        categories = run.data.dataset.categories
        # Rank 0 of a new run tells what is missing; later no hours are lost to one vanished file.
        begun = run.rank.rank > 0 or checkpoint_to_resume(run.config, run.rank) is not None
        checkpoints = run.writer.directory
        return cls(
            config=run.config,
            rank=run.rank,
            history=History((run.rank.run_dir or checkpoints) / FOLDER),
            checkpoints=checkpoints,
            steps_per_epoch=run.data.steps_per_epoch,
            total_steps=run.total_steps,
            metrics=metrics_file(run),
            make_detector=lambda: Detector(
                run.config, held_out(run.config, categories, may_miss_images=begun)
            ),
        )

    def due(self, step: int) -> bool:
        """Whether the checkpoint of `step` is to be evaluated: it ends so many epochs."""
        interval = self.config.evaluate_every * self.steps_per_epoch
        return interval > 0 and step > 0 and step % interval == 0

    def begin(self, step: int) -> bool:
        """Take up the history of a run that has done `step`; returns whether it ended early.

        Raises DataError for held-out data that cannot be used: now, not after hours.
        """
        if not self._wanted:
            return False
        if self.rank.rank == 0:
            self.history.forget_after(step)
            self._clear_leftovers(step)
            _ = self._detector
        return self._ends_early(step, self._decide(step))

    def make_up(self, step: int, checkpoint: Path | None) -> bool:
        """Evaluate `checkpoint`, of `step`, if the run was killed before that was done.

        Returns whether the run ends early now. To be called when the graphs of the training are
        compiled: MindSpore's cache finds graphs by the order in which a process compiles them.
        """
        if not self._wanted or checkpoint is None or not self.due(step):
            return False
        if self._evaluated(*manifest_of(checkpoint)):
            # Perhaps by rank 0, and only just now: this rank has to draw the same conclusion.
            return self._ends_early(step, self._decide(step))
        return self._ends_early(step, self._evaluate(checkpoint))

    def after(self, step: int, checkpoint: Path) -> bool:
        """Evaluate the checkpoint of `step` if it is due; returns whether training ends early."""
        if not self.due(step):
            return False
        decision = self._evaluate(checkpoint)
        self.rank.phase("train")
        return self._ends_early(step, decision)

    def finish(self, checkpoint: Path | None, folder: Path) -> None:
        """Leave the results of the last checkpoint in `folder`, if they are wanted."""
        if not self.config.evaluate_at_end or checkpoint is None:
            return
        if self._newest is None or self._newest[0] != manifest_of(checkpoint)[0]:
            self._evaluate(checkpoint)
        result = self._newest[1] if self._newest else None
        if result is not None:
            write_results(result, folder)
            table = result.figures.table()
            LOGGER.info("\n%s", table)
            self.rank.report("evaluation", table)

    @property
    def _wanted(self) -> bool:
        return bool(self.config.evaluate_every or self.config.evaluate_at_end)

    def _evaluate(self, checkpoint: Path) -> Decision:
        """Evaluate a step directory; every rank calls this after the same step.

        Raises ConfigError, DataError, OSError, TimeoutError.
        """
        self.rank.phase("evaluate")
        since = time.monotonic()
        step, digest = manifest_of(checkpoint)
        parts = participants(self._detector.batches, self.rank.size)
        exchange = self._exchange(step, digest, parts)
        result = None
        if self.rank.rank == 0:
            rows = exchange.collect(self._share(checkpoint, parts), parts)
            result = self._detector.measure(rows, since)
            self._publish(step, digest, result)
        else:
            if self.rank.rank < parts:
                exchange.give(self.rank.rank, self._share(checkpoint, parts))
            exchange.await_result(lambda: self._evaluated(step, digest))
        self._newest = step, result
        return self._decide(step)

    def _share(self, checkpoint: Path, parts: int) -> np.ndarray:
        return self._detector.detect(checkpoint, self.rank.rank, parts)

    def _publish(self, step: int, digest: str, result: Evaluation) -> None:
        """Make the result known; a kill before the history's file costs another evaluation."""
        epoch = (step - 1) // self.steps_per_epoch
        figures = result.figures.to_json()
        metrics = Metrics(self.metrics, self.rank.attempt)
        metrics.write(step=step, epoch=epoch, evaluation=figures)
        metrics.close()
        shown = ", ".join(f"{name} {figures[name]:.4f}" for name in METRICS)
        LOGGER.info("evaluation of step %d in %.1f s: %s", step, result.seconds, shown)
        self.history.write(Entry(step, epoch, digest, round(result.seconds, 3), figures))

    def _decide(self, step: int) -> Decision:
        metric, patience = self.config.best_metric, self.config.early_stop
        history = [(entry.step, entry.figures[metric]) for entry in self.history.until(step)]
        decision = decide(history, patience)
        if self.rank.rank == 0:
            point_to_best(self.checkpoints, decision.best)
        return decision

    def _ends_early(self, step: int, decision: Decision) -> bool:
        if not decision.stop or step >= self.total_steps:
            return False
        if self.rank.rank == 0:
            text = (
                f"training ended early: step {decision.best} is the best by "
                f"{self.config.best_metric}; evaluations since then that were not better: "
                f"{decision.since} (early_stop={self.config.early_stop})"
            )
            LOGGER.info(text)
            self.rank.report("early_stop", text)
        return True

    @cached_property
    def _detector(self) -> Detector:
        return self.make_detector()

    def _evaluated(self, step: int, digest: str) -> bool:
        entry = self.history.read(step)
        return entry is not None and entry.checkpoint == digest

    def _exchange(self, step: int, digest: str, parts: int) -> Exchange:
        source = f"{digest} {self.config.fingerprint()} {parts}"
        key = hashlib.sha256(source.encode()).hexdigest()
        return Exchange(self._aside(step), key, self.wait_seconds)

    def _aside(self, step: int) -> Path:
        # muster's sweep between attempts removes it too.
        return self.checkpoints / f".step-{step:08d}.attempt-{self.rank.attempt:03d}.evaluation"

    def _clear_leftovers(self, step: int) -> None:
        """Remove what dead attempts left, but not what a faster rank begins for `step` now."""
        entries = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        for entry in entries:
            if _ASIDE.fullmatch(entry.name) and entry != self._aside(step):
                shutil.rmtree(entry, ignore_errors=True)
