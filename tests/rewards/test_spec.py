"""Rewards as configurations write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import ConfigError
from plaudit.rewards.cache import Cached
from plaudit.rewards.contract import Reward, RewardOptions, RewardResult, Sample
from plaudit.rewards.registry import KINDS, listed, reward_class
from plaudit.rewards.spec import read_specs
from plaudit.rewards.steps import SHAPINGS


def one(spec: Any, completion: str = "a b c", row: dict[str, Any] | None = None, **more: Any) -> RewardResult:
    return read_specs([spec] if not isinstance(spec, list) else spec).reward.score(
        [Sample("q", completion, row or {}, **more)]
    )[0]


def refused(*specs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read_specs(list(specs))
    return str(caught.value)


def test_every_kind_has_what_the_list_shows() -> None:
    for kind, cls in listed().items():
        assert issubclass(cls, Reward)
        assert cls.kind == kind
        assert cls.title
        assert not cls.title.endswith(".")
        assert cls.__doc__
        assert issubclass(cls.Options, RewardOptions)
        for name, info in cls.Options.model_fields.items():
            assert info.description, f"{kind}.{name} is not explained"


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_read(kind: str) -> None:
    """An option that nothing reads would be a promise without a keeper."""
    cls = reward_class(kind)
    import inspect
    import sys

    module = sys.modules[cls.__module__]
    folder = Path(str(module.__file__)).parent
    source = "".join(f.read_text() for f in folder.rglob("*.py")) + inspect.getsource(module)
    for name in cls.Options.model_fields:
        assert f".{name}" in source or f'"{name}"' in source, f"{kind}.{name}"


def test_a_reward_in_a_line() -> None:
    assert one("length:unit=words,most=3").value == 1
    assert one("length:unit=words,most=2").value == 0
    assert one("length:unit=words,most=2,slack=2,weight=3,name=short").parts == {"short": 0.5, "short/words": 3}
    assert one("format:tags=[a, b],outside=anything", "<a>1</a><b>2</b>").value == 1
    assert one(r"regex:pattern='a, b'", "a, b").value == 1


def test_several_lines_are_added() -> None:
    result = one(["length:unit=words,most=3,name=x", "repetition:weight=2"])
    assert result.value == 3
    assert set(result.parts) == {"x", "x/words", "repetition"}


def test_functions_and_mappings(tmp_path: Path) -> None:
    file = tmp_path / "mine_of_test_spec.py"
    file.write_text("def short(completion):\n    return 1.0 / len(completion)\n")
    assert one(f"{file}:short").parts == {"short": 0.2}
    assert one(f"{file}:short:weight=2").value == 0.4
    assert one(f"{file}:short,weight=2").value == 0.4
    assert one({"function": f"{file}:short", "weight": 10}).value == 2
    assert one({"kind": "length", "most": 5, "unit": "words"}).value == 1


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rewards.yaml"
    file.write_text(
        "rewards:\n"
        "  - kind: format\n    tags: [answer]\n    at_least: 1\n    otherwise: -1\n"
        "  - kind: length\n    unit: words\n    most: 10\n    weight: 4\n"
        "  - repetition\n"
        "shaping:\n  - clip: {high: 2.5}\n  - length_penalty: {free: 2, per_unit: 0.5, unit: words}\n"
        "retries: 5\nmax_reward_error_fraction: 0.5\ncache: 0\n"
    )
    spec = read_specs([str(file)])
    assert (spec.config.retries, spec.config.max_reward_error_fraction, spec.config.cache) == (5, 0.5, 0)
    good, bad = spec.reward.score([Sample("q", "<answer>x</answer>"), Sample("q", "x")])
    assert good.value == 2.5 - 0.5  # three words: answer, x, answer
    assert good.parts["total"] == 5
    assert bad.value == -1
    assert not any(isinstance(p.reward, Cached) for p in spec.reward.parts)
    assert read_specs([str(file)], retries=0, cache=None).config.retries == 0


def test_all_errors_of_a_file_at_once_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "rewards.yaml"
    file.write_text(
        "rewards:\n"
        "  - kind: lenght\n    most: 3\n"
        "  - kind: length\n    mosst: 3\n"
        "  - kind: length\n    most: many\n"
        "  - kind: regex\n"
        "  - kind: length\n    most: 3\n    otherwise: 1\n"
        "  - 5\n"
        "shaping:\n  - clip: {low: 2, high: 1}\n  - clamp: {}\n"
        "retrys: 3\nretries: -1\n"
    )
    text = refused(str(file))
    for part in (
        "rewards.yaml:2",
        "did you mean length?",
        "mosst",
        "did you mean most?",
        "'many'",
        "pattern  is required",
        "otherwise needs at_least",
        "low below high",
        "one of clip",
        "did you mean retries?",
        "got -1",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mth", "did you mean math?"),
        ("nothing_like_it", "`plaudit rewards` lists"),
        ("length:most", "is not key=value"),
        ("missing.yaml", "cannot be read"),
        ("no_module_of_this_name:reward", "cannot be imported"),
        ({"kind": "length"}, "least, most or both"),
        ({"most": 3}, "kind"),
        ({"kind": "length", "most": 3, "weight": float("nan")}, "finite"),
        ({"kind": "length", "most": 3, "at_least": 1, "weight": 2}, "weight means nothing"),
        ({"kind": "length", "most": 3, "at_least": 1}, "all of them are gates"),
    ],
)
def test_what_is_no_reward_is_explained(spec: Any, says: str) -> None:
    assert says in refused(spec)


def test_two_of_the_same_name_need_names() -> None:
    assert "called 'length'" in refused("length:most=3", "length:most=5")
    assert "no reward is given" in refused()


def test_an_empty_file_names_no_reward(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("retries: 1\n")
    assert "names no reward" in refused(str(tmp_path / "r.yaml"))
    (tmp_path / "r.yaml").write_text("rewards: math\n")
    assert "begins with a dash" in refused(str(tmp_path / "r.yaml"))


def test_pure_rewards_remember_and_others_do_not(tmp_path: Path) -> None:
    file = tmp_path / "mine_of_test_memory.py"
    file.write_text("def f(completion):\n    return 1\n")
    spec = read_specs(["repetition", f"{file}:f", f"{file}:f:pure=true,name=g"])
    assert [isinstance(p.reward, Cached) for p in spec.reward.parts] == [True, False, True]


SHAPED: list[tuple[dict[str, Any], float]] = [
    ({"clip": {"low": 0, "high": 0.5}}, 0.5),
    ({"standardise": {"mean": 0.5, "std": 0.25}}, 2.0),
    ({"length_penalty": {"free": 1, "per_unit": 0.25, "unit": "words"}}, 0.5),
    ({"length_penalty": {"free": 100, "per_unit": 0.25}}, 0.0),
    ({"soft_overlong": {"longest": 108, "cache": 8}}, 0.5),
    ({"threshold": {"at": 1.0, "above": 7, "below": -7}}, 7.0),
    ({"par": {}}, 0.5),
    ({"log_sigmoid": {"mean": 1.0, "std": 1e-12}}, -0.6931471805599453),
]


@pytest.mark.parametrize(("step", "expected"), SHAPED, ids=lambda v: next(iter(v)) if isinstance(v, dict) else "")
def test_shaping_of_a_reward_of_one(step: dict[str, Any], expected: float) -> None:
    spec = {"rewards": ["repetition"], "shaping": [step]}
    result = one(spec, "a b c", {"reference_scores": [1.0, 1.0]}, tokens=104)
    assert result.value == pytest.approx(expected, abs=1e-9)


def test_every_shaping_is_tested() -> None:
    assert {next(iter(step)) for step, _ in SHAPED} == set(SHAPINGS)


def test_par_with_references_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "references.jsonl"
    rows = [
        {"prompt": "q", "completion": "x", "score": 0.0},
        {"prompt": "q", "completion": "y", "score": 2.0},
        {"prompt": "q", "completion": "z", "score": None},
        {"prompt": "other", "completion": "x", "score": 9.0},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = read_specs([{"rewards": ["repetition"], "shaping": [{"par": {"references": str(file), "temperature": 2}}]}])
    known, unknown = spec.reward.score([Sample("q", "a b c"), Sample("p", "a b c")])
    sigmoids = 0.6224593312018546, 0.3775406687981454  # σ(1/2), σ(−1/2)
    assert known.value == pytest.approx(sum(sigmoids) / 2)
    assert unknown.error is not None
    assert unknown.error.kind == "bad_row"


@pytest.mark.parametrize("given", [None, [], "x", [1.0, None], [True], float("nan")])
def test_par_without_usable_references_is_a_bad_row(given: Any) -> None:
    spec = {"rewards": ["repetition"], "shaping": [{"par": {}}]}
    error = one(spec, row={"reference_scores": given}).error
    assert error is not None
    assert error.kind == "bad_row"


def test_a_file_without_scores_gives_no_references(tmp_path: Path) -> None:
    file = tmp_path / "references.jsonl"
    file.write_text('{"prompt": "q", "completion": "x"}\n')
    spec = {"rewards": ["repetition"], "shaping": [{"par": {"references": str(file)}}]}
    assert "no row has a prompt and a score" in refused(spec)  # before anything is scored
    file.write_text('{"prompt": [5], "completion": "x", "score": 1}\n')
    assert "references.jsonl:1" in refused(spec)


def test_options_in_a_line_are_read_as_they_are_written() -> None:
    assert one(r"regex:pattern=\d{1,3},weight=2", "42").value == 2
    assert one("regex:pattern=don't,weight=2", "don't").value == 2
    assert one("regex:pattern=a #b", "a #b").value == 1
    assert "is given twice" in refused("exact:tag=a,tag=b")
    assert "stands before the colon" in refused("exact:kind=choice")


def test_what_is_found_when_a_reward_is_made_is_one_of_the_errors(tmp_path: Path) -> None:
    file = tmp_path / "rewards.yaml"
    file.write_text("rewards:\n  - kind: regex\n    pattern: (\n  - kind: length\n    most: 3\n    weight: heavy\n")
    text = refused(str(file))
    assert "rewards.yaml:6  weight" in text
    file.write_text("rewards:\n  - kind: regex\n    pattern: (\n  - no_file_of_this_name.py:f\n")
    text = refused(str(file))
    assert "rewards.yaml:2" in text
    assert "no regular expression" in text
    assert "rewards.yaml:4" in text


@pytest.mark.parametrize(
    "given",
    [{"rewards": None}, {"rewards": "exact"}, {"rewards": ["repetition"], "shaping": None}, 5, None, "~nobody/x"],
)
def test_values_of_other_types_are_explained(given: Any) -> None:
    assert "PL100" in refused(given)


def test_shaping_in_a_file_is_for_that_file_alone(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("rewards:\n  - repetition\nshaping:\n  - clip: {low: 0}\n")
    assert "put them all into the file" in refused(str(tmp_path / "r.yaml"), "length:most=3")


def test_a_part_applies_only_where_its_column_is() -> None:
    spec = {"rewards": [{"kind": "repetition", "when": {"task": None}}]}
    assert one(spec, row={"task": None}).value == 1
    error = one(spec, row={}).error
    assert error is not None
    assert error.kind == "bad_row"
