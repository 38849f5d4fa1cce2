"""Reward models as rewards."""

from __future__ import annotations

from pathlib import Path

import pytest

from plaudit.errors import RewardError
from plaudit.rewards.contract import Sample
from plaudit.rewards.models.model import RewardModel
from plaudit.rewards.spec import read_specs
from plaudit.rewards.trained import ModelOptions, ModelReward
from tests.rewards.models.writing import write_foreign, write_own


def test_scores_are_those_of_the_model(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Answers of several prompts in any order: what the model says of each alone."""
    folder = write_foreign(tmp_path / "rm", tiny_model_dir)
    samples = [Sample(p, a) for p, a in [("ab", "c"), ("b", "d"), ("ab", "efg"), ("b", "c"), ("ab", "c")]]
    results = ModelReward(ModelOptions(path=str(folder))).score(samples)
    model = RewardModel.load(folder)
    alone = [model.score([(s.prompt, [s.completion])])[0][0] for s in samples]
    assert [r.value for r in results] == pytest.approx(alone, abs=1e-5)
    assert len({round(v, 6) for v in alone}) > 2


def test_an_answer_that_is_too_long_costs_itself_only(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = write_foreign(tmp_path / "rm", tiny_model_dir)
    reward = ModelReward(ModelOptions(path=str(folder)))
    short, long = Sample("ab", "c"), Sample("ab", "word " * 5000)
    results = reward.score([short, long, short])
    assert results[0].value == results[2].value
    assert results[0].value is not None
    assert results[1].error is not None
    assert results[1].error.kind == "bad_row"
    cut = ModelReward(ModelOptions(path=str(folder), overlong="truncate")).score([long])[0]
    assert cut.value is not None


def test_a_language_model_is_refused_when_it_is_asked(tiny_model_dir: Path) -> None:
    reward = ModelReward(ModelOptions(path=str(tiny_model_dir)))
    with pytest.raises(RewardError, match="PL701"):
        reward.score([Sample("a", "b")])


def test_a_folder_is_a_reward_and_its_content_is_part_of_what_is_remembered(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = write_own(tmp_path / "rm", tiny_model_dir)
    [part] = read_specs([str(folder)]).reward.parts
    before = part.reward.fingerprint()
    (folder / "note.txt").write_text("changed")
    assert part.reward.fingerprint() != before
    assert part.reward.name == "model"


def test_what_was_cut_is_told(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = write_foreign(tmp_path / "rm", tiny_model_dir)
    reward = ModelReward(ModelOptions(path=str(folder), overlong="truncate"))
    assert reward.remarks() == []
    reward.score([Sample("ab", "word " * 5000), Sample("ab", "c")])
    assert "1 conversations were too long and lost their oldest tokens" in reward.remarks()


def test_answers_are_scored_while_an_engine_makes_the_next(tiny_model_dir: Path, tmp_path: Path) -> None:
    """The groups of a real engine through `Scoring.stream`: the same values as afterwards, in order."""
    from plaudit.engines.base import Sampling
    from plaudit.inference.sampling import Sampler
    from plaudit.rewards.scoring import Scoring
    from plaudit.types import PromptGroup

    folder = write_foreign(tmp_path / "rm", tiny_model_dir)
    sampler = Sampler.of(tiny_model_dir)
    prompts = [sampler.prompt_ids(p, chat=False, where="p") for p in ("ab", "b c", "d")]
    scoring = Scoring(ModelReward(ModelOptions(path=str(folder))))

    def samples(group: PromptGroup) -> list[list[Sample]]:
        return [[Sample(str(group.prompt_text), c.text or "") for c in group.completions]]

    made = sampler.sample(prompts, 4, Sampling(max_new_tokens=6))
    streamed = [(group, scored.values) for group, [scored] in scoring.stream(made, samples)]
    assert len(streamed) == 3
    for group, values in streamed:
        [afterwards] = scoring.score(samples(group))
        assert values == pytest.approx(afterwards.values, abs=1e-5)
