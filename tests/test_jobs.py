"""The job files of the repository: valid, accepted by the trainer, equal to the original's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from model.arguments import parse
from orchestrator.cli.plan import plan
from orchestrator.found import find_nodes
from orchestrator.jobfile import load
from orchestrator.spec import DeviceKind, JobSpec
from orchestrator.support import not_built

JOBS = sorted((Path(__file__).parent.parent / "jobs").glob("*.yaml"))
ASCEND = {
    "lr": "0.001",
    "loss_scale": "1024",
    "weight_decay": "0.016",
    "T_max": "320",
    "max_epoch": "320",
    "warmup_epochs": "4",
    "lr_scheduler": "cosine_annealing",
}
# The scripts' lr 0.1, weight_decay 0.0005 and backward pass as this trainer has to be told them.
GPU = {
    "lr": "0.00009765625",
    "weight_decay": "0.512",
    "loss_scale": "1",
    "T_max": "320",
    "max_epoch": "320",
    "warmup_epochs": "4",
    "training_shape": "416",
    "lr_scheduler": "cosine_annealing",
}
PATHS = {
    "data_dir": "./dataset/coco2017",
    "pretrained_backbone": "./backbone_res2net50.ckpt",
}
ORIGINAL = {
    "1p_ascend": (ASCEND, "0", DeviceKind.ASCEND, 1),
    "8p_ascend": (ASCEND, "1", DeviceKind.ASCEND, 8),
    "1p_gpu": (GPU, "0", DeviceKind.GPU, 1),
    "8p_gpu": (GPU, "1", DeviceKind.GPU, 8),
    "1p_cpu": (ASCEND, "0", DeviceKind.CPU, 1),
}


def job(name: str) -> JobSpec:
    """One of the jobs that stand for a script of the original."""
    return load(job_file(name))


def job_file(name: str) -> Path:
    """The file of one of these jobs."""
    return next(file for file in JOBS if file.stem == f"yolov3_res2net50_{name}")


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_every_job_is_valid_down_to_the_trainers_arguments(file: Path) -> None:
    """The file loads, and what its programs are given they accept without a problem."""
    spec = load(file)
    config = parse(spec.argv_args)
    config.architecture(config.num_classes or 80)
    if spec.then is not None:
        parse(spec.then.argv_args)


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_every_job_opens_with_its_command_and_what_to_expect(file: Path) -> None:
    """First comes the command, then a comment; jobs for other devices say they were never run."""
    lines = file.read_text().splitlines()
    assert lines[0].startswith(f"# muster run jobs/{file.name}")
    head = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    assert len(head.splitlines()) > 3
    if load(file).resources.device is not DeviceKind.CPU:
        assert "never run on hardware" in head


@pytest.mark.parametrize("name", ORIGINAL)
def test_arguments_equal_those_of_the_original_script(name: str) -> None:
    """Every argument of the script and no other; the batch size may be said though it is 32."""
    script, distributed, device, ranks = ORIGINAL[name]
    spec = job(name)
    given = dict(spec.args)
    assert given.pop("per_batch_size", "32") == "32"
    assert given == {**PATHS, "is_distributed": distributed, **script}
    assert (spec.resources.device, spec.resources.ranks) == (device, ranks)


def test_the_gpu_rates_are_the_scripts_steps() -> None:
    """The step of lr 0.1 and decay 0.0005 with gradients divided by 1024, in full.

    Its 16-bit backward pass is not scaled there, so it is not here.
    """
    config = parse(job("8p_gpu").argv_args)
    assert config.lr == 0.1 / 1024
    assert config.weight_decay == 0.0005 * 1024
    assert config.loss_scale == 1
    gradient, weight = 3.0, 0.7
    script = 0.1 * (gradient + 0.0005 * 1024 * weight) / 1024
    assert config.lr * (gradient + config.weight_decay * weight) == pytest.approx(script, rel=1e-12)


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_cpu_jobs_can_be_run_as_they_are(file: Path) -> None:
    """No field of a job for CPUs is one that nothing acts on yet."""
    spec = load(file)
    if spec.resources.device is DeviceKind.CPU:
        assert not_built(spec) == ()


@pytest.mark.parametrize("name", ORIGINAL)
def test_every_job_can_be_planned_on_any_machine(name: str) -> None:
    """Devices that cannot be looked for are assumed, and the plan says so."""
    _, _, device, ranks = ORIGINAL[name]
    if device is DeviceKind.GPU and not find_nodes(device, {}).missing:
        pytest.skip("this machine has an NVIDIA driver: its own GPUs are planned with")
    done = CliRunner().invoke(plan, [str(job_file(name)), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [rank["device"] for rank in document["ranks"]] == [
        f"{device.value}:{index}" for index in range(ranks)
    ]
    assert document["assumed_devices"] is (device is not DeviceKind.CPU)
    assert any("assumed" in note for note in document["notes"]) is document["assumed_devices"]
    for index, rank in enumerate(document["ranks"]):
        assert rank["env"]["DEVICE_ID"] == str(index)
        if device.visible_variable:
            shown = ",".join(map(str, range(ranks)))
            assert rank["env"][device.visible_variable] == shown


@pytest.mark.parametrize("name", ["ascend", "gpu", "cpu"])
def test_evaluation_jobs_equal_the_original_script(name: str) -> None:
    """The checkpoint, the data and the side of the input are all that it gives."""
    spec = job(f"eval_{name}")
    assert dict(spec.args) == {
        "data_dir": "./dataset/coco2017", "pretrained": "./yolov3.ckpt", "testing_shape": "416",
    }  # fmt: skip
    assert (spec.module, spec.resources.ranks) == ("model.evaluate", 1)
