"""How settings are declared, read from plain values and arguments, refused, and listed."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import pytest

from flops_fit.errors import ConfigError
from flops_fit.settings import (
    BATCH_SIZE,
    ColumnNames,
    FitSettings,
    Kind,
    SweepSettings,
    VerifySettings,
    declared,
    from_keywords,
    from_plain,
    names_of,
    plain,
    stored,
)
from flops_fit.settings.answers import TableFitSettings
from flops_fit.settings.declaration import (
    answer,
    chooses,
    decides,
    machine,
    pinned,
    sections,
)
from flops_fit.settings.listing import default_text, keyword_types, settings_page
from flops_fit.settings.plain import alternatives, check_names, is_tuple


@dataclass(frozen=True, kw_only=True)
class Names:
    """Settings inside of one"""

    first: str | None = None
    second: str | None = None


def classes() -> tuple[Any, Any]:
    @dataclass(frozen=True, kw_only=True)
    class Lower:
        """A first section: of two lines.

        The rest of it.
        """

        rate: float = decides(0.5, "how fast", "per step", in_id=True, least=0)
        must: Any = decides(MISSING, "has no default", python="")
        words: Literal["one", "two"] | None = answer(None, "which")

    @dataclass(frozen=True, kw_only=True)
    class Upper(Lower):
        """A second section"""

        count: int = machine(3, "how many", "runs", least=1)
        maybe: int | None = pinned(None, "or none")
        flag: bool = machine(False, "whether")
        name: str = answer("", "what it is | was called")
        budgets: tuple[float, ...] = chooses((), "of each", "FLOPs", python="Sequence[float]")
        tags: tuple[str, ...] = chooses((), "labels")
        either: float | Literal["auto"] = chooses("auto", "a number or auto")
        entries: Any = decides({}, "a mapping")
        names: Names = answer(Names, "inside")

    return Lower, Upper


Lower, Upper = classes()
BY_NAME = {setting.name: setting for setting in declared(Upper)}


@pytest.fixture(autouse=True)
def declared_anew():
    """The classes are made in every test, by the functions that it is about."""
    global Lower, Upper, BY_NAME
    Lower, Upper = classes()
    BY_NAME = {setting.name: setting for setting in declared(Upper)}


def test_a_declaration_says_all_there_is_to_know():
    rate = BY_NAME["rate"]
    assert (rate.name, rate.type, rate.default, rate.is_required) == ("rate", float, 0.5, False)
    assert (rate.kind, rate.about, rate.unit) == (Kind.DECIDES, "how fast", "per step")
    assert (rate.in_id, rate.python, rate.section, rate.least) == (True, "float", Lower, 0)
    must = BY_NAME["must"]
    assert (must.default, must.is_required, must.python, must.in_id) == (None, True, "", False)
    assert (BY_NAME["count"].section, BY_NAME["count"].kind) == (Upper, Kind.MACHINE)
    assert [BY_NAME[n].kind for n in ("maybe", "tags", "name")] == [
        Kind.PINNED, Kind.CHOOSES, Kind.ANSWER,
    ]  # fmt: skip
    assert BY_NAME["budgets"].python == "Sequence[float]"
    assert BY_NAME["names"].default == Names()


def test_settings_stand_in_the_order_of_their_sections():
    assert [s.name for s in declared(Upper)] == [f.name for f in fields(Upper)]
    found = list(sections(Upper))
    assert [heading for heading, _ in found] == [
        "A first section: of two lines", "A second section",
    ]  # fmt: skip
    assert [s.name for s in found[0][1]] == ["rate", "must", "words"]
    assert names_of(Upper, lambda s: s.kind is Kind.CHOOSES) == ("budgets", "tags", "either")


def test_a_mapping_that_is_a_default_is_nobody_elses():
    one, other = Upper(must=1), Upper(must=1)
    one.entries["x"] = 1
    assert other.entries == {}


def test_lists_become_tuples_and_one_number_a_list_of_it():
    settings = from_plain(Upper, {"must": 1, "budgets": ["1e9", 2], "tags": ["a", "b"]})
    assert settings.budgets == (1e9, 2.0)
    assert settings.tags == ("a", "b")
    assert from_plain(Upper, {"must": 1, "budgets": 5}).budgets == (5.0,)
    assert from_plain(Upper, {"must": 1, "tags": "a"}).tags == ("a",)
    assert from_plain(Upper, {"must": None, "names": {"first": "x"}}).names == Names(first="x")
    assert from_plain(Upper, {"must": 1, "either": 3}).either == 3
    assert from_plain(Upper, {"must": 1, "maybe": None}).maybe is None


@pytest.mark.parametrize(
    ("value", "becomes"),
    [(1e2, 100), (7, 7), (np.int64(9), 9), (np.float64(2.0), 2), (np.float32(4.0), 4)],
)
def test_whole_numbers_may_be_written_as_floats(value, becomes):
    settings = from_keywords(Upper, {"count": value, "maybe": value}, {"must": 0})
    assert (settings.count, type(settings.count)) == (becomes, int)
    assert (settings.maybe, type(settings.maybe)) == (becomes, int)


def test_whole_numbers_are_floats_where_floats_are_meant():
    rate = from_keywords(Upper, {"rate": 2}, {"must": 0}).rate
    assert (rate, type(rate)) == (2.0, float)
    assert from_keywords(Upper, {"flag": True, "name": "x"}, {"must": 0}).flag is True


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("count", "3", "count is '3', a str: give a whole number of runs (how many)"),
        ("count", 2.5, "count is 2.5, a float: give a whole number of runs (how many)"),
        ("count", True, "count is True, a bool: give a whole number"),
        ("count", 0, "count is 0: it must be at least 1 (how many)"),
        ("count", None, "count is null: give a whole number"),
        ("rate", "fast", "rate is 'fast', a str: give a number of per step (how fast)"),
        ("rate", -1, "rate is -1: it must be at least 0 (how fast)"),
        ("flag", 1, "flag is 1, a int: give true or false (whether)"),
        ("name", 3, "name is 3, a int: give text (what it is | was called)"),
        ("maybe", "x", "maybe is 'x', a str: give a whole number (or none)"),
        ("words", "ones", "words is 'ones': did you mean 'one'? give one or two (which)"),
        ("budgets", ["x"], "budgets holds 'x': give numbers of FLOPs, such as budgets=1e15,1e16"),
        ("budgets", [True], "budgets holds True: give numbers"),
        ("budgets", [None], "budgets holds None: give numbers"),
        ("names", {"frist": "x"}, "names.frist names nothing that is read: did you mean 'first'?"),
    ],
)
def test_what_cannot_be_is_named_with_what_was_expected(name, value, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        from_keywords(Upper, {name: value}, {"must": 0})


def test_the_least_is_allowed_and_so_is_every_word():
    settings = from_plain(Upper, {"must": 1, "count": 1, "rate": 0, "words": "two"})
    assert (settings.count, settings.rate, settings.words) == (1, 0.0, "two")
    assert from_plain(Upper, {"must": 1, "words": None}).words is None


def test_arguments_are_those_of_python_and_what_must_be_given_may_be_missing():
    assert from_keywords(Upper, {"must": 5, "rate": 1, "other": 2}, {}).must is None
    assert from_keywords(Upper, {"rate": 1}, {"must": 5}).must == 5
    check_names(["rate", "count"], Lower, Upper)
    with pytest.raises(
        ConfigError, match=r"no setting 'rat': did you mean 'rate'\? There are rate"
    ):
        check_names(["rate", "rat"], Lower)
    with pytest.raises(ConfigError, match="no setting 'must': "):
        check_names(["must"], Upper)


def test_stored_settings_are_read_whatever_version_wrote_them():
    old = stored(Upper, {"rate": -3, "of_another_time": 1, "budgets": [1], "words": "three"})
    assert (old.rate, old.budgets, old.must, old.count) == (-3.0, (1.0,), None, 3)
    assert old.words == "three"
    assert stored(Upper, {}) is None
    assert stored(Upper, {"must": {"_target_": "a.B"}}).must == {"_target_": "a.B"}


def test_plain_values_come_back_as_the_same_settings():
    settings = from_plain(
        Upper,
        {"must": {"_target_": "a.B", "x": (1, {2: 3})}, "budgets": [1e9], "names": {"first": "n"}},
    )
    values = plain(settings)
    assert values["budgets"] == [1e9]
    assert values["must"] == {"_target_": "a.B", "x": [1, {"2": 3}]}
    assert values["names"] == {"first": "n", "second": None}
    again = stored(Upper, values)
    assert plain(again) == values
    assert again.names == settings.names


def test_defaults_of_lists_and_numbers_are_shown_as_they_are_typed():
    setting = BY_NAME["budgets"]
    for value, text in (
        ((1e15, 2.0), "[1e+15,2]"), ([True, None], "[true,null]"), (0.1, "0.1"), (True, "true"),
        ((), "[]"), (("a", "b"), "[a,b]"), (1234567.0, "1.23457e+06"), (3, "3"), ("x", "x"),
    ):  # fmt: skip
        assert default_text(replace(setting, default=value)) == text
    assert default_text(replace(setting, is_required=True)) == ".."


def test_types_are_told_apart():
    assert alternatives(int | None) == (int, type(None))
    assert alternatives(float) == (float,)
    assert is_tuple(tuple[float, ...] | None)
    assert not is_tuple(float | None)
    assert is_tuple(BY_NAME["budgets"].type)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rate", "0.5"), ("must", ".."), ("words", "null"), ("count", "3"), ("flag", "false"),
        ("name", "''"), ("budgets", "[]"), ("either", "auto"), ("entries", "{}"), ("names", ".."),
    ],
)  # fmt: skip
def test_defaults_are_shown_as_they_are_typed(name, text):
    assert default_text(BY_NAME[name]) == text


def test_a_page_has_every_section_once_with_its_verbs():
    page = settings_page([("go", Upper), ("stop", Lower)])
    assert page.count("## A first section: of two lines\n\nOf `go`, `stop`.\n") == 1
    assert page.count("## A second section\n\nOf `go`.\n") == 1
    assert "| `rate` | `0.5` | per step | how fast | decides |" in page
    assert "| setting | default | unit | meaning | kind |\n|---|---|---|---|---|\n| `rate`" in page
    assert "| `name` | `''` |  | what it is / was called | answer |" in page
    assert page.endswith("| `names` | `..` |  | inside | answer |\n")


def test_types_of_arguments_are_those_of_the_declarations():
    source = keyword_types("Given", "What is given.", (Lower, Upper))
    lines = source.splitlines()
    assert lines[:3] == ["class Given(TypedDict, total=False):", '    """What is given."""', ""]
    assert lines[3:5] == ["    rate: float", '    words: Literal["one", "two"] | None']
    assert "    budgets: Sequence[float]" in lines
    assert not any("must" in line for line in lines)


def test_shipped_settings_are_what_their_readers_expect():
    """Numbers that stand in the docs and in plans of years, once."""
    assert (SweepSettings.num_sizes, SweepSettings.span, SweepSettings.min_steps) == (7, 16.0, 100)
    assert (SweepSettings.max_epochs, BATCH_SIZE, SweepSettings.seeds) == (4.0, 64, 1)
    assert SweepSettings.flops_per_param_per_token == FitSettings.flops_per_param_per_token == 6.0
    assert SweepSettings.draws == FitSettings.draws == 4000
    assert SweepSettings.checkpoint_seconds == 30.0
    assert SweepSettings.held_out == 0.1
    assert names_of(VerifySettings, lambda s: s.section is VerifySettings) == ("target",)
    in_id = names_of(SweepSettings, lambda s: s.in_id)
    assert set(in_id) == {"metrics", "clip_grad_norm", "held_out_samples", "precision"}
    assert "columns" in names_of(TableFitSettings, lambda s: bool(s.python))
    assert ColumnNames().loss is None
