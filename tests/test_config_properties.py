"""Properties of reading parameters: valid ones survive, junk is a mistake at worst."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.arguments import ROWS, TYPES, parse
from model.config import Config, ConfigError, Integers
from model.config_file import read_file
from model.contradictions import contradictions


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Values that the parameter `name` may have by itself."""
    kind, limits = TYPES[name], ROWS[name].metadata
    low, high = max(limits["low"], -1e6), min(limits["high"], 1e6)
    whole = st.integers(int(low), int(high))
    if limits["choices"]:
        return st.sampled_from(limits["choices"])
    if kind is float:
        return st.floats(low, high).filter(lambda x: limits["above"] < x < limits["below"])
    if kind == Integers:
        return st.lists(whole, max_size=6).map(tuple)
    lines = st.text(st.characters(exclude_categories=["Cc", "Cs"]))
    return {int: whole, bool: st.booleans(), str: lines, int | None: st.none() | whole}[kind]


SPECIAL = {
    "training_shape": st.sampled_from([None, 32, 96]),
    "testing_shape": st.sampled_from([None, 32, 96]),
    "multi_scale": st.lists(st.sampled_from([32, 64, 96]), min_size=1).map(tuple),
    "test_img_shape": st.sampled_from([(32, 32), (64,)]),
    "anchor_scales": st.lists(st.integers(1, 999), min_size=18, max_size=18).map(tuple),
    "enable_modelarts": st.just(False),
    "config_path": st.just(""),
}
NETWORK = ("backbone_shape", "res2net_block", "res2net_in_channels", "res2net_out_channels",
           "base_width", "scale")  # fmt: skip


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    """A valid configuration: some parameters with values that go together."""
    names = draw(st.sets(st.sampled_from([name for name in ROWS if name not in NETWORK])))
    config = Config()
    for name in sorted(names):
        value = draw(SPECIAL.get(name, values_of(name)))
        changed = dataclasses.replace(config, **{name: value})
        config = config if contradictions(changed) else changed
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("configurations")


def read_back(folder: Path, text: str) -> Config:
    """The configuration that a file with `text` gives, without its path."""
    file = folder / "conf.yaml"
    file.write_bytes(text.encode())
    return dataclasses.replace(parse([f"--config_path={file}"]), config_path="")


@settings(max_examples=40)
@example(config=Config(data_dir='a"b\\c # d: \u200b\u2028\xa0\U0001f600 ', lr=1e-5, eta_min=1.5e-7))
@given(config=configurations())
def test_a_configuration_survives_its_file(folder: Path, config: Config) -> None:
    """What the log begins with, or a YAML library writes of the values, is read back equal."""
    values = {name: getattr(config, name) for name in ROWS if name != "config_path"}
    plain = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
    assert read_back(folder, yaml.safe_dump(plain)) == config
    printed = "\n".join(config.lines())
    assert read_back(folder, printed) == config
    assert yaml.safe_load(printed) == {n: "" if v is None else v for n, v in plain.items()}


@given(config=configurations())
def test_a_configuration_survives_the_command_line(config: Config) -> None:
    """Every value as `--name=value` gives the same configuration."""
    words = {name: getattr(config, name) for name in ROWS}
    shown = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in words.items()
    }
    assert parse([f"--{n}={'' if v is None else v}" for n, v in shown.items()]) == config


SCRAPS = st.sampled_from(
    [*ROWS, "lr", "multi_scale", ": ", ": ", "\n", "\n", "- ", "[", "]", "{", "}", ",", "&a", "*a",
     "!!set", "!x", "---\n", "'", '"', "#", "|\n", ">\n", "%YAML 1.1\n", "\t", "\0", "1", "0x1",
     "010", "1:30", "1e999", "9" * 5000, "~", "yes", "<<", "=", "[[1,1]]", "\ud800", "2021-99-99"]
)  # fmt: skip


@given(content=st.lists(SCRAPS | st.text(max_size=3), max_size=40).map("".join))
def test_junk_in_a_file_is_a_mistake_at_worst(folder: Path, content: str) -> None:
    """It is read or refused with at least one problem; nothing else ever happens."""
    file = folder / "junk.yaml"
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    try:
        parse([f"--config_path={file}"])
    except ConfigError as error:
        assert error.problems and all("junk.yaml" in p for p in error.problems)


@given(content=st.binary(max_size=60))
def test_bytes_of_any_kind_are_read_or_refused(folder: Path, content: bytes) -> None:
    """A file that is no text has a problem with a line."""
    (folder / "bytes").write_bytes(content)
    found = read_file(str(folder / "bytes"))
    assert all(":1: " in p or ":2: " in p or "bytes:" in p for p in found.problems)


ASSIGNMENTS = st.builds("--{}={}".format, st.sampled_from(list(ROWS)), SCRAPS | st.text())


@given(words=st.lists(ASSIGNMENTS | st.text()))
def test_junk_on_the_command_line_is_a_mistake_at_worst(words: list[str]) -> None:
    """Every argument is read or named in a problem."""
    try:
        parse(word for word in words if "config_path" not in word)
    except ConfigError as error:
        assert error.problems
