"""Configuration files of the trainer: the original's form, precedence, mistakes with places."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.arguments import ROWS, as_run, parse
from model.config import Config, ConfigError
from model.config_file import MAX_BYTES, MAX_VALUES
from model.config_report import main
from model.options import read_options
from orchestrator.jobfile import load
from orchestrator.rank import Rank

ORIGINAL = """\
# As the original's own file: values, then texts.
enable_modelarts: False
data_url: ""
train_url: ""
checkpoint_url: ""
data_path: "/cache/data"
output_path: "/cache/train"
load_path: "/cache/checkpoint_path"
device_target: "Ascend" # or GPU
need_modelarts_dataset_unzip: True
modelarts_dataset_unzip_name: "coco2014"

# training
data_dir: "/cache/data/coco2014/"
per_batch_size: 32
pretrained_backbone: "/cache/checkpoint_path/0-148_92000.ckpt"
resume_yolov3: ""
lr_scheduler: "exponential"
lr: 0.001
lr_epochs: "220,250"
lr_gamma: 0.1
eta_min: 0.0
T_max: 320
max_epoch: 320
warmup_epochs: 0
weight_decay: 0.0005
momentum: 0.9
loss_scale: 1024
label_smooth: 0
label_smooth_factor: 0.1
log_interval: 1
ckpt_path: "outputs/"
ckpt_interval: 40
is_save_on_master: 1
is_distributed: 1
rank: 0
group_size: 1
bind_cpu: True
device_num: 8
need_profiler: 0
training_shape: ""

# evaluation
pretrained: ""
log_path: "outputs/"
nms_thresh: 0.5
annFile: ""
testing_shape: ""
eval_ignore_threshold: 0.001

# export, inference
device_id: 0
batch_size: 1
ckpt_file: ""
file_name: "yolov3_res2net50"
file_format: "AIR" # or ONNX, MINDIR
keep_detect: True
result_path: ""
img_path: ""

# the rest
hue: 0.1
saturation: 1.5
value: 1.5
jitter: 0.3
resize_rate: 1
multi_scale: [[320, 320], [352, 352], [384, 384],
              [416, 416], [448, 448], [480, 480], [512, 512],
              [544, 544], [576, 576], [608, 608]
              ]
num_classes: 80
out_channel: 255 # 3 * (num_classes + 5)
max_box: 50
backbone_input_shape: [32, 64, 128, 256, 512]
backbone_shape: [128, 256, 512, 1024, 2048]
backbone_layers: [1, 2, 8, 8, 4]
res2net_block: [3, 4, 6, 3]
res2net_in_channels: [64, 256, 512, 1024]
res2net_out_channels: [256, 512, 1024, 2048]
ignore_threshold: 0.7
anchor_scales: [[10, 13],
                [16, 30],
                [33, 23],
                [30, 61], [62, 45], [59, 119],
                [116, 90],
                [156, 198],
                [373, 326]]
test_img_shape: [416, 416]

---

# texts
data_dir: "where the training images are"
lr_epochs: "when the rate falls, with ',' between"
device_target: "choices in ['Ascend', 'GPU'] for training"
input_file: "weights to convert"
output_file: "what they become"
"""

THIRD = """\
---
device_target: ['Ascend', 'GPU']
file_format: ["AIR", "ONNX", "MINDIR"]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(content: str | bytes, *arguments: str) -> Config:
    """The configuration of a file `conf.yaml` where we stand, and of arguments."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    Path("conf.yaml").write_bytes(data)
    return parse(["--config_path=conf.yaml", *arguments])


def problems(content: str | bytes, *arguments: str) -> list[str]:
    """Every mistake of the file and the arguments."""
    with pytest.raises(ConfigError) as caught:
        read(content, *arguments)
    assert caught.value.exit_code == 64
    return list(caught.value.problems)


@pytest.mark.parametrize("content", [ORIGINAL, ORIGINAL + THIRD], ids=["two", "three"])
def test_the_originals_own_file_is_accepted(here: Path, content: str) -> None:
    """It means the defaults, but for what it says of classes and of the format of exports."""
    config = read(content)
    assert config == dataclasses.replace(
        Config(), config_path="conf.yaml", num_classes=80, out_channel=255, file_format="AIR"
    )


def test_paths_of_modelarts_are_taken_for_none(here: Path) -> None:
    """The origin says so; another path below /cache, or one on the command line, is a path."""
    config = read(ORIGINAL, "--load_path=/cache/checkpoint_path")
    assert (config.data_dir, config.pretrained_backbone, config.output_path) == ("", "", "")
    assert "/cache/data/coco2014/ is a place on ModelArts" in str(config.origin("data_dir"))
    assert config.load_path == "/cache/checkpoint_path"
    assert read("data_dir: /cache/mine").data_dir == "/cache/mine"


def test_modelarts_is_refused(here: Path) -> None:
    """With the place and what to do."""
    (found,) = problems(ORIGINAL.replace("enable_modelarts: False", "enable_modelarts: True"))
    assert found.startswith("conf.yaml:2: enable_modelarts: True: ModelArts is not supported")


def test_command_line_goes_before_file_before_default(here: Path) -> None:
    """Each value knows where it comes from."""
    config = read("lr: 0.01\nmax_epoch: 9\n", "--lr=0.02")
    assert (config.lr, config.max_epoch, config.momentum) == (0.02, 9, 0.9)
    origins = [str(config.origin(name)) for name in ("lr", "max_epoch", "momentum")]
    assert origins == ["command line", "conf.yaml:2", "default"]


def test_origins_are_no_part_of_the_value(here: Path) -> None:
    """Equal values are equal, with one fingerprint and one hash, wherever they come from."""
    file = dataclasses.replace(read("lr: 0.01\n"), config_path="")
    words = parse(["--lr=0.01"])
    assert file.origins != words.origins
    assert (file, hash(file)) == (words, hash(words))
    assert read("lr: 0.01\n").fingerprint() == words.fingerprint() != Config().fingerprint()


def test_classes_of_the_originals_file_can_be_left_to_the_data(here: Path) -> None:
    """A file for COCO contradicts other data, with the place, unless the command line frees it."""
    with pytest.raises(ConfigError, match=r"conf\.yaml:1: num_classes: 80: the data has 4"):
        read("num_classes: 80\n").classes(4)
    assert read(ORIGINAL, "--num_classes=", "--out_channel=").classes(4) == 4


def test_a_file_may_name_the_device(here: Path) -> None:
    """Commands that otherwise take what MindSpore was built for then take that one."""
    Path("conf.yaml").write_text("device_target: CPU\n")
    assert read_options(["--config_path=conf.yaml"]).names_device
    assert not read_options(["--lr=1"]).names_device


def test_a_value_set_by_the_program_says_so() -> None:
    """Neither the user nor the table of defaults is named for it."""
    assert str(dataclasses.replace(Config(), lr=0.5).origin("lr")) == "program"


def test_log_begins_with_every_argument_and_its_origin(here: Path) -> None:
    """One line an argument, none left out."""
    lines = read("hue: 0.2\n", "--seed=7").lines()
    assert [line.removeprefix("# ").partition(":")[0] for line in lines] == list(ROWS)
    said = {line.partition(":")[0]: line.split("#")[-1].strip() for line in lines[1:]}
    assert (said["seed"], said["hue"], said["lr"]) == ("command line", "conf.yaml:1", "default")


def test_muster_is_named_for_what_it_decides() -> None:
    """Rank, world, device and interval in the log are those of the run; alone nothing changes."""
    environment = {"MUSTER_JOB": "j", "RANK_ID": "3", "RANK_SIZE": "8", "MUSTER_BACKEND": "cpu",
                   "MUSTER_CHECKPOINT": '{"every_steps": 20}'}  # fmt: skip
    config = as_run(Config(), Rank(environment))
    assert (config.rank, config.group_size, config.device_target, config.ckpt_interval) == (
        3, 8, "CPU", 20,
    )  # fmt: skip
    assert str(config.origin("rank")) == "muster"
    assert as_run(Config(), Rank({})) is not None and as_run(Config(), Rank({})) == Config()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("lr: 1e-3", None),
        ("is_distributed: no\nbind_cpu: off", None),
        ("compile_cache: off", None),
        ("lr_epochs: 220", None),
        ("per_batch_size: '8'", None),
        ("data_dir: 2017\nannFile: 2021-12-04", None),
        ("data_dir: 010\nfile_name: 5:20", None),
        ("data_dir:\ntraining_shape: null\ntesting_shape: ~", None),
        ("multi_scale: [320, [352, 352]]", None),
        ("per_batch_size: 010", "conf.yaml:1: per_batch_size: 010: YAML reads octal here"),
        ("max_epoch: 5:20", "5:20: YAML reads a number to base 60 here"),
        ("lr: 1:30.5", "1:30.5: YAML reads a number to base 60 here"),
        ("lr_epochs: [0x10, 2]", "[0x10, 2]: write the number in decimal"),
        ("seed: no", "conf.yaml:1: seed: no: expected a whole number"),
        ("seed: 1e3", "seed: 1e3: expected a whole number"),
        ("seed:", "seed: : expected a whole number"),
        ("lr: .inf", "lr: .inf: expected a number"),
        ("lr: [1]", "lr: [1]: expected a number"),
        ("data_dir: [a]", "data_dir: [a]: expected one line of text"),
        ('data_dir: "a\\0b"', "data_dir: a\\x00b: expected one line of text"),
        ("bind_cpu: 2", "bind_cpu: 2: expected 1 or 0, true or false"),
        ("multi_scale: [[320, 352]]", "only squares"),
        ("anchor_scales: [[10, 13, 16]]", "pairs of two numbers"),
        ("res2net_block: [[3, 4], 6, 3]", "a list in the list"),
        ("res2net_block: [3, 4, 6]", "conf.yaml:1: res2net_block: [3, 4, 6]: (3, 4, 6) must be"),
        ("per_batch_sise: 8", "conf.yaml:1: per_batch_sise: no such parameter; did you mean per_b"),
        ("Train:\n  lr: 1", "conf.yaml:1: Train: a section"),
        ("lr: 1\nlr: 1", "conf.yaml:2: lr stands in line 1 already"),
        ("lr: &x 1\neta_min: *x", "conf.yaml:2: eta_min: the alias *x"),
        ("lr: !!python/object:os.x 1", "conf.yaml:1: lr: the tag"),
        ("- lr", "conf.yaml:1: expected lines of name: value"),
        ("lr", "conf.yaml:1: expected lines of name: value"),
        ("[a, b]: 1", "conf.yaml:1: expected a name before the colon"),
        ("lr: 'x", "conf.yaml:1: not YAML"),
        ("seed: 1\nlr: \0", "conf.yaml:2: not YAML"),
        (b"\xff\xff", "conf.yaml:1: not YAML"),
        ("config_path: other.yaml", "conf.yaml:1: config_path: a file cannot name another"),
        ("---\n---\nlearning: x", "conf.yaml:3: learning: no such parameter"),
        ("---\n---\n---\nlearning: x", "conf.yaml:4: learning: no such parameter"),
        ("---\n---\n---\n---\n---\nlr: 1", "5 documents; there may be three: values, texts"),
        ("lr: 3\n---\n---\nlr: [1, 2]", "conf.yaml:1: lr: 3.0: conf.yaml:4 allows [1, 2]"),
        ("---\n---\n---\nlr: 1", "conf.yaml:4: lr: expected a list"),
        ("---\n---\n---\nlr: [fast]", "conf.yaml:4: lr: expected a number"),
        ("#" * (MAX_BYTES + 1), "conf.yaml: larger than"),
        (f"lr_epochs: [{'1,' * MAX_VALUES}]", "more than 10000 values"),
        ("lr: " + "[" * 5000, "nested too deeply"),
    ],
)  # fmt: skip
def test_values_are_read_as_written_or_refused(
    here: Path, content: str | bytes, said: str | None
) -> None:
    """What has one meaning is accepted; where YAML means another number than the eye, it is not."""
    if said is None:
        read(content)
        return
    found = problems(content)
    assert len(found) == 1
    assert said in found[0]


def test_every_mistake_of_file_and_arguments_is_told_at_once(here: Path) -> None:
    """Each with its place, mistakes of values that the command line replaces too."""
    text = "lr: fast\nmomentum: 2\nhuee: 1\neta_min: 0.5\nearly_stop: 2\n"
    found = problems(text, "--lr=0.1", "--lr_gamma=x", "--sede=1")
    assert found == [
        "--sede: no such parameter; did you mean --seed?",
        "conf.yaml:3: huee: no such parameter; did you mean hue?",
        "conf.yaml:1: lr: fast: expected a number",
        "conf.yaml:2: momentum: 2: must lie between 0 and 1",
        "--lr_gamma=x: expected a number",
        "conf.yaml:4: eta_min: 0.5, --lr=0.1: eta_min=0.5 is above lr=0.1",
        "conf.yaml:5: early_stop: 2: early_stop counts evaluations: give evaluate_every too",
    ]


def test_what_cannot_be_read_says_nothing_of_what_goes_with_it(here: Path) -> None:
    """A default that stands in for an unreadable value contradicts nothing."""
    assert len(problems("lr: fast\neta_min: 0.5\n")) == 1
    assert len(problems("lr: *x\neta_min: 0.5\n")) == 1


@pytest.mark.parametrize(
    ("path", "said"),
    [("none.yaml", "No such file"), (".", "Is a directory"), ("pipe", "not a file"),
     ("/dev/zero", "not a file"), ("a\0b", "one line of text")],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_a_mistake_among_others(
    here: Path, path: str, said: str
) -> None:
    """It hides no other mistake, and nothing waits for a pipe."""
    os.mkfifo("pipe")
    with pytest.raises(ConfigError) as caught:
        parse([f"--config_path={path}", "--lr=fast"])
    assert len(caught.value.problems) == 2
    assert said in "\n".join(caught.value.problems)


def test_lists_of_a_job_are_what_the_trainer_reads(here: Path) -> None:
    """`args` with YAML lists become arguments that give the same configuration as a file."""
    lists = "multi_scale: [320, 352]\nlr_epochs: [1, 2]\ntest_img_shape: [96, 96]\n"
    indented = "".join(f"  {line}\n" for line in lists.splitlines())
    (here / "job.yaml").write_text(
        f"version: 1\nname: j\nmodule: model.train\nargs:\n{indented}"
        "resources: {device: cpu, ranks: 1}\nlaunch: {mode: none}\n"
    )
    config = parse(load(here / "job.yaml").argv_args)
    assert config == dataclasses.replace(read(lists), config_path="")


def run(*arguments: str) -> tuple[int, str, str]:
    """What `python -m model.config` does with arguments."""
    done = subprocess.run(
        [sys.executable, "-m", "model.config", *arguments],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_prints_a_file_that_means_the_same(here: Path) -> None:
    """Value, origin and meaning of every parameter; the output is a configuration file."""
    code, out, err = run("--lr=0.00001", "--data_dir=a # b", "--training_shape=96")
    assert (code, err) == (0, "")
    assert "# command line   learning rate after warm-up" in out
    given = ["--lr=0.00001", "--data_dir=a # b", "--training_shape=96"]
    assert dataclasses.replace(read(out), config_path="") == parse(given)


def test_the_command_prints_one_document_for_programs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--json`: name, value, origin, place and meaning of each; or the problems."""
    Path("c.yaml").write_text("\nlr_epochs: 1,2\n")
    assert main(["--json", "--config_path=c.yaml"]) == 0
    content = json.loads(capsys.readouterr().out)
    row = next(row for row in content["parameters"] if row["name"] == "lr_epochs")
    assert (row["value"], row["origin"], row["place"]) == ([1, 2], "file", "c.yaml:2")
    assert len(content["parameters"]) == len(ROWS)
    assert main(["--json", "--lr=x", "--seed=y"]) == 64
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2


def test_the_command_tells_every_mistake(here: Path) -> None:
    """On stderr, a line each, exit 64."""
    code, out, err = run("--config_path=none.yaml", "--lr=x", "more")
    assert (code, out, len(err.splitlines())) == (64, "", 3)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "module", ["train", "evaluate", "convert", "export", "infer", "predict", "config"]
)
def test_help_names_every_parameter_and_imports_nothing_heavy(module: str) -> None:
    """Name, default and meaning from the table; exit 0, without MindSpore or OpenCV."""
    program = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        "heavy = {'mindspore', 'cv2', 'pycocotools'}\n"
        "try:\n"
        f"    runpy.run_module('model.{module}', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "[]")
    assert f"python -m model.{module}" in done.stdout
    assert "--lr=0.001 " in done.stdout and "learning rate after warm-up" in done.stdout
    assert all(f"--{name}=" in done.stdout for name in ROWS)
