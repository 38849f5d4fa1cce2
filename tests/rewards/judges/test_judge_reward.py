"""`kind: judge` as configurations use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plaudit.data.turns import Message
from plaudit.errors import ConfigError, RewardError
from plaudit.rewards.contract import Sample
from plaudit.rewards.judges.reward import JudgeOptions, JudgeReward
from plaudit.rewards.registry import reward_class
from plaudit.rewards.scoring import Scoring
from plaudit.rewards.spec import read_specs
from tests.rewards.judges.scripted import Said, Script, Scripted, asked, error, says

Start = Callable[[Script], Scripted]


def samples(*answers: str, **row: Any) -> list[Sample]:
    return [Sample("Which colour is the sky?", answer, row) for answer in answers]


def by_word(body: dict[str, Any]) -> Said:
    """10 for an answer with "blue", 1 for others."""
    return says("10" if "blue" in asked(body).partition("<answer")[2] else "1")


def test_it_is_registered() -> None:
    assert reward_class("judge") is JudgeReward


def test_scores_of_samples(scripted: Start) -> None:
    server = scripted(by_word)
    reward = JudgeReward(JudgeOptions(endpoint=server.url))
    results = reward.score(samples("It is blue.", "Green.", "", "<think>blue"))
    assert [r.value for r in results] == [1.0, 0.0, 0.0, 0.0]
    assert results[2].note == results[3].note == "the answer is empty"
    assert len(server.requests) == 2
    assert reward.score(samples("<think>blue</think>Green."))[0].value == 0.0
    assert reward.remarks() == ["the endpoint gives no log-probs (it leaves them out): its text is read"]
    reward.close()
    assert len(reward.remarks()) == 1  # what was noticed stays


def test_the_whole_answer_where_that_is_asked_for(scripted: Start) -> None:
    reward = JudgeReward(JudgeOptions(endpoint=scripted(by_word).url, over="all"))
    assert reward.score(samples("<think>blue</think>Green."))[0].value == 1.0
    reward.close()


def test_comparing_with_the_rows_reference(scripted: Start) -> None:
    def script(body: dict[str, Any]) -> Said:
        first = asked(body).partition("<answer_A")[2].partition("</answer_A")[0]
        return says("A" if "blue" in first else "B")

    reward = JudgeReward(JudgeOptions(endpoint=scripted(script).url, mode="compare"))
    assert reward.columns == ("reference",)
    good, bad = reward.score(samples("It is blue.", reference="No.") + samples("No.", reference="It is blue."))
    assert (good.value, bad.value) == (1.0, 0.0)
    assert good.parts == {"consistent": 1.0, "p_first": 0.5}
    turns = [{"role": "assistant", "content": "It is blue."}]
    [same, missing, wrong] = reward.score(
        [
            Sample("?", [Message(role="assistant", content="It is blue.")], {"reference": turns}),
            *samples("It is blue."),
            *samples("It is blue.", reference=7),
        ]
    )
    assert same.value == 0.5
    for failed in (missing, wrong):
        assert failed.error is not None
        assert failed.error.kind == "bad_row"
    assert reward.remarks()[-1].startswith("both orders agree in 100% of 2 comparisons")
    reward.close()


def test_a_reference_is_shown_to_a_judge_that_scores(scripted: Start) -> None:
    server = scripted(lambda body: says("9" if "azure" in asked(body) else "2"))
    reward = JudgeReward(JudgeOptions(endpoint=server.url, reference="gold"))
    assert reward.columns == ("gold",)
    assert reward.score(samples("It is blue.", gold="azure"))[0].value == pytest.approx(8 / 9)
    assert JudgeReward(JudgeOptions(endpoint=server.url)).columns == ()
    reward.close()


def test_a_configuration_in_a_line_and_in_a_file(scripted: Start, tmp_path: Path) -> None:
    server = scripted(by_word)
    (tmp_path / "rubric.yaml").write_text("scale: 0-10\ncriteria:\n  - {name: blue, description: It says blue.}\n")
    (tmp_path / "rewards.yaml").write_text(
        f"rewards:\n  - kind: judge\n    name: colour\n    endpoint: {server.url}\n    rubric: {tmp_path}/rubric.yaml\n"
    )
    spec = read_specs([str(tmp_path / "rewards.yaml")])
    [group] = Scoring(spec.reward).score([samples("It is blue.", "Green.", "It is blue.")])
    assert group.values == pytest.approx([1.0, 0.1, 1.0])
    assert len(server.requests) == 2  # a pure reward is remembered
    spec.reward.close()
    spec = read_specs([f"judge:endpoint={server.url},scale=1-5,retries=0"])
    [group] = Scoring(spec.reward, max_error_fraction=1).score([samples("Green.")])
    assert group.values == [0.0]
    spec.reward.close()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "one of endpoint"),
        ({"endpoint": "http://localhost/v1", "model": "x"}, "one of endpoint"),
        ({"model": "x", "timeout": 3, "api_key_env": "K"}, "api_key_env and timeout mean nothing with model"),
        ({"endpoint": "http://localhost/v1", "precision": "fp32"}, "precision mean nothing with endpoint"),
        ({"endpoint": "http://localhost/v1", "scale": "5-1"}, "scale"),
        ({"endpoint": "http://localhost/v1", "mode": "compare", "scale": "1-5"}, "nothing in a comparison"),
        ({"endpoint": "http://localhost/v1", "temprature": 1}, "did you mean temperature"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_specs([{"kind": "judge", **options}])
    assert caught.value.code == "PL100"
    assert what in str(caught.value)


def test_a_wrong_rubric_is_found_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "rubric.yaml").write_text("criterion: x")
    with pytest.raises(ConfigError, match="did you mean criteria") as caught:
        JudgeReward(JudgeOptions(endpoint="http://localhost/v1", rubric=str(tmp_path / "rubric.yaml")))
    assert caught.value.code == "PL102"


def test_a_refused_key_stops_the_scoring(scripted: Start) -> None:
    reward = JudgeReward(JudgeOptions(endpoint=scripted(lambda _: error(401, "no")).url))
    with pytest.raises(RewardError, match="PL708"):
        Scoring(reward).score([samples("It is blue.")])
    reward.close()


def test_what_decides_about_a_value_is_in_the_fingerprint(tmp_path: Path, judge_dir: Path) -> None:
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("It is kind.")

    def fingerprint(**options: Any) -> str:
        given: dict[str, Any] = {"endpoint": "http://localhost/v1", "rubric": str(rubric)}
        return JudgeReward(JudgeOptions(**given | options)).fingerprint()

    first = fingerprint()
    assert first == fingerprint(timeout=5, retries=1, concurrency=2)
    (tmp_path / "copy.txt").write_text("It is kind.")
    assert first == fingerprint(rubric=str(tmp_path / "copy.txt"))
    different = [fingerprint(scale=(1, 5)), fingerprint(reasoning=True), fingerprint(endpoint_model="other")]
    rubric.write_text("It is kind and short.")
    different.append(fingerprint())
    different.append(fingerprint(endpoint=None, model=str(judge_dir)))
    assert len({first, *different}) == 6
    hot = JudgeReward(JudgeOptions(endpoint="http://localhost/v1", temperature=0.7))
    assert not hot.pure
    assert hot.fingerprint() == ""


def test_a_model_in_this_process(judge_dir: Path) -> None:
    reward = JudgeReward(JudgeOptions(model=str(judge_dir), precision="fp32", least_mass=0.2))
    [result, again] = reward.score(samples("It is blue.", "It is blue."))
    assert result.value is not None
    assert 0 < result.value < 1
    assert result.value == pytest.approx(again.value)
    assert 0.2 < result.parts["mass"] <= 1
    reward.close()
    assert reward.score(samples("It is blue."))[0].value == pytest.approx(result.value)
    reward.close()
