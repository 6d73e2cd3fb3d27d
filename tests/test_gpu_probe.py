"""Asking NVML through the real binding and real processes; the library is a fake, built here."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from cluster.device import DeviceKind, Fabric
from cluster.gpu import ask as ask_program
from cluster.gpu.kernel_log import read_xids
from cluster.gpu.probe import probe
from cluster.gpu.report import Driver, GpuNodeReport, devices_of
from cluster.gpu.topology import NVLINK
from cluster.gpu.values import NvLinks, RemappedRows, Switch
from cluster.measured import Memory, Unmeasured
from orchestrator.cli import gpu_table, main
from orchestrator.found import find_nodes
from tests.gpus import nvswitch_box, uuid
from tests.runs import poll

SOURCE = Path(__file__).parent / "fake_nvml.c"
JOB = Path(__file__).resolve().parent.parent / "jobs" / "yolov3_res2net50_8p_gpu.yaml"
GCC = shutil.which("gcc")
PATIENCE = 120.0

with_gcc = pytest.mark.skipif(GCC is None, reason="no gcc to build the fake library with")
Fake = Callable[[str], None]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1 that is none of NVIDIA's."""
    folder = tmp_path_factory.mktemp("nvml")
    out = str(folder / "libnvidia-ml.so.1")
    flags = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-O1"]
    subprocess.run([str(GCC), *flags, "-o", out, str(SOURCE)], check=True)
    return folder


@pytest.fixture
def fake(library: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Make every process from here on load the fake library, with a mishap or none ("")."""

    def use(mishap: str) -> None:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
        monkeypatch.setenv("FAKE_NVML", mishap)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return use


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root whose sysfs, process and kernel log belong to the fake GPUs."""
    for bus, node in (("3b", "1"), ("3c", "-1")):
        folder = tmp_path / "sys/bus/pci/devices" / f"0000:{bus}:00.0"
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text(f"{node}\n")
    log = "NVRM: Xid (PCI:0000:3b:00): 74, NVLink"
    for name, text in (("proc/1/comm", "trainer\n"), ("dev/kmsg", log)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def ask(root: Path = Path("/")) -> GpuNodeReport:
    """Probe with more time than any machine needs."""
    return probe({}, budget=PATIENCE, root=root)


@with_gcc
def test_the_way_through_the_binding(fake: Fake, machine: Path) -> None:
    """Structures, texts and numbers arrive; what the library lacks or denies is not measured."""
    fake("")
    found = ask(machine)
    assert (found.state, found.driver, found.cuda) == (Driver.ANSWERS, "535.1.fake", "12.2")
    first, second = (one.gpu for one in found.devices)
    assert (first.name, first.uuid, first.bus_id) == ("Fake GPU", "GPU-0000", "0000:3b:00.0")
    assert first.memory == Memory(1024, 16 * 1024)
    assert first.ecc == Unmeasured("NVML: Not Supported")
    assert first.persistence == Unmeasured("NVML: Function Not Found")
    assert (first.numa, first.temperature, first.recovery, first.xid) == (1, 40, "", (74,))
    assert first.remapped_rows == RemappedRows(3, 0, pending=False, failed=False)
    assert (first.retired_pages, first.mig) == (2, Switch(on=False, after_reset=False))
    assert first.nvlinks == NvLinks(2, 2) and first.near == ((1, 2 * NVLINK),)
    assert isinstance(second.numa, Unmeasured)
    assert found.devices[0].withheld == ""
    assert found.devices[1].withheld == "in use by trainer (pid 1)"
    devices, _ = devices_of(found, "n")
    assert {device.fabric for device in devices} == {Fabric.MESH}


@with_gcc
@pytest.mark.parametrize(
    ("mishap", "why"),
    [
        ("hang-init", "GPUs could not be measured: NVML gave no answer within 5 s"),
        ("hang-uuid", "NVML gave no answer within 5 s"),
    ],
)
def test_a_driver_that_hangs(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mishap: str, why: str
) -> None:
    """The probe returns, says so, keeps what was said before, and leaves no process."""
    fake(mishap)
    monkeypatch.setenv("FAKE_NVML_PID", str(tmp_path / "pid"))
    found = probe({}, budget=5)
    assert why in " ".join((found.why, *found.problems))
    if mishap == "hang-uuid":
        assert found.devices[0].gpu.uuid == "GPU-0000"
        assert "after name of GPU 1" in found.devices[1].withheld
    poll(lambda: not Path("/proc", (tmp_path / "pid").read_text()).exists())


@with_gcc
def test_a_question_outlives_nobody(fake: Fake) -> None:
    """A program that asks, and whose asker was killed, ends by itself though NVML hangs."""
    fake("hang-init")
    done = subprocess.run(
        [sys.executable, "-P", ask_program.__file__, "1"], check=False, timeout=PATIENCE
    )
    assert done.returncode == -signal.SIGALRM


@with_gcc
@pytest.mark.parametrize(
    ("mishap", "state", "why"),
    [
        ("not-loaded", Driver.ABSENT, "the NVIDIA driver is not loaded"),
        ("crash", Driver.FAILED, "GPUs could not be measured: asking NVML: killed by signal 6"),
    ],
)
def test_a_driver_that_fails(fake: Fake, mishap: str, state: Driver, why: str) -> None:
    """Neither an error of the library nor its crash reaches muster."""
    fake(mishap)
    found = ask()
    assert found.state is state and why in found.why


@with_gcc
def test_a_gpu_that_is_lost(fake: Fake) -> None:
    """It is listed and withheld; the other one is asked all the same."""
    fake("lost")
    found = ask()
    assert "fell off the bus" in found.devices[1].withheld
    assert found.devices[0].gpu.name == "Fake GPU" and found.devices[0].withheld == ""


def _has_driver() -> bool:
    return probe({}, budget=PATIENCE).state is not Driver.ABSENT


def test_a_machine_without_a_driver() -> None:
    """That is no error, and is said in one line."""
    if _has_driver():
        pytest.skip("this machine has an NVIDIA driver")
    found = ask()
    assert found.why == "no NVIDIA driver here (libnvidia-ml.so.1 was not found)"
    assert find_nodes(DeviceKind.GPU, {}).missing == found.why
    done = muster("devices")
    assert done.exit_code == 0
    assert f"No GPUs: {found.why}" in done.stdout
    assert json.loads(muster("devices", "--json").stdout)["gpus"]["state"] == "absent"


def muster(*arguments: str) -> Result:
    """A command with no tool of Ascend's on PATH."""
    return CliRunner().invoke(main, arguments, env={"PATH": "/usr/bin:/bin"})


@with_gcc
def test_gpus_in_the_table(fake: Fake) -> None:
    """A row a GPU, how they are joined, what keeps one away; in the document beside the rest."""
    fake("mig")
    done = muster("devices")
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines() if "Fake GPU" in line]
    assert [row[0] for row in rows] == ["gpu:0", "gpu:1"]
    assert "joined: every pair by 2 NVLinks" in done.stdout
    assert "not to be used: gpu:1: in MIG mode" in done.stdout
    document = json.loads(muster("devices", "--json").stdout)
    assert [gpu["uuid"] for gpu in document["gpus"]["devices"]] == ["GPU-0000", "GPU-1111"]
    assert {"tool", "devices", "cpus", "answered"} <= set(document)


@pytest.mark.parametrize("width", [80, 128, 160, 200])
def test_no_cell_is_cut(width: int) -> None:
    """Whatever the width of the terminal, names are whole or folded, never shortened."""
    console = Console(width=width, record=True, file=io.StringIO())
    gpu_table.show(console, nvswitch_box())
    text = console.export_text()
    assert text.count("device ") == (1 if width == 200 else 2) and "…" not in text
    for word in ("NVIDIA H200", uuid(7), "0000:21:00.0", "every pair by 18 NVLinks"):
        assert word in text


@with_gcc
def test_a_crashing_driver_is_a_failed_command(fake: Fake) -> None:
    """`muster devices` ends with 1 where there may be GPUs that could not be asked."""
    fake("crash")
    done = muster("devices")
    assert done.exit_code == 1 and "No GPUs: GPUs could not be measured" in done.stdout


@with_gcc
def test_a_plan_uses_the_gpus_that_are_well(fake: Fake) -> None:
    """Devices that were found, not assumed ones; a GPU in MIG mode is left out and named."""
    fake("mig")
    one = ("--set", "resources.ranks=1", "--set", "resources.ranks_per_node=1")
    done = muster("plan", str(JOB), *one, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["assumed_devices"] is False
    assert document["ranks"][0]["device"] == "gpu:0"
    environment = document["ranks"][0]["env"]
    assert environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert any("not used: local/gpu:1: in MIG mode" in note for note in document["notes"])
    refused = muster("plan", str(JOB))
    assert refused.exit_code == 1 and "-mig 0" in refused.stderr


@pytest.mark.parametrize("listed", [7, None, "GPU", [7], [[]], [{"pid": 7}]])
def test_processes_that_are_none(
    listed: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the program that asks lists no processes as such, nobody's name is looked for."""
    said = [([], "init", True), ([], "count", 1), ([0], "bus_id", "00000000:19:00.0")]
    lines = [*said, ([0], "compute", listed), ([], "end", True)]
    told = [json.dumps(dict(zip(("of", "asked", "value"), line, strict=True))) for line in lines]
    (tmp_path / "ask.py").write_text(f"print({chr(10).join(told)!r})")
    monkeypatch.setattr(ask_program, "__file__", str(tmp_path / "ask.py"))
    (gpu,) = probe({}, root=tmp_path).devices
    assert isinstance(gpu.gpu.processes, Unmeasured) and gpu.withheld


def test_a_log_that_cannot_be_read(tmp_path: Path) -> None:
    """No log is not an empty one; what overflows or never ends is no trouble."""
    assert isinstance(read_xids(tmp_path), Unmeasured)
    (tmp_path / "dev").mkdir()
    os.mkfifo(tmp_path / "dev/kmsg")
    assert read_xids(tmp_path) == {}
