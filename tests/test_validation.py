"""Evaluation during training: the same decision on every rank, before and after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from model import whole_file
from model.arguments import parse
from model.coco_eval import CocoFigures
from model.config import Config, ConfigError
from model.data_error import DataError
from model.evaluate import Detector, Evaluation, held_out
from model.exchange import Exchange
from model.history import BEST, Entry, History, decide, point_to_best
from model.rehearsal_data import Recipe, make
from model.validation import BATCHES_PER_RANK, Validation, participants
from model.whole_file import sync
from orchestrator.rank import Rank
from tests.runs import Job, muster, training_job

EPOCH = 10
IMAGES = 40
histories = st.lists(st.integers(-1, 5).map(float), max_size=12)


def numbered(figures: Sequence[float]) -> list[tuple[int, float]]:
    """Figures as those of steps 10, 20, and so on."""
    return [(EPOCH * (i + 1), figure) for i, figure in enumerate(figures)]


@settings(max_examples=200, deadline=None)
@given(histories, st.integers(0, 4))
def test_the_best_is_the_first_of_the_greatest(figures: list[float], patience: int) -> None:
    """Training ends when as many evaluations as `early_stop` says are not above those before."""
    decision = decide(numbered(figures), patience)
    if not figures:
        assert decision == decide([], 0)
        assert decision.best is None and not decision.stop
        return
    assert decision.best == EPOCH * (figures.index(max(figures)) + 1)
    known = max(0, len(figures) - patience)
    earlier, last = figures[:known], figures[known:]
    assert decision.stop == bool(patience and earlier and max(last) <= max(earlier))


@given(st.integers(1, 500), st.integers(1, 16))
def test_no_rank_evaluates_for_too_little(batches: int, ranks: int) -> None:
    """Every rank takes part where there is work for it; rank 0 always does."""
    parts = participants(batches, ranks)
    assert 1 <= parts <= ranks
    assert parts == 1 or batches // parts >= BATCHES_PER_RANK
    assert parts == ranks or batches < (parts + 1) * BATCHES_PER_RANK


def figures_of(value: float) -> CocoFigures:
    """Twelve figures alike."""
    return CocoFigures((value,) * 12, IMAGES, IMAGES)


def entry(step: int, figure: float = 0.5, checkpoint: str = "d") -> Entry:
    """An evaluation."""
    return Entry(step, step // EPOCH - 1, checkpoint, 1.0, figures_of(figure).to_json())


def test_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Up to a step, in order; what cannot be read or is of another step counts as not there."""
    history = History(tmp_path / "evaluations")
    assert history.until(100) == []
    for step in (30, 10, 20, 40):
        history.write(entry(step, 1 / 3))
    assert history.until(30) == [entry(step, 1 / 3) for step in (10, 20, 30)]
    history.path(10).write_text('{"step": 10')
    os.replace(history.path(20), history.path(50))
    document = json.loads(history.path(40).read_text())
    history.path(40).write_text(json.dumps({**document, "figures": {"AP": 1}}))
    assert history.until(100) == [entry(30, 1 / 3)]


def test_a_run_that_went_back_forgets_what_came_later(tmp_path: Path) -> None:
    """Later evaluations count no more, and are kept aside."""
    history = History(tmp_path)
    for step in (10, 20, 30):
        history.write(entry(step))
    history.forget_after(10)
    assert history.until(100) == [entry(10)]
    assert len(list(tmp_path.iterdir())) == 3


def test_the_link_is_a_bare_name_that_is_there(tmp_path: Path) -> None:
    """It moves with the best; without a checkpoint of that name there is no link."""
    for step in (10, 20):
        (tmp_path / f"step-{step:08d}").mkdir()
        point_to_best(tmp_path, step)
        assert os.readlink(tmp_path / BEST) == f"step-{step:08d}"
    point_to_best(tmp_path, 30)
    assert not os.path.lexists(tmp_path / BEST)
    point_to_best(tmp_path, 10)
    point_to_best(tmp_path, None)
    assert not os.path.lexists(tmp_path / BEST)
    (tmp_path / BEST).mkdir()
    point_to_best(tmp_path, 10)
    assert not (tmp_path / BEST).is_symlink()
    assert sorted(os.listdir(tmp_path)) == [BEST, "step-00000010", "step-00000020"]


def rows_of(ids: Sequence[int]) -> np.ndarray:
    """Two detections an image, whose order can be told."""
    return np.array([[i, 1, 0, 0, 1, 1, score] for i in ids for score in (0.9, 0.1)], np.float64)


def test_detections_come_together_in_the_order_of_one_process(tmp_path: Path) -> None:
    """Shares of whole batches, one of them empty, are sorted by image; the directory goes."""
    exchange = Exchange(tmp_path / "aside", "key", wait_seconds=30)
    exchange.give(1, rows_of([3, 4]))
    exchange.give(2, np.zeros((0, 7)))
    found = exchange.collect(rows_of([1, 2, 7]), 3)
    np.testing.assert_array_equal(found, rows_of([1, 2, 3, 4, 7]))
    assert list(tmp_path.iterdir()) == []


def test_what_was_computed_from_something_else_is_not_taken(tmp_path: Path) -> None:
    """Leftovers of another checkpoint, torn ones and missing ones: their ranks are named."""
    exchange = Exchange(tmp_path, "key", wait_seconds=0)
    Exchange(tmp_path, "other", 0).give(1, rows_of([3]))
    (tmp_path / "rank-2.npz").write_bytes(b"PK\3\4")
    with pytest.raises(TimeoutError, match="detections of rank 1, 2, 3"):
        exchange.collect(rows_of([1]), 4)
    with pytest.raises(TimeoutError, match="result of rank 0"):
        exchange.await_result(lambda: False)


@dataclass
class FakeDetector:
    """Finds two objects an image, a batch an image; its figures are what it was told."""

    figures: dict[str, float]
    batches: int = IMAGES
    asked: list[str] = field(default_factory=list)

    def detect(self, checkpoint: Path, first: int, every: int) -> np.ndarray:
        """Note the checkpoint."""
        self.asked.append(checkpoint.name)
        return rows_of(range(first, self.batches, every))

    def measure(self, rows: np.ndarray, since: float) -> Evaluation:
        """The figure of the checkpoint asked for last."""
        np.testing.assert_array_equal(rows, rows_of(range(self.batches)))
        return Evaluation(figures_of(self.figures[self.asked[-1]]), rows, 1.0)


@dataclass
class Gang:
    """The ranks of a run, as threads, in a directory of checkpoints."""

    root: Path
    config: Config
    figures: dict[str, float]
    ranks: int = 2
    total_steps: int = 100

    def __post_init__(self) -> None:
        self.checkpoints = self.root / "checkpoints"
        self.start()

    def start(self) -> None:
        """Start every rank anew, as after a kill."""
        self.detectors = [FakeDetector(self.figures) for _ in range(self.ranks)]
        self.members = [self.member(rank) for rank in range(self.ranks)]

    def member(self, rank: int) -> Validation:
        """One rank."""
        return Validation(
            config=self.config,
            rank=Rank({"RANK_ID": str(rank), "RANK_SIZE": str(self.ranks)}),
            history=History(self.root / "evaluations"),
            checkpoints=self.checkpoints,
            steps_per_epoch=EPOCH,
            total_steps=self.total_steps,
            metrics=None if rank else self.root / "metrics.jsonl",
            make_detector=lambda: cast(Detector, self.detectors[rank]),
            wait_seconds=30,
        )

    def save(self, step: int, content: str = "") -> Path:
        """A checkpoint; `content` makes it another."""
        directory = self.checkpoints / f"step-{step:08d}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "MANIFEST.json").write_text(json.dumps({"step": step, "of": content}))
        return directory

    def all(self, method: str, *arguments: Any) -> Any:
        """Call a method on every rank at once; they must agree."""
        with ThreadPoolExecutor(self.ranks) as pool:
            calls = [pool.submit(getattr(m, method), *arguments) for m in self.members]
            results = [call.result() for call in calls]
        assert all(result == results[0] for result in results)
        return results[0]

    def begin(self, step: int, checkpoint: Path | None) -> bool:
        """Take up the history and make up for what is missing; returns whether training ends."""
        ended = self.all("begin", step)
        return self.all("make_up", step, checkpoint) or ended

    def train(self, steps: Sequence[int]) -> list[int]:
        """Save and evaluate at `steps`; returns those after which training ended."""
        return [step for step in steps if self.all("after", step, self.save(step))]

    @property
    def best(self) -> str:
        return os.readlink(self.checkpoints / BEST)


@pytest.fixture
def gang(tmp_path: Path) -> Gang:
    """Evaluated every epoch; the second of four epochs is the best, two more are waited for."""
    config = parse(["--evaluate_every=1", "--early_stop=2", "--best_metric=AP50"])
    figures = {f"step-{step:08d}": figure for step, figure in numbered([0.1, 0.3, 0.3, 0.2])}
    return Gang(tmp_path, config, figures)


def test_ranks_decide_alike_and_rank_0_leaves_the_results(gang: Gang) -> None:
    """A file and a metrics line an evaluation, the link, both ranks at work, nothing aside."""
    assert gang.begin(0, None) is False
    assert gang.train([10, 15, 20, 30, 40]) == [40]
    assert gang.best == "step-00000020"
    assert [e.figures["AP50"] for e in History(gang.root / "evaluations").until(99)] == [
        0.1, 0.3, 0.3, 0.2,
    ]  # fmt: skip
    assert gang.detectors[0].asked == gang.detectors[1].asked == list(gang.figures)
    lines = [json.loads(line) for line in (gang.root / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in lines] == [(10, 0), (20, 1), (30, 2), (40, 3)]
    assert lines[1]["evaluation"]["AP50"] == 0.3
    assert not list(gang.checkpoints.glob(".*"))


def test_a_run_killed_in_an_evaluation_makes_up_for_it(gang: Gang) -> None:
    """Before its first step, once; what the dead attempt left aside is gone or of use."""
    gang.train([10, 20])
    killed = gang.save(30)
    leftover = gang.checkpoints / ".step-00000020.attempt-000.evaluation"
    leftover.mkdir()
    for asked in (["step-00000030"], []):
        gang.start()
        assert gang.begin(30, killed) is False
        assert gang.detectors[0].asked == gang.detectors[1].asked == asked
    assert not leftover.exists()
    assert gang.train([40]) == [40]


def test_a_run_killed_after_it_ended_early_ends_again(gang: Gang) -> None:
    """It does not train on, and evaluates the last checkpoint only if its results are wanted."""
    gang.train([10, 20, 30, 40])
    gang.start()
    last = gang.save(40)
    assert gang.begin(40, last) is True
    gang.all("finish", last, gang.root / "outputs")
    assert gang.detectors[0].asked == []
    gang.config = parse(["--evaluate_every=1", "--evaluate_at_end=1"])
    gang.start()
    assert gang.begin(40, last) is False
    gang.all("finish", last, gang.root / "outputs")
    assert gang.detectors[0].asked == [last.name]
    assert len(list((gang.root / "outputs").glob("predict_*.json"))) == 1
    assert json.loads((gang.root / "outputs" / "evaluation.json").read_text())["AP"] == 0.2


def test_a_run_that_is_at_its_end_does_not_end_early(gang: Gang) -> None:
    """Patience that runs out at the last step is not why training ends."""
    gang.total_steps = 40
    gang.start()
    assert gang.train([10, 20, 30, 40]) == []
    assert gang.begin(40, gang.save(40)) is False


def test_a_run_that_fell_back_decides_as_if_it_had_not_gone_further(gang: Gang) -> None:
    """Later evaluations count no more, the link goes back, and the steps are evaluated again."""
    gang.train([10, 20, 30, 40])
    gang.start()
    assert gang.begin(10, gang.save(10)) is False
    assert gang.best == "step-00000010"
    # Those of steps that are evaluated no more, with another interval, must not count either.
    assert [e.step for e in History(gang.root / "evaluations").until(99)] == [10]
    assert gang.train([20, 30, 40]) == [40]
    assert gang.detectors[0].asked == ["step-00000020", "step-00000030", "step-00000040"]
    assert gang.best == "step-00000020"


def test_another_checkpoint_of_the_same_step_is_evaluated(gang: Gang) -> None:
    """The result that lies there is of a checkpoint with another digest."""
    gang.train([10])
    gang.start()
    gang.begin(10, gang.save(10, "trained again on another device"))
    assert gang.detectors[0].asked == ["step-00000010"]


def test_the_last_checkpoint_is_not_evaluated_twice(gang: Gang) -> None:
    """What the last epoch's evaluation found is what the end leaves."""
    gang.config = parse(["--evaluate_every=1", "--evaluate_at_end=1"])
    gang.start()
    gang.train([10])
    gang.all("finish", gang.save(10), gang.root / "outputs")
    assert gang.detectors[0].asked == ["step-00000010"]
    assert (gang.root / "outputs" / "evaluation.json").exists()


def test_without_evaluations_nothing_is_touched(gang: Gang) -> None:
    """A run that asks for none reads no held-out data and leaves a link of others alone."""
    gang.config = parse([])
    gang.start()
    link = gang.save(10).parent / BEST
    link.symlink_to("mine")
    assert gang.train([10]) == []
    assert gang.begin(10, gang.save(10)) is False
    gang.all("finish", gang.save(10), gang.root)
    assert os.readlink(link) == "mine"
    assert not (gang.root / "evaluations").exists()


def test_missing_held_out_data_is_told_before_the_first_step(gang: Gang) -> None:
    """Not after the first epoch; exit code 66."""
    config = parse(["--evaluate_at_end=1", f"--data_dir={gang.root}/nowhere"])
    gang.config = config
    member = gang.member(0)
    member.make_detector = lambda: Detector(config, held_out(config, None))
    with pytest.raises(DataError, match="nowhere"):
        member.begin(0)


def test_a_rank_that_comes_late_draws_the_same_conclusion(gang: Gang) -> None:
    """Rank 0 alone has made up for an evaluation that ends the run, before others look."""
    for detector in gang.detectors:
        detector.batches = 1
    gang.train([10, 20, 30])
    killed = gang.save(40)
    gang.start()
    for detector in gang.detectors:
        detector.batches = 1
    assert [member.begin(40) for member in gang.members] == [False, False]
    assert [member.make_up(40, killed) for member in gang.members] == [True, True]


@pytest.mark.parametrize("figure", ["0.5", 10**400, float("inf"), None, [0.5], 7])
def test_a_figure_that_is_none_is_left_out(gang: Gang, figure: Any) -> None:
    """An evaluation file with junk in it is as good as not there."""
    gang.train([10, 20])
    path = gang.members[0].history.path(10)
    content = json.loads(path.read_text())
    content["figures"]["AP50"] = figure
    path.write_text(json.dumps(content))
    assert [entry.step for entry in gang.members[0].history.until(20)] == [20]


def test_a_share_may_be_taken_before_its_giver_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 may read a share and clear up while the other rank still syncs the directory."""
    exchange = Exchange(tmp_path / "aside", "key", 30)

    def taken(directory: Path) -> None:
        shutil.rmtree(exchange.directory)
        sync(directory)

    monkeypatch.setattr(whole_file, "sync", taken)
    exchange.give(1, rows_of([0]))
    assert not exchange.directory.exists()


def test_early_stop_needs_evaluations() -> None:
    """Otherwise it would never act, and is refused."""
    with pytest.raises(ConfigError, match="give evaluate_every too"):
        parse(["--early_stop=3"])


# Real runs


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks of the real trainer, with batches enough for both; it ends before its last epoch.

    The best checkpoint is none of those that retention keeps by itself.
    """
    directory = tmp_path_factory.mktemp("validation")
    make(directory / "data", Recipe(images=24, val_images=33, seed=3, size=64))
    return training_job(
        directory, "validation", 1, training_shape=64, max_epoch=12,
        evaluate_every=1, best_metric="AR_100", early_stop=1,
        compile_cache=str(directory / "graphs"),
    )  # fmt: skip


def outcome(job: Job) -> dict[str, Any]:
    """Every evaluation but its duration, what `best` names, and the digest of what it holds."""
    entries = [json.loads(f.read_text()) for f in sorted(job.run_dir.glob("evaluations/*.json"))]
    best = job.run_dir / "checkpoints" / BEST
    return {
        "evaluations": [{**row, "seconds": None} for row in entries],
        "best": os.readlink(best),
        "weights": hashlib.sha256((best / "model.ckpt").read_bytes()).hexdigest(),
        "last": max(path.name for path in best.parent.glob("step-*")),
    }


def command_figures(job: Job, directory: Path) -> Any:
    """What `python -m model.evaluate` finds in the best checkpoint, on one process."""
    arguments = yaml.safe_load(job.file.read_text())["args"]
    arguments["pretrained"] = str(job.run_dir / "checkpoints" / BEST)
    given = [
        f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in arguments.items()
    ]
    command = [sys.executable, "-m", "model.evaluate", "--device_target=CPU", *given]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True)
    return json.loads(next(directory.glob("outputs/*/evaluation.json")).read_text())


@pytest.mark.slow
def test_a_run_killed_in_an_evaluation_decides_like_a_calm_one(
    job_file: Path, tmp_path: Path
) -> None:
    """Same figures, best and early end; `best` outlives retention; the command finds the same."""
    calm = Job(job_file, tmp_path / "calm")
    done = calm.run()
    assert done.code == 0, done.text
    assert "training ended early" in done.text and "coco eval result" in done.text
    found = outcome(calm)
    assert found["best"] < found["last"] == f"step-{found['evaluations'][-1]['step']:08d}"
    assert len(list((calm.run_dir / "checkpoints").iterdir())) == 3
    listed = muster("checkpoints", calm.run_dir, "--json").json()["checkpoints"]
    assert [Path(row["path"]).name for row in listed if row["best"]] == [found["best"]]
    [best] = [row for row in found["evaluations"] if f"step-{row['step']:08d}" == found["best"]]
    assert command_figures(calm, tmp_path) == best["figures"]
    broken = Job(job_file, tmp_path / "broken")
    fault = f"kill-rank:{random.SystemRandom().randrange(2)}@phase:evaluate"
    done = broken.run("--drill", fault)
    assert done.code == 0, f"{fault}\n{done.text}"
    assert broken.kinds().count("attempt") == 2, f"{fault}\n{done.text}"
    assert outcome(broken) == found, f"{fault}\n{done.text}"
