"""Rubric files: what they say, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import ConfigError
from plaudit.rewards.judges.rubric import Rubric, read_scale

GOOD = """\
scale: 1-5
system: You are strict.
criteria:
  - name: correct
    description: All that it says is true.
    weight: 3
  - {name: short, description: Nothing could be left out.}
templates:
  score: "{criterion}: {answer} for {prompt}"
"""


def test_a_rubric_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rubric.yaml"
    file.write_text(GOOD)
    found = Rubric.read(file)
    assert found.scale == (1, 5)
    assert found.system == "You are strict."
    assert [(c.name, c.description, c.weight) for c in found.criteria] == [
        ("correct", "All that it says is true.", 3.0),
        ("short", "Nothing could be left out.", 1.0),
    ]
    assert found.templates == {"score": "{criterion}: {answer} for {prompt}"}
    assert Rubric.read(file).digest == found.digest
    assert found.with_scale((0, 9)).digest != found.digest
    assert found.with_scale(None) is found


def test_plain_text_is_the_one_criterion(tmp_path: Path) -> None:
    file = tmp_path / "rubric.md"
    file.write_text("# Kindness\n\nThe answer is kind.\n")
    [criterion] = Rubric.read(file).criteria
    assert (criterion.name, criterion.description) == ("rubric", "# Kindness\n\nThe answer is kind.")


def test_a_mapping_is_read_as_a_file_is() -> None:
    given: Any = {"scale": [0, 4], "criteria": [{"name": "kind", "description": "It is kind."}]}
    found = Rubric.of(given, "column 'rubric'")
    assert found.scale == (0, 4)
    assert found.criteria[0].description == "It is kind."
    assert Rubric.of({"scale": "1-3"}, "here").criteria == Rubric().criteria


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 0, "the rubric is empty"),
        ("scales: 1-5", 1, "did you mean scale?"),
        ("scale: 5-1", 1, "scale"),
        ("scale: 1-500", 1, "up to 100 steps"),
        ("scale: [1, 2, 3]", 1, "two whole numbers"),
        ("scale: [0.5, 3]", 1, "two whole numbers"),
        ("criteria: kind", 1, "must be a list"),
        ("criteria: []", 1, "must be a list with at least one entry"),
        ("criteria:\n  - name: kind", 2, "criteria.0.description  is required"),
        ("criteria:\n  - just text", 2, "must be made of keys"),
        ("criteria:\n  - {name: a, description: b, weight: 0}", 2, "criteria.0.weight"),
        ("criteria:\n  - {name: a, description: b, weight: yes}", 2, "criteria.0.weight"),
        ("criteria:\n  - {name: a, description: b, weight: .inf}", 2, "criteria.0.weight"),
        ("criteria:\n  - {name: mass, description: b}", 2, "is no name for a criterion"),
        ("criteria:\n  - {name: a, description: 3}", 2, "must be text, not a number"),
        ("criteria:\n  - {name: a, descripton: b}", 2, "did you mean description?"),
        ("criteria:\n  - {name: a, description: b}\n  - {name: a, description: c}", 1, "called 'a'"),
        ("system: ''", 1, "must be text, not empty text"),
        ("templates: {score: 'no place for it'}", 1, "has to name {answer}"),
        ("templates: {compare: '{a} alone'}", 1, "has to name {b}"),
        ("templates: {score: '{answer} {promt}'}", 1, "did you mean {prompt}?"),
        ("templates: {other: '{answer}'}", 1, "unknown key"),
        ("a: [", 1, "not valid YAML"),
        ("- 1", 1, "key"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    file = tmp_path / "rubric.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Rubric.read(file)
    assert caught.value.code == "PL102"
    assert what in str(caught.value)
    assert (f"{file}:{line}" if line else str(file)) in str(caught.value)


def test_several_criteria_need_their_place_in_a_template() -> None:
    criteria: Any = [{"name": n, "description": n} for n in "ab"]
    with pytest.raises(ConfigError, match=r"has to name \{criterion\}"):
        Rubric.of({"criteria": criteria, "templates": {"score": "{answer}"}}, "here")
    Rubric.of({"criteria": criteria[:1], "templates": {"score": "{answer}"}}, "here")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xff")
    for name in ("missing.txt", "missing.yaml", "latin.txt"):
        with pytest.raises(ConfigError, match=r"PL102.*cannot be read|PL102.*rubric has errors"):
            Rubric.read(tmp_path / name)
    (tmp_path / "empty.md").write_text(" \n")
    with pytest.raises(ConfigError, match="is empty"):
        Rubric.read(tmp_path / "empty.md")


@pytest.mark.parametrize(("text", "pair"), [("1-10", (1, 10)), ("0 to 4", (0, 4)), ("1..7", (1, 7)), ("1–5", (1, 5))])
def test_scales_in_a_line(text: str, pair: tuple[int, int]) -> None:
    assert read_scale(text) == pair


@pytest.mark.parametrize("value", ["ten", "1", "-1-3", 5, None, [True, 3], [3, 3], "2-1"])
def test_what_is_no_scale(value: Any) -> None:
    with pytest.raises(ValueError, match="scale"):
        read_scale(value)
