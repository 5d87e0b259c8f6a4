"""Stored files are read as data: each value of its type, names that stay names, one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest

from flops_fit.errors import StudyError, StudyWarning
from flops_fit.files import (
    file_to_write,
    is_name,
    read_bytes,
    read_json,
    read_record,
    set_aside,
    within,
    write_json,
    write_record,
)
from flops_fit.laws import Array
from flops_fit.plan.rules import PowerRule, stored_rule
from flops_fit.records import of_type, read_as


@dataclass(frozen=True)
class Inner:
    name: str
    value: int | float | Mapping[str, int]


@dataclass(frozen=True)
class Outer:
    inner: Inner
    pair: tuple[float, float]
    many: tuple[Inner, ...] = ()
    word: Literal["a", "b"] = "a"
    numbers: Array | None = None


WHOLE = {"inner": {"name": "x", "value": 1, "later": 7}, "pair": [1, 2.5]}


def test_a_record_is_what_it_was_written_from():
    read = read_as(Outer, {**WHOLE, "many": [{"name": "y", "value": {"a": 2}}], "numbers": [1, 2]})
    assert read.inner == Inner("x", 1)
    assert (read.pair, read.many) == ((1, 2.5), (Inner("y", {"a": 2}),))
    np.testing.assert_array_equal(read.numbers, np.array([1.0, 2.0]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inner": []}, r"inner is \[\]: expected an object"),
        ({"inner": {"name": 1, "value": 1}}, "inner.name is 1: expected text"),
        ({"inner": {"value": 1}}, "inner: name is missing"),
        ({"inner": {"name": "x", "value": "1"}}, "inner.value is '1': expected a whole number or"),
        ({"inner": {"name": "x", "value": True}}, "inner.value is True"),
        ({"pair": [1]}, "pair has 1 entries: expected 2"),
        ({"pair": [1, None]}, r"pair\[1\] is null: expected a number"),
        ({"many": {}}, "many is {}: expected a list"),
        ({"word": "c"}, "word is 'c': expected 'a' or 'b'"),
        ({"word": []}, r"word is \[\]"),
        ({"numbers": [[1]]}, r"numbers\[0\] is a list of 1: expected a number"),
    ],
)
def test_a_value_of_another_type_is_named(changes, said):
    with pytest.raises(StudyError, match=said):
        read_as(Outer, {**WHOLE, **changes})


def test_whole_numbers_are_those_of_machines():
    assert of_type(int, 3.0, "n") == 3
    assert isinstance(of_type(float, 10**299, "x"), float)
    with pytest.raises(StudyError, match=r"n is 1844.*: expected a whole number"):
        of_type(int, 2**64, "n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "deeper than 64 levels"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "deeper than 64 levels"),
        (b"[" + b"1" * 5000 + b"]", "a number of 5,000 digits"),
        (b'{"loss": NaN}', "the number NaN"),
        (b"[1e999]", "the number 1e999"),
        (b'["\\ud800"]', "surrogates"),
        (b"\xff\xfe{}", "is not readable JSON"),
        (b"", "is not readable JSON"),
    ],
)
def test_json_that_cannot_be_worked_with_is_a_sentence(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=said):
        read_json(path)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.symlink_to(path), "can't be read"),
        (lambda path: path.symlink_to("nowhere"), "is a link to nothing"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (os.mkfifo, "is a device"),
    ],
)
def test_what_is_no_file_is_neither_read_nor_in_the_way(tmp_path, place, said):
    path = tmp_path / "x.json"
    place(path)
    with pytest.raises(StudyError, match=said):
        read_bytes(path)
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}


def test_a_change_after_writing_is_said(tmp_path):
    path = tmp_path / "x.json"
    write_record(path, {"loss": 2.5, "id": "a"})
    assert read_record(path) == {"loss": 2.5, "id": "a"}
    path.write_text(json.dumps(json.loads(path.read_text())))  # spaces are no change
    assert read_record(path) == {"loss": 2.5, "id": "a"}
    path.write_text(path.read_text().replace("2.5", "2.4"))
    with pytest.warns(StudyWarning, match="was changed after it was written"):
        assert read_record(path)["loss"] == 2.4


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc", "a\nb", "*", "a\\b", ".x", "a" * 300]
)
def test_names_that_are_paths_or_patterns_are_none(name):
    assert not is_name(name)
    assert is_name("C1e15-N1.2M-0123456789ab")


def test_links_out_of_a_folder_are_not_followed(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "out").symlink_to(outside)
    (root / "in").symlink_to(root)
    assert within(root, "in", "x") == root / "in" / "x"
    with pytest.raises(StudyError, match="is a link that leads out of"):
        within(root, "out", "x")
    (root / "pipe").symlink_to("nowhere")
    with pytest.warns(StudyWarning, match="was set aside as pipe.unusable-1"):
        assert file_to_write(root, "pipe") == root / "pipe"


def test_what_is_set_aside_twice_is_there_twice(tmp_path):
    path = tmp_path / "x"
    for text in ("first", "second"):
        path.write_text(text)
        assert set_aside(path).read_text() == text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.unusable-1", "x.unusable-2"]


def test_a_rule_of_a_plan_is_one_of_ours_or_none():
    rule = PowerRule(0.01, num_params_exponent=-0.5)
    for module in ("flops_fit.plan.rules", "flops_fit.rules"):  # of today and of earlier versions
        node = {"_target_": f"{module}.PowerRule", **vars(rule)}
        assert stored_rule(node, "batch_rule") == rule
        assert stored_rule({**node, "later": 1}, "batch_rule") == replace(rule)
    assert stored_rule(None, "batch_rule") is None
    for node in (
        {"_target_": "builtins.open", "file": "x", "mode": "w"},
        {"_target_": []},
        {"a": 1},
    ):
        with pytest.raises(StudyError, match="code that is not run from a file"):
            stored_rule(node, "batch_rule")
    with pytest.raises(StudyError, match=r"coefficient is 'x': expected a number"):
        stored_rule({"_target_": "flops_fit.rules.PowerRule", "coefficient": "x"}, "batch_rule")
