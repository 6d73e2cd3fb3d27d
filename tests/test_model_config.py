"""Reading the trainer's arguments: the original's names and defaults, every mistake at once."""

from __future__ import annotations

import pytest

from model.architecture import FULL
from model.arguments import parse
from model.config import Config, ConfigError
from model.run import check_paths
from orchestrator.rank import Rank


def problems(*arguments: str) -> list[str]:
    """What is wrong with `arguments`."""
    with pytest.raises(ConfigError) as caught:
        parse(arguments)
    assert caught.value.exit_code == 64
    return list(caught.value.problems)


def test_defaults_are_those_of_the_original() -> None:
    """Without arguments: the original's default_config.yaml, its /cache paths empty."""
    config = parse([])
    assert config == Config()
    assert (config.lr, config.weight_decay, config.loss_scale) == (0.001, 0.0005, 1024)
    assert (config.ckpt_interval, config.log_interval, config.resize_rate) == (40, 1, 1)
    assert config.training_sides == tuple(range(320, 609, 32))
    assert (config.testing_side, config.data_dir, config.ckpt_path) == (416, "", "outputs/")


def test_default_network_is_the_full_one() -> None:
    """The defaults describe the original's network of 80 classes."""
    assert Config().architecture(80) == FULL


def test_arguments_are_read_by_their_type() -> None:
    """Numbers, flags of either spelling, lists with commas, and empty values."""
    config = parse(
        ["--lr=1e-2", "--is_distributed=0", "--freeze_backbone=false", "--res2net_block=1,1,1,1",
         "--training_shape=96", "--testing_shape=", "--multi_scale=[64, 96]"]
    )  # fmt: skip
    assert (config.lr, config.is_distributed, config.freeze_backbone) == (0.01, False, False)
    assert config.res2net_block == (1, 1, 1, 1)
    assert (config.training_sides, config.testing_side) == ((96,), 416)
    assert config.multi_scale == (64, 96)


@pytest.mark.parametrize(
    "text", ["320,352", " 320, 352,", "[320, 352]", "(320,352)", "[[320,320],[352, 352]]"]
)
def test_lists_may_be_written_in_several_ways(text: str) -> None:
    """With commas, in brackets, or as the original's pairs."""
    assert parse([f"--multi_scale={text}"]).multi_scale == (320, 352)


@pytest.mark.parametrize(
    "text", ["[320", "320]", "[320, null]", "[true]", "[320.0]", '["a"]', "[{}]", "[[[320]]]",
             "[" * 9999, "320 352", "[[320]]", "[[320, 352]]", "9" * 41]
)  # fmt: skip
def test_what_is_no_list_is_refused(text: str) -> None:
    """Whatever it is, in one problem."""
    assert len(problems(f"--multi_scale={text}")) == 1


def test_numbers_have_bounds_even_where_the_table_has_none() -> None:
    """Python itself refuses to print numbers of thousands of digits."""
    (found,) = problems(f"--num_classes={'9' * 4300}", "--out_channel=255")
    assert found.startswith("--num_classes=999") and found.endswith(
        "expected a whole number, or nothing"
    )


def test_every_mistake_is_told_at_once() -> None:
    """An unknown name with the nearest right one, wrong types and ranges, in one error."""
    found = problems("--per_batch_sise=2", "--lr=fast", "--momentum=2", "--seed=1", "--seed=2",
                     "--lr_scheduler=cosine", "data", "--eta_min=nan")  # fmt: skip
    text = "\n".join(found)
    assert len(found) == 7
    assert "did you mean --per_batch_size?" in text
    assert "--lr=fast: expected a number" in text
    assert "--momentum=2: must lie between 0 and 1" in text
    assert "--seed is given twice" in text
    assert "expected one of exponential, cosine_annealing" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--training_shape=100"], "not a positive multiple of 32"),
        (["--multi_scale=320,350"], "side 350"),
        (["--test_img_shape=416,320"], "only squares"),
        (["--anchor_scales=1,2,3"], "3 numbers, not 18"),
        (["--eta_min=1"], "above lr"),
        (["--warmup_epochs=9", "--max_epoch=8"], "above max_epoch"),
        (["--num_classes=4", "--out_channel=255"], "contradicts num_classes"),
        (["--resume_yolov3=a", "--resume_from=b"], "give one of them"),
        (["--enable_modelarts=True"], "not supported"),
        (["--multi_scale="], "at least one side"),
        (["--early_stop=3"], "give evaluate_every too"),
        (["--evaluate_every=9", "--max_epoch=8"], "no evaluation would happen"),
        (["--reset_head=1"], "weights of resume_yolov3"),
        (
            ["--res2net_out_channels=256,512,1024,99"],
            "--res2net_out_channels=[256, 512, 1024, 99]: backbone_shape: (128, 256, 512,",
        ),
        (["--backbone_shape=1,2"], "--backbone_shape=[1, 2]: (1, 2) must be 5 positive"),
    ],
)
def test_contradictions_are_refused(arguments: list[str], told: str) -> None:
    """Values that are fine by themselves but not together, and what is not there."""
    found = problems(*arguments)
    assert any(told in problem for problem in found), found


def test_classes_come_from_the_data() -> None:
    """The category table decides; a number given must agree with it."""
    assert Config().classes(4) == 4
    assert parse(["--num_classes=4", "--out_channel=27"]).classes(4) == 4
    with pytest.raises(ConfigError, match="the data has 5 categories"):
        parse(["--num_classes=4"]).classes(5)
    with pytest.raises(ConfigError, match="4 categories need 27"):
        parse(["--out_channel=255"]).classes(4)


def test_network_that_cannot_be_built_is_a_mistake_of_the_user() -> None:
    """What the architecture refuses becomes an error with exit code 64."""
    with pytest.raises(ConfigError, match="backbone_shape"):
        parse(["--backbone_shape=1,2,3,4,5"]).architecture(4)


def test_fingerprint_is_of_what_changes_training() -> None:
    """Paths and intervals do not count, everything else does."""
    plain = Config().fingerprint()
    assert parse(["--data_dir=x", "--ckpt_interval=7", "--rank=0"]).fingerprint() == plain
    for argument in ("--lr=0.002", "--seed=2", "--per_batch_size=8", "--freeze_backbone=0"):
        assert parse([argument]).fingerprint() != plain


@pytest.mark.parametrize("name", ["resume_from", "checkpoint_dir"])
def test_paths_that_muster_decides_on_are_not_the_users(name: str) -> None:
    """Given to a rank of muster's they would be passed over, so they are refused."""
    config = parse([f"--{name}=somewhere"])
    check_paths(config, Rank({}))
    with pytest.raises(ConfigError, match=f"--{name}=somewhere: under muster"):
        check_paths(config, Rank({"RANK_ID": "0", "RANK_SIZE": "1", "MUSTER_JOB": "job"}))
