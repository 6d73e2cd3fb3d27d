"""What becomes of NVML's answers: reports of nodes made by hand, never of hardware."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.device import DeviceKind, Fabric
from cluster.gpu.ask import GPU_QUESTIONS
from cluster.gpu.assemble import assemble, bus_id
from cluster.gpu.kernel_log import parse_xids
from cluster.gpu.report import Driver, GpuNodeReport, devices_of
from cluster.gpu.topology import NVLINK, PCIE, describe
from cluster.gpu.transcript import parse
from cluster.gpu.values import GpuProcess
from cluster.gpu.visible import visible
from cluster.measured import Memory, Unmeasured
from tests.gpus import (
    DGX1,
    GB,
    NOT_SUPPORTED,
    bare,
    bus,
    dgx1,
    lines,
    nvswitch_box,
    pairs_box,
    report,
    transcript,
    uuid,
    well,
)

LOST = {"error": "GpuIsLost", "text": "GPU is lost"}


def withheld(found: GpuNodeReport) -> dict[int, str]:
    """Why GPUs may not be used, by index."""
    return {one.gpu.index: one.withheld for one in found.devices if one.withheld}


def test_eight_gpus_on_switches() -> None:
    """All may be used, any set of them will do, and every value is there."""
    found = nvswitch_box()
    assert (found.state, found.driver, found.cuda) == (Driver.ANSWERS, "580.65.06", "13.0")
    assert withheld(found) == {} and found.problems == ()
    assert [one.concerns for one in found.devices] == [()] * 8
    devices, held = devices_of(found, "here")
    assert held == {} and {device.fabric for device in devices} == {Fabric.MESH}
    assert [device.index for device in devices] == list(range(8))
    first = devices[0]
    assert (first.kind, first.key) == (DeviceKind.GPU, "here/gpu:0")
    assert (first.label, first.numa, first.uuid) == ("NVIDIA H200", 0, uuid(0))
    assert first.near == tuple((other, 18 * NVLINK) for other in range(1, 8))
    assert found.devices[0].gpu.memory == Memory(0, 141 * 1024)
    assert found.devices[0].gpu.bus_id == "0000:1a:00.0"


def test_bridges_make_pairs() -> None:
    """GPUs that a bridge joins are closer than any that PCIe joins, and near PCIe beats far."""
    near = [dict(one.gpu.near) for one in pairs_box().devices]
    assert near[0][1] == near[1][0] == near[2][3] == 4 * NVLINK
    assert near[0][1] > near[0][2] > near[0][3]
    assert devices_of(pairs_box(), "n")[0][0].fabric is Fabric.LINKS


def test_a_cube_mesh() -> None:
    """Each pair has the links that the machine has; the rest goes over PCIe; it is symmetric."""
    found = dgx1()
    near = [dict(one.gpu.near) for one in found.devices]
    for one, other in combinations(range(8), 2):
        word = DGX1[one][other]
        expected = int(word) * NVLINK if word.isdigit() else PCIE[50][0]
        assert near[one][other] == near[other][one] == expected
    assert found.fabric is Fabric.LINKS
    assert describe(near[0][3]) == "2 NVLinks" and describe(near[0][5]) == "SYS"


def test_a_gpu_in_parts_is_withheld() -> None:
    """MIG keeps the one GPU away and says how to end it; one that waits for it is told."""
    found = report([well(0), well(1, mig=[1, 1]), well(2, mig=[0, 1])])
    assert list(withheld(found)) == [1]
    assert "`nvidia-smi -i 1 -mig 0`" in withheld(found)[1]
    assert any("MIG" in text for text in found.devices[2].concerns)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"uncorrected": 2}, "2 uncorrected ECC errors since"),
        ({"retirement_pending": 1}, "pages wait to be retired"),
        ({"remapped": [0, 9, 0, 1]}, "have the GPU replaced"),
        ({"recovery": 2}, "a restart of the node"),
        ({"recovery": 99}, "action 99"),
        ({"compute_mode": 2}, "compute mode prohibited"),
        ({"memory": LOST}, "it fell off the bus"),
        ({"temperature": LOST}, "it fell off the bus"),
        ({"uuid": {"error": "Unknown", "text": "Unknown Error"}}, "Unknown Error"),
    ],
)
def test_a_fault_keeps_one_gpu_away(changes: dict[str, Any], reason: str) -> None:
    """The GPU with the fault is not to be used, and says why; the other one is."""
    found = withheld(report([well(0), well(1, **changes)]))
    assert list(found) == [1] and reason in found[1]


def test_a_gpu_without_a_handle() -> None:
    """It is listed, withheld with NVML's reason, and nothing of it is measured."""
    found = report([well(0), {"handle": {"error": "NoPermission", "text": "Permission"}}])
    assert "may not open it" in withheld(found)[1]
    assert isinstance(found.devices[1].gpu.memory, Unmeasured)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"uncorrected_ever": 3}, "3 uncorrected ECC errors in its life"),
        ({"retired": 4}, "4 pages retired"),
        ({"remapped": [1, 2, 0, 0]}, "2 rows remapped after uncorrectable"),
        ({"remapped": [0, 1, 1, 0]}, "rows of its memory wait to be remapped"),
        ({"slowed_by": 0x48}, "slowed down by a hardware slowdown, the hardware for heat"),
        ({"fabric": [2, 0]}, "fabric in progress"),
        ({"fabric": [3, 999]}, "fabric failed"),
        ({"memory": [40 * GB, 141 * GB]}, "40960 MB in use by nobody who can be seen"),
        ({"memory": NOT_SUPPORTED}, "memory unknown: NVML: Not Supported"),
        ({"compute": NOT_SUPPORTED}, "processes unknown: NVML: Not Supported"),
    ],
)
def test_what_may_hinder_is_told(changes: dict[str, Any], told: str) -> None:
    """It keeps nobody away, and stands among the concerns."""
    found = report([well(0, **changes)])
    assert withheld(found) == {}
    assert any(told in text for text in found.devices[0].concerns)


def test_idle_and_capped_gpus_are_not_called_slow() -> None:
    """Idling, and the power cap of a busy GPU, are no concern."""
    assert report([well(0, slowed_by=0x5)]).devices[0].concerns == ()


def test_missing_features_are_not_measured() -> None:
    """What NVML does not offer is neither zero nor a fault: a plain GPU may be used."""
    found = report([bare(0, compute=[]), bare(1)], {(0, 1): (NOT_SUPPORTED, NOT_SUPPORTED)})
    assert withheld(found) == {}
    gpu = found.devices[0].gpu
    offered = {"index", "name", "uuid", "bus_id", "numa", "processes", "near", "xid"}
    for name in set(vars(gpu)) - offered - {"failures", "notes"}:
        assert getattr(gpu, name) == Unmeasured("NVML: Not Supported"), name
    assert gpu.processes == () and gpu.near == ()
    assert isinstance(found.devices[1].gpu.processes, Unmeasured)
    assert found.fabric is Fabric.UNKNOWN


def test_a_foreign_process_holds_a_gpu() -> None:
    """Who computes or draws is named, each once; the GPU is in use."""
    gpus = [
        well(0, compute=[[4711, 2 * GB]], graphics=[[4711, GB], [99, None]]),
        well(1, compute=NOT_SUPPORTED, graphics=[[50, GB]]),
    ]
    found = report(gpus, names={4711: "python", 99: "Xorg"})
    assert withheld(found) == {
        0: "in use by Xorg (pid 99), python (pid 4711)",
        1: "in use by graphics (pid 50)",
    }
    xorg, python = found.devices[0].gpu.processes  # type: ignore[misc]
    assert python == GpuProcess(4711, "python", "compute", 2048)
    assert isinstance(xorg.memory, Unmeasured)


def test_fewer_links_than_others() -> None:
    """A GPU with fewer active links than others of its model says so."""
    found = report([well(0), well(1, nvlinks=[[True, 2, None]] * 17 + [[False, None, None]])])
    assert found.devices[0].concerns == ()
    assert found.devices[1].concerns == ("17 NVLinks are active, 18 on others of its model",)


def test_a_switch_that_refuses_a_way() -> None:
    """Links to a switch join two GPUs only if NVML does not deny the way between them."""
    found = report([well(0), well(1)], {(0, 1): (50, 5)})
    assert found.devices[0].gpu.near == ((1, PCIE[50][0]),)


def test_errors_of_the_kernel_log() -> None:
    """An Xid that speaks of the GPU is a concern; one of a program is not; unread is no zero."""
    log = (
        "4,1,2,-;NVRM: Xid (PCI:0000:1a:00): 79, pid=1, GPU has fallen off the bus.\n"
        "4,1,2,-;NVRM: Xid (PCI:0000:1a:00): 79, pid=1\n4,1,2,-;NVRM: Xid (0000:1B:00): 31, Ch 8\n"
    )
    found = report([well(0), well(1)], xid=parse_xids(log))
    assert [one.gpu.xid for one in found.devices] == [(79,), (31,)]
    assert "79 (the GPU fell off the bus)" in found.devices[0].concerns[0]
    assert found.devices[1].concerns == () and withheld(found) == {}
    unread = report([well(0)], xid=Unmeasured("/dev/kmsg: Operation not permitted"))
    assert unread.devices[0].gpu.xid == Unmeasured("/dev/kmsg: Operation not permitted")


@pytest.mark.parametrize(
    ("kind", "state", "why"),
    [
        ("LibraryNotFound", Driver.ABSENT, "no NVIDIA driver here (libnvidia-ml.so.1 was not"),
        ("DriverNotLoaded", Driver.ABSENT, "is not loaded"),
        ("NoBinding", Driver.ABSENT, "nvidia-ml-py is not installed"),
        ("LibRmVersionMismatch", Driver.FAILED, "restart the node"),
        ("Unknown", Driver.FAILED, "could not be measured"),
    ],
)
def test_a_driver_that_refuses(kind: str, state: Driver, why: str) -> None:
    """To have no driver is no failure; to have one that cannot be asked is."""
    line = json.dumps({"of": [], "asked": "init", "error": kind, "text": "?"})
    found = assemble(transcript([line]), {})
    assert found.state is state and why in found.why and found.devices == ()


def test_no_gpu_at_all() -> None:
    """A driver without a GPU says so."""
    assert report([]).why == "the NVIDIA driver lists no GPU"


def test_silence_in_the_middle() -> None:
    """What was said before a hang is kept; a GPU that was not asked in full is not to be used."""
    said = lines([well(0), well(1)])
    until = next(i for i, line in enumerate(said) if '"of": [1], "asked": "memory"' in line)
    found = assemble(transcript(said[:until], "no answer within 5 s"), {})
    assert found.devices[0].withheld == ""
    assert found.devices[1].gpu.uuid == uuid(1)
    assert "no answer within 5 s, after bus_id of GPU 1" in found.devices[1].withheld
    assert any("no answer within 5 s" in problem for problem in found.problems)
    silent = assemble(transcript([], "no answer within 5 s"), {})
    assert silent.failed and "no answer within 5 s" in silent.why


def test_lines_of_others_are_left() -> None:
    """What a library prints in between does no harm."""
    said = ["warning", "[]", '{"of": 3}', *lines([well(0)]), '{"of": [0], "asked": "na']
    assert withheld(assemble(transcript(said), {})) == {}


@pytest.mark.parametrize(
    ("text", "left", "told"),
    [
        ("1,0", {0, 1}, ""),
        (f"{uuid(2)},1", {1, 2}, ""),
        ("GPU-00000001", {1}, ""),
        ("", set(), ""),
        ("-1", set(), ""),
        ("0,7,1", {0}, "'7' names no GPU here"),
        ("1,x", {1}, "names no GPU"),
        ("0,0,1", {0}, "twice"),
        ("GPU-0000000", set(), "begins the uuids of GPUs 0, 1, 2"),
        ("MIG-5", set(), "muster gives out whole ones"),
    ],
)
def test_visible_devices_are_honoured(text: str, left: set[int], told: str) -> None:
    """What CUDA_VISIBLE_DEVICES leaves out is withheld with that reason; mistakes are told."""
    environment = {"CUDA_VISIBLE_DEVICES": text}
    found = report([well(index) for index in range(3)], environment=environment)
    assert set(withheld(found)) == {0, 1, 2} - left
    assert set(withheld(found).values()) <= {"left out by CUDA_VISIBLE_DEVICES"}
    assert (told in " ".join(found.problems)) and bool(told) == bool(found.problems)


def test_numbers_of_unlike_gpus() -> None:
    """CUDA numbers GPUs of several models by speed unless told otherwise; that is said."""
    gpus = [well(0), well(1, name="NVIDIA T4")]
    text = {"CUDA_VISIBLE_DEVICES": "1"}
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in report(gpus, environment=text).problems[0]
    by_bus = {**text, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert report(gpus, environment=by_bus).problems == ()


def test_the_document() -> None:
    """All of it is JSON; what was not measured says why."""
    document = report([bare(0), well(1, mig=[1, 1])]).to_document()
    assert json.loads(json.dumps(document)) == document
    first, second = document["devices"]
    assert first["memory"] == {"unmeasured": "NVML: Not Supported"} and first["withheld"] is None
    assert second["usable"] is False and "MIG" in second["withheld"]
    assert document["state"] == "answers" and second["near"] == {"0": 1}


def test_bus_ids_are_written_as_the_kernel_does() -> None:
    """Four digits of domain where they suffice, in lower case; nothing else is taken."""
    assert bus_id("00000000:3B:00.0") == "0000:3b:00.0"
    assert bus_id("00010000:3B:00.0") == "10000:3b:00.0"
    for wrong in ("", "3B:00.0", "00000000:3B:00.0\n", "../../etc"):
        with pytest.raises(ValueError, match="not a PCI bus id"):
            bus_id(wrong)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(asked=st.sampled_from([*GPU_QUESTIONS, "handle", "count", "driver", "cuda"]), value=JSON)
def test_an_answer_that_makes_no_sense(asked: str, value: object) -> None:
    """Whatever a question is answered with, the report is made, and is JSON."""
    of = [] if asked in ("count", "driver", "cuda") else [0]
    said = [*lines([well(0), well(1)]), json.dumps({"of": of, "asked": asked, "value": value})]
    json.dumps(assemble(transcript(said), {}).to_document())


@given(st.text(), st.text(max_size=5))
def test_any_text_is_read(text: str, failure: str) -> None:
    """No output of the asking program, and no log, raises."""
    assemble(parse(text, failure), {})
    parse_xids(text)


@given(st.lists(st.sampled_from(["0", "1", "7", "-1", "x", "", " 1", uuid(0), "GPU-"]), max_size=5))
def test_a_list_of_visible_devices_names_gpus_that_are_there(words: list[str]) -> None:
    """Never one that is not there; nothing is left out without a reason."""
    gpus = {0: uuid(0), 1: uuid(1)}
    chosen, problems = visible({"CUDA_VISIBLE_DEVICES": ",".join(words)}, gpus, alike=True)
    assert chosen is not None and chosen <= set(gpus)
    assert problems or len(chosen) == len(words) or not chosen


def test_addresses_of_the_helpers_agree() -> None:
    """The hand-made nodes use what the kernel would."""
    assert bus_id(bus(3)) == "0000:1d:00.0"
