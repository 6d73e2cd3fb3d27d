"""The network by its name, as the ModelZoo's hub file offers it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import model
from model.config import ConfigError

ROOT = Path(__file__).parent.parent
TINY = {
    "backbone_shape": (8, 8, 8, 16, 32),
    "res2net_block": (1, 1, 1, 1),
    "res2net_in_channels": (16, 16, 16, 32),
    "res2net_out_channels": (16, 16, 32, 32),
    "num_classes": 2,
}


def test_the_network_loads_a_checkpoint_and_detects(tmp_path: Path) -> None:
    """Both names build one network; it loads its checkpoint and gives decoded heads l, m, s."""
    weights = model.create_network("yolov3_res2net50", seed=5, decoded=False, **TINY)
    file = tmp_path / "weights.ckpt"
    ms.save_checkpoint(weights, str(file))
    network = model.create_network("yolov3_res2net", pretrained=file, **TINY)
    expected = {row.name: row.asnumpy() for row in weights.get_parameters()}
    for row in network.get_parameters():
        np.testing.assert_array_equal(row.asnumpy(), expected.pop(row.name))
    assert expected == {} and not network.training
    ms.set_context(mode=ms.GRAPH_MODE)
    heads = network(Tensor(np.zeros((1, 3, 64, 64), np.float32)))
    assert [head.shape for head in heads] == [(1, g, g, 3, 7) for g in (2, 4, 8)]
    with pytest.raises(ConfigError, match="does not fit"):
        model.create_network("yolov3_res2net50", pretrained=file, **{**TINY, "num_classes": 3})


def test_what_cannot_be_built_is_named() -> None:
    """Another name as in the original, an unknown option, and a value out of range."""
    with pytest.raises(NotImplementedError, match="'resnet50': known are yolov3_res2net50"):
        model.create_network("resnet50")
    with pytest.raises(TypeError, match="classes"):
        model.create_network("yolov3_res2net50", classes=3)
    with pytest.raises(ValueError, match="num_classes"):
        model.create_network("yolov3_res2net50", num_classes=0)


def test_importing_the_package_imports_nothing_heavy() -> None:
    """`import model` costs neither MindSpore nor NumPy: plain parts of it need neither."""
    program = "import model, sys; sys.exit(bool({'mindspore', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0
