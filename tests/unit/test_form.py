"""The form's own machinery: its list of fields, its reference page, its words for what is wrong."""

import runpy
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from tinybert.form import Form, explain, fields, markdown

DOCS = Path(__file__).parents[2] / "docs"


class Inner(Form):
    """A box in a box."""

    size: int = Field(3, ge=1, lt=10)
    """How large."""
    kind: Literal["a", "b"] | None = None
    """Which | or none."""


class Outer(Form):
    """The whole."""

    name: str = Field(pattern="^(x|y)$")
    """What it is called."""
    first: Inner = Inner(size=5)
    """Once."""
    second: Inner | None = None
    """Perhaps again."""
    third: Inner
    """And again."""
    words: list[str] = Field(default_factory=lambda: ["one"])
    """Some words."""
    extra: dict[str, str] = {}
    """Anything else."""
    share: float = Field(0.5, gt=0)
    """A share."""

    @model_validator(mode="after")
    def _differ(self):
        if self.words == ["same", "same"]:
            raise ValueError("words are the same; give others")
        return self


def complaint(**values) -> str:
    with pytest.raises(ValidationError) as refused:
        Outer.model_validate({"name": "x", "third": {}, **values})
    return explain(refused.value, Outer)


def test_fields_are_the_leaves_in_written_order():
    listed = {name: (kind, text) for name, kind, _, text in fields(Outer)}
    assert list(listed) == [
        "name",
        *("first.size", "first.kind"),
        *("second.size", "second.kind"),
        *("third.size", "third.kind"),
        "words",
        "extra",
        "share",
    ]
    assert listed["name"] == ("str", "What it is called.")
    assert listed["words"][0] == "list[str]"
    assert listed["extra"][0] == "dict[str, str]"
    assert "'a', 'b'" in listed["second.kind"][0]


def test_fields_know_defaults_made_by_a_factory_and_those_that_are_missing():
    defaults = {name: default for name, _, default, _ in fields(Outer)}
    assert defaults["words"] == ["one"]
    assert defaults["second.kind"] is None
    assert str(defaults["name"]) == "PydanticUndefined"


def test_fields_take_a_prefix():
    assert [name for name, *_ in fields(Inner, "box.")] == ["box.size", "box.kind"]


QUOTED = """YAML reads it as one in quotes: {}='"..."'"""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"second": {"sizes": 3}}, "second.sizes: unknown field; did you mean 'size'?"),
        ({"second": {"zzz": 3}}, "second.zzz: unknown field; known: size, kind"),
        ({"zzz": 3}, "zzz: unknown field; known: name, first, second, third, words, extra, share"),
        ({"third": {"size": 10}}, "third.size: found 10; input should be less than 10"),
        ({"third": {"kind": "c"}}, "third.kind: found 'c'; input should be 'a' or 'b'"),
        ({"words": ["one", 2]}, "words.1: found 2; input should be a valid string; " + QUOTED.format("words.1")),
        ({"words": [False]}, "words.0: found False; input should be a valid string; " + QUOTED.format("words.0")),
        ({"words": [None]}, "words.0: found None; input should be a valid string"),
        ({"extra": {"key": 1}}, "extra.key: found 1; input should be a valid string; " + QUOTED.format("extra.key")),
        ({"words": ["same", "same"]}, "Outer: words are the same; give others"),
        ({"share": True}, "share: found True; input should be a valid number"),
        ({"third": 7}, "third: found 7; input should be a valid dictionary or instance of Inner"),
    ],
)
def test_a_complaint_names_the_field_and_the_way_out(values, message):
    assert complaint(**values) == message


def test_every_bad_field_has_its_line():
    assert complaint(name="z", third={"size": 0}, zzz=1).splitlines() == [
        "name: found 'z'; string should match pattern '^(x|y)$'",
        "third.size: found 0; input should be greater than or equal to 1",
        "zzz: unknown field; known: name, first, second, third, words, extra, share",
    ]


def test_a_box_has_the_words_of_its_class_over_it():
    class FineTuneConfig(Form):
        """A box."""

    assert FineTuneConfig.model_json_schema()["title"] == "Fine tune"


def test_the_reference_describes_each_box_once():
    text = markdown(Outer)
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Outer", "## Inner"]
    assert "`first`, `second`, `third`\n\nA box in a box.\n" in text


@pytest.mark.parametrize(
    "row",
    [
        r"| `name` | text | required | `^(x\|y)$` | What it is called. |",
        "| `first` | [Inner](#inner) | `size` 5 |  | Once. |",
        "| `second` | [Inner](#inner) or empty | empty |  | Perhaps again. |",
        "| `third` | [Inner](#inner) | required |  | And again. |",
        '| `words` | list | `["one"]` |  | Some words. |',
        "| `extra` | map | `{}` |  | Anything else. |",
        "| `share` | number | `0.5` | > 0 | A share. |",
        "| `size` | integer | `3` | >= 1, < 10 | How large. |",
        r"| `kind` | text or empty | empty | `a`, `b` | Which \| or none. |",
    ],
)
def test_a_row_of_the_reference(row):
    assert row in markdown(Outer).splitlines()


def test_the_committed_reference_is_what_the_form_says():
    page = runpy.run_path(str(DOCS / "generate.py"))["page"]()
    assert (DOCS / "configuration.md").read_text() == page, "run `make docs`"
    assert page.isascii()
