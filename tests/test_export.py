"""Export: what is written computes what the checkpoint computes, or nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from model import export_formats
from model.arguments import parse
from model.checkpoint import STATE, TrainingState, write_json
from model.coco_names import coco_categories
from model.config import Config, ConfigError
from model.detector import mindir_detector, open_checkpoint, run_cell
from model.export import compare, main, sample, target_of
from model.exported import ModelFileError, description_of, read_description
from tests.tiny_network import (
    PARAMETERS,
    SIDE,
    Tiny,
    annotations,
    built,
    export_to,
    save_checkpoint,
)

PROGRAM = """
import sys
import mindspore as ms, numpy as np
from mindspore import Tensor, nn
cell = nn.GraphCell(ms.load(sys.argv[1]))
heads = cell(Tensor.from_numpy(np.load(sys.argv[2])))
np.savez(sys.argv[3], *[head.asnumpy() for head in heads])
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """What the tests share."""
    return built(tmp_path_factory)


@pytest.fixture(scope="module")
def data(tiny: Tiny) -> Path:
    """A small data set."""
    return tiny.data


@pytest.fixture(scope="module")
def checkpoint(tiny: Tiny) -> Path:
    """A checkpoint in the original's form."""
    return tiny.checkpoint


@pytest.fixture(scope="module")
def mindir(tiny: Tiny) -> Path:
    """Its MindIR."""
    return tiny.mindir


def config(checkpoint: Path, data: Path, *arguments: str) -> Config:
    """The parameters of an export."""
    common = (f"--ckpt_file={checkpoint}", f"--annFile={annotations(data)}")
    return parse([*common, *PARAMETERS, *arguments])


def test_a_new_process_gives_the_same_outputs(
    data: Path, checkpoint: Path, mindir: Path, tmp_path: Path
) -> None:
    """MindSpore alone, without this package, computes the checkpoint's heads to the last bit."""
    settings = config(checkpoint, data, f"--img_path={data / 'val2017'}")
    images = sample(settings)
    network, _ = open_checkpoint(checkpoint, settings)
    np.save(tmp_path / "in.npy", images)
    argv = [sys.executable, "-c", PROGRAM, mindir, tmp_path / "in.npy", tmp_path / "out.npz"]
    subprocess.run([str(word) for word in argv], check=True, cwd=tmp_path)
    with np.load(tmp_path / "out.npz") as found:
        for ours, name in zip(run_cell(network)(images), found.files, strict=True):
            np.testing.assert_array_equal(ours, found[name])


def test_the_description_spares_guesses(data: Path, mindir: Path) -> None:
    """Side, batch, classes, anchors and the file's own sha256 stand beside it."""
    about = read_description(mindir)
    assert about is not None
    assert (about.side, about.batch, about.decoded) == (SIDE, 1, True)
    assert about.anchors == parse([]).anchors
    known = json.loads(annotations(data).read_text())["categories"]
    assert about.categories.names == tuple(row["name"] for row in known)
    assert mindir.stat().st_mode & 0o777 == 0o644
    assert {path.name for path in mindir.parent.iterdir()} == {"net.mindir", "net.mindir.json"}


def test_raw_heads_decode_to_the_same_boxes(
    data: Path, checkpoint: Path, mindir: Path, tmp_path: Path
) -> None:
    """Without the decoding inside, inference adds it."""
    result = export_to(tmp_path / "raw.mindir", checkpoint, data, "--keep_detect=0")
    assert result.difference == 0.0
    images = sample(config(checkpoint, data))
    found = [mindir_detector(file, Config()).network(images) for file in (mindir, result.file)]
    for decoded, raw in zip(*found, strict=True):
        np.testing.assert_allclose(raw, decoded, rtol=1e-6, atol=1e-7)


def test_prefix_and_table_of_a_step_directory(data: Path, tmp_path: Path) -> None:
    """A step directory has parameters without prefix and its own table, which is the one used."""
    folder = tmp_path / "step-00000040"
    folder.mkdir()
    save_checkpoint(folder / "model.ckpt", data, prefix="")
    known = json.loads(annotations(data).read_text())["categories"]
    rows = [{"index": i, **row} for i, row in enumerate(reversed(known))]
    state = {row.name: 0 for row in fields(TrainingState)}
    write_json(folder / STATE, {**state, "categories": rows})
    _, about = open_checkpoint(folder, parse(PARAMETERS))
    assert about.categories.names == tuple(row["name"] for row in reversed(known))


def test_onnx_is_written(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """It is run by onnxruntime where that is installed; else it is said that nobody has run it."""
    result = export_to(tmp_path / "net", checkpoint, data, "--file_format=ONNX", "--batch_size=2")
    assert result.file == tmp_path / "net.onnx"
    assert result.about.batch == 2
    assert result.difference is None or result.difference < 1e-5
    assert result.by in ("onnxruntime", "onnxruntime is not installed")
    with pytest.raises(ModelFileError, match="only a MindIR"):
        mindir_detector(result.file, Config())


def test_a_wrong_file_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    """What computes something else never appears; what stood there before stays."""
    (tmp_path / "net.mindir").write_text("older")
    wrong = [np.zeros((1, SIDE // n, SIDE // n, 3, 9), np.float32) for n in (32, 16, 8)]
    monkeypatch.setattr(export_formats, "write", lambda _, __, file, ___: file.write_text("wrong"))
    monkeypatch.setattr(export_formats, "runner", lambda *_: (lambda _: wrong, "mindspore"))
    words = [f"--ckpt_file={checkpoint}", f"--annFile={annotations(data)}", *PARAMETERS]
    assert main([*words, f"--file_name={tmp_path / 'net'}"]) == 1
    assert "differ by up to" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["net.mindir"]
    assert (tmp_path / "net.mindir").read_text() == "older"


def test_comparison_knows_shapes_and_numbers(tmp_path: Path) -> None:
    """Rounding passes with its size told; other shapes and not-a-number do not."""
    heads = [np.ones((1, 2), np.float32)]
    assert compare(heads, [heads[0] + np.float32(1e-6)], tmp_path) == pytest.approx(1e-6, rel=0.1)
    for wrong in (np.ones((2, 1), np.float32), np.full((1, 2), np.nan, np.float32)):
        with pytest.raises(ModelFileError, match="not kept") as refused:
            compare(heads, [wrong], tmp_path)
        assert refused.value.exit_code == 1


def test_a_truncated_file_is_named(data: Path, mindir: Path, tmp_path: Path) -> None:
    """By its size where the description is there, by MindSpore's reader where it is not."""
    cut = tmp_path / "cut.mindir"
    cut.write_bytes(mindir.read_bytes()[:-1000])
    settings = parse([f"--annFile={annotations(data)}", *PARAMETERS])
    with pytest.raises(ModelFileError, match="is no whole MindIR"):
        mindir_detector(cut, settings)
    description_of(cut).write_bytes(description_of(mindir).read_bytes())
    with pytest.raises(ModelFileError, match=r"bytes, cut.mindir.json says .* cut short"):
        mindir_detector(cut, settings)
    cut.write_bytes(mindir.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelFileError, match="another sha256"):
        read_description(cut)
    description_of(cut).write_text("{}")
    with pytest.raises(ModelFileError, match="does not describe"):
        read_description(cut)
    with pytest.raises(ModelFileError, match="no such file") as missing:
        read_description(tmp_path / "none.mindir")
    assert missing.value.exit_code == 66


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 64, "--ckpt_file: give"),
        (("--ckpt_file=none.ckpt",), 64, "none.ckpt: no such checkpoint"),
        (("--ckpt_file=x", "--file_format=AIR"), 64, "on an Ascend device only"),
        (("--ckpt_file=x", "--file_format=PB"), 64, "expected one of MINDIR, AIR, ONNX"),
        (("--ckpt_file=x", "--file_name=none/net"), 64, "there is no folder"),
        (("--ckpt_file=x", "--testing_shape=100"), 64, "multiple of 32"),
        (("--ckpt_file=x", "--num_classes=7"), 64, "--annFile=FILE names its 7 classes"),
        (("--ckpt_file=x", "--annFile=none.json"), 66, "none.json: no such file"),
    ],
)
def test_mistakes_are_one_message(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    """No traceback, the code of evaluation, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MUSTER_JOB", raising=False)
    assert main([*arguments[:1], *PARAMETERS[:-2], *arguments[1:]]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_fit_is_refused(data: Path, checkpoint: Path) -> None:
    """Of another width, or of other classes than COCO's without a table."""
    with pytest.raises(ConfigError, match="does not fit"):
        open_checkpoint(checkpoint, config(checkpoint, data, "--base_width=52"))


def test_cocos_categories() -> None:
    """Eighty, numbered up to ninety."""
    table = coco_categories()
    assert len(set(table.names)) == len(table) == 80
    assert (table.ids[0], table.ids[-1]) == (1, 90)
    named = dict(zip(table.ids, table.names, strict=True))
    assert (named[13], named[44], named[72], named[90]) == (
        "stop sign", "bottle", "tv", "toothbrush",
    )  # fmt: skip


def test_the_ending_is_added_once(tmp_path: Path) -> None:
    """A name with dots keeps them."""
    for name in ("v1.2", "v1.2.mindir"):
        assert target_of(parse([f"--file_name={tmp_path / name}"])) == tmp_path / "v1.2.mindir"
