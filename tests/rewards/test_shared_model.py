"""Reward models on the policy's base: the scores of the model loaded apart, and a reason where they cannot be there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import plaudit
from plaudit.config.schema import CriticSection, LoraSection, ModelConfig
from plaudit.errors import ModelError, RewardError, TrainingError
from plaudit.models.forest_model import ForestModel
from plaudit.models.load import load_model
from plaudit.models.role_adapters import drop_role_adapters
from plaudit.rewards.contract import Sample
from plaudit.rewards.models.ensemble import Ensemble
from plaudit.rewards.models.model import RewardModel, ScoringOptions, normalise
from plaudit.rewards.models.shared import SharedReward, critic_start, share_reward, value_start
from plaudit.rewards.trained import ModelOptions, ModelReward
from plaudit.train.critic_role import critic_for
from tests.conftest import write_tiny_model
from tests.models.test_role_adapters import scored, shake
from tests.rewards.models.writing import write_foreign, write_own

ANSWERS: list[Any] = [
    ("Which colour is the sky?", ["It is blue.", "I do not know."]),
    ("Tell me about cats.", ["No.", "Yes, please."]),
]
ITEMS: list[Any] = [
    *ANSWERS,
    ([{"role": "user", "content": "Tell me about cats."}], [[{"role": "assistant", "content": "No."}]]),
    ("Which colour is grass?", ["Green."]),
]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4},
    "other targets": {"r": 2, "alpha": 5.0, "target_modules": ["up_proj", "q_proj"]},
    "dora": {"r": 4, "dora": True},
    "rslora": {"r": 4, "rslora": True},
    "saved": {"r": 4, "modules_to_save": ["norm"]},
    "dropout": {"r": 4, "dropout": 0.2},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Any:
    """trained(variant) is the directory of a run of `plaudit reward` with LoRA."""
    folder = tmp_path_factory.mktemp("rewards")
    colours = ["blue", "green", "red", "grey"]
    rows = [
        {"prompt": f"Which colour is thing {i}?", "chosen": f"It is {colours[i % 4]}.", "rejected": "I do not know."}
        for i in range(12)
    ]

    def run(variant: str = "plain") -> Path:
        place = folder / variant.replace(" ", "_")
        if not place.exists():
            options = {"learning_rate": 3e-2, "groups_per_step": 4, "precision": "fp32", "system_prompt": "Be kind."}
            plaudit.train(
                "reward",
                model=str(tiny_model_dir),
                data=rows,
                lora=VARIANTS[variant],
                output_dir=str(place),
                observers=(),
                **options,
            )
        return place

    return run


def policy(folder: Path, precision: str = "fp32", **lora: Any) -> ForestModel:
    """A policy in the middle of its training."""
    config = ModelConfig(path=str(folder), precision=precision)
    loaded = load_model(config, LoraSection(**{"r": 4, **lora}))
    shake(loaded.model)
    return ForestModel(loaded.model, roles=loaded.roles, bos_id=loaded.tokenizer.bos_token_id)


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def flat(scores: list[list[float]]) -> list[float]:
    return [s for row in scores for s in row]


def shared(model: ForestModel, source: Path, **options: Any) -> SharedReward:
    found = share_reward(model, source, **options)
    assert isinstance(found, SharedReward), found
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_are_those_of_the_model_loaded_apart(variant: str, trained: Any, tiny_model_dir: Path) -> None:
    """Also beside a policy that adapts other layers, with its adapter active before and after."""
    run = trained(variant)
    apart = RewardModel.load(run)
    for targets in ("all-linear", ("v_proj",)):
        model = policy(tiny_model_dir, target_modules=targets)
        before = [scored(model, r, "logprob") for r in ("policy", "reference")]
        reward = shared(model, run)
        both = (reward.raw_score(ITEMS), apart.raw_score(ITEMS))
        assert flat(both[0]) == pytest.approx(flat(both[1]), abs=1e-5)
        assert len({round(s, 4) for s in flat(both[0])}) > 4
        after = [scored(model, r, "logprob") for r in ("policy", "reference")]
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        assert model.model.active_adapter == "default"


def test_what_training_moves_does_not_move_the_reward(trained: Any, tiny_model_dir: Path) -> None:
    model = policy(tiny_model_dir)
    reward = shared(model, trained())
    model.train()
    before = reward.score(ITEMS)
    shake(model)
    assert reward.score(ITEMS) == before
    assert model.training


def test_bf16_agrees_to_its_precision(trained: Any, tiny_model_dir: Path) -> None:
    reward = shared(policy(tiny_model_dir, "bf16"), trained())
    apart = RewardModel.load(trained(), precision="fp32")
    assert flat(reward.score(ITEMS)) == pytest.approx(flat(apart.score(ITEMS)), abs=0.1)


def test_the_normalisation_of_the_run_is_used_and_kept(trained: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained(), run)
    apart = RewardModel.load(run)
    normalise(apart, ANSWERS, std=1.0)
    apart.save_normalisation()
    reward = shared(policy(tiny_model_dir), run)
    assert not reward.normalisation.is_identity
    assert flat(reward.score(ITEMS)) == pytest.approx(flat(apart.score(ITEMS)), abs=1e-4)
    assert flat(reward.score(ITEMS)) != pytest.approx(flat(reward.raw_score(ITEMS)), abs=1e-2)
    normalise(reward, ITEMS, std=3.0)
    assert RewardModel.load(reward.save_normalisation().parent).normalisation == reward.normalisation
    reward.save(tmp_path / "copy")
    copied = RewardModel.load(tmp_path / "copy")
    assert flat(copied.score(ITEMS)) == pytest.approx(flat(reward.score(ITEMS)), abs=1e-4)


def test_every_form_of_the_run_is_found(trained: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    """The run, its model folder, the adapter in it, and the model folder away from its run."""
    run = trained()
    shutil.copytree(run / "model", tmp_path / "moved")
    expected = flat(RewardModel.load(run).score(ITEMS))
    for source in (run, run / "model", tmp_path / "moved"):
        assert flat(shared(policy(tiny_model_dir), source).score(ITEMS)) == pytest.approx(expected, abs=1e-5)
    adapter = run / "model" / "adapter"
    found = shared(policy(tiny_model_dir), adapter, base=str(tiny_model_dir))
    expected = flat(RewardModel.load(adapter, base=str(tiny_model_dir)).score(ITEMS))
    assert flat(found.score(ITEMS)) == pytest.approx(expected, abs=1e-5)


def test_the_reward_models_own_template_is_used(tiny_model_dir: Path, tmp_path: Path) -> None:
    own = write_own(tmp_path / "rm", tiny_model_dir, lora=True)
    other = tokenizer(own)
    other.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|im_end|>' }}{% endfor %}"
    other.save_pretrained(str(own))
    reward = shared(policy(tiny_model_dir), own)
    assert flat(reward.score(ITEMS)) == pytest.approx(flat(RewardModel.load(own).score(ITEMS)), abs=1e-5)
    assert flat(reward.score(ITEMS)) != pytest.approx(
        flat(shared(policy(tiny_model_dir), write_own(tmp_path / "same", tiny_model_dir, lora=True)).score(ITEMS))
    )


def test_a_conversation_that_is_too_long_is_refused_or_cut(trained: Any, tiny_model_dir: Path) -> None:
    long: Any = [("What?", ["word " * 400])]
    with pytest.raises(RewardError, match="PL705"):
        shared(policy(tiny_model_dir), trained()).score(long)
    options = ScoringOptions(overlong="truncate")
    reward = shared(policy(tiny_model_dir), trained(), options=options)
    apart = RewardModel.load(trained(), options=options)
    assert flat(reward.score(long)) == pytest.approx(flat(apart.score(long)), abs=1e-5)
    assert reward.truncated == 1


# -- where it cannot be


def test_what_cannot_share_the_base_says_why_and_leaves_the_policy(
    trained: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "other", seed=3)
    ensemble = tmp_path / "ensemble"
    models: Any = [RewardModel.load(write_own(tmp_path / f"m{i}", tiny_model_dir, seed=i)) for i in (1, 2)]
    Ensemble.build(models, ANSWERS).save(ensemble)
    cases: list[tuple[Path | str, dict[str, Any], str]] = [
        (write_own(tmp_path / "base", other, lora=True), {}, "another base"),
        (write_own(tmp_path / "full", tiny_model_dir), {}, "trained in full"),
        (write_foreign(tmp_path / "foreign", tiny_model_dir), {}, "not trained by `plaudit reward`"),
        (ensemble, {}, "ensemble"),
        (trained(), {"precision": "bf16"}, "bf16"),
    ]
    for source, options, part in cases:
        model = policy(tiny_model_dir)
        names = [n for n, _ in model.named_parameters()]
        reason = share_reward(model, source, **options)
        assert isinstance(reason, str)
        assert part in reason
        assert [n for n, _ in model.named_parameters()] == names
        assert set(model.roles) == {"policy", "reference"}


def test_an_adapter_beside_another_model_is_not_taken(trained: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(trained() / "model", tmp_path / "rm")
    card = json.loads((tmp_path / "rm" / "plaudit.json").read_text())
    (tmp_path / "rm" / "plaudit.json").write_text(json.dumps({**card, "head_fingerprint": "0" * 40}))
    assert "did not start from the same" in str(share_reward(policy(tiny_model_dir), tmp_path / "rm"))


def test_a_policy_that_is_trained_in_full_has_no_base_to_share(trained: Any, tiny_model_dir: Path) -> None:
    loaded = load_model(ModelConfig(path=str(tiny_model_dir), precision="fp32"))
    assert "trained in full" in str(share_reward(ForestModel(loaded.model, roles=loaded.roles), trained()))


def test_there_is_one_place_for_a_reward_model(trained: Any, tiny_model_dir: Path) -> None:
    model = policy(tiny_model_dir)
    shared(model, trained())
    assert "already" in str(share_reward(model, trained("dora")))
    drop_role_adapters(model)
    shared(model, trained("dora"))


# -- as a reward


def test_a_reward_scores_through_the_policys_base(trained: Any, tiny_model_dir: Path) -> None:
    samples = [Sample(p, a) for p, answers in ANSWERS for a in answers]
    expected = [r.value for r in ModelReward(ModelOptions(path=str(trained()), precision="fp32")).score(samples)]
    reward = ModelReward(ModelOptions(path=str(trained()), precision="fp32"))
    assert not reward.shared
    model = policy(tiny_model_dir)
    assert reward.share(model) is None
    assert reward.shared
    assert isinstance(reward.model, SharedReward)
    assert [r.value for r in reward.score(samples)] == pytest.approx(expected, abs=1e-5)
    assert any("adapter on the policy's base" in line for line in reward.remarks())
    reward.close()
    assert not reward.shared


def test_a_reward_that_cannot_share_is_loaded_apart(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = write_own(tmp_path / "rm", tiny_model_dir)
    reward = ModelReward(ModelOptions(path=str(folder)))
    assert reward.share(policy(tiny_model_dir)) == "it was trained in full, so it has no adapter"
    assert not reward.shared
    assert reward.score([Sample("ab", "c")])[0].value is not None


# -- as a critic's start


@pytest.mark.parametrize("case", ["shared", "merged", "adapter"])
def test_a_critic_starts_as_the_normalised_reward(
    case: str, trained: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """At the position where a reward model reads, the value is the normalised score."""
    model = policy(tiny_model_dir)
    source = trained() if case != "adapter" else trained() / "model" / "adapter"
    base = {"base": str(tiny_model_dir)} if case == "adapter" else {}
    reward: RewardModel = shared(model, source) if case == "shared" else RewardModel.load(source, **base)
    normalise(reward, ANSWERS, std=2.0)
    section = CriticSection(start="reward", separate=case != "shared")
    start = critic_start(section, reward, tokenizer(tiny_model_dir))
    critic = critic_for(model, section, start)
    plain: Any = RewardModel.load(source, **base)
    raw = scored(plain.scorer.model, "reward", "last")
    expected = torch.tensor([reward.normalisation(float(s)) for s in raw])
    torch.testing.assert_close(scored(critic, "critic", "last"), expected, atol=1e-5, rtol=0)
    assert float(scored(critic, "critic", "value").std()) > 0
    if case != "shared":
        assert not any("score" in n for n, p in critic.named_parameters() if p.requires_grad)
        shake(critic)
        assert torch.equal(scored(plain.scorer.model, "reward", "last"), raw)


def test_a_path_names_a_reward_model_or_a_language_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    own = write_own(tmp_path / "rm", tiny_model_dir)
    mine = tokenizer(tiny_model_dir)
    start = critic_start(CriticSection(path=str(own)), None, mine, precision="fp32")
    assert start is not None
    model = policy(tiny_model_dir)
    critic = critic_for(model, CriticSection(path=str(own)), start)
    plain: Any = RewardModel.load(own, precision="fp32")
    torch.testing.assert_close(
        scored(critic, "critic", "last"), scored(plain.scorer.model, "reward", "last"), atol=1e-5, rtol=0
    )
    assert critic_start(CriticSection(path=str(tiny_model_dir)), None, mine) is None
    assert critic_start(CriticSection(), plain, mine) is None
    with pytest.raises(ModelError, match="PL301"):
        critic_start(CriticSection(path=str(tmp_path / "nowhere")), None, mine)


def test_what_has_no_single_head_is_no_start(tiny_model_dir: Path, tmp_path: Path) -> None:
    models: Any = [RewardModel.load(write_own(tmp_path / f"m{i}", tiny_model_dir, seed=i)) for i in (1, 2)]
    mine = tokenizer(tiny_model_dir)
    with pytest.raises(TrainingError, match="PL405"):
        value_start(Ensemble.build(models, ANSWERS), mine)
    mine.add_special_tokens({"additional_special_tokens": ["<new>"]})
    with pytest.raises(ModelError, match="PL306") as caught:
        value_start(models[0], mine)
    assert "'<new>'" in str(caught.value)
