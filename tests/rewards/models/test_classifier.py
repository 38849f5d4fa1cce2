"""Single reward models: the score is the one that the model's own forward gives for what it was trained to read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from plaudit.config.schema import ModelConfig
from plaudit.data.prepare import prepare
from plaudit.data.render import Renderer
from plaudit.data.turns import as_messages
from plaudit.errors import ConfigError, DataError, ModelError, PlauditError, RewardError
from plaudit.models.forest_model import ForestModel
from plaudit.models.load import load_model
from plaudit.rewards.models.classifier import Classifier
from plaudit.rewards.models.model import RewardModel, ScoringOptions
from plaudit.rewards.models.scorers import OwnForward, PackedScorer
from plaudit.train.parallel import World
from plaudit.train.scorer import GroupScorer
from tests.rewards.models.writing import write_foreign, write_own

Maker = Callable[..., Path]


@torch.no_grad()
def by_transformers(folder: Path, ids: list[int]) -> float:
    """What transformers itself says about a row of token ids."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    return float(model(input_ids=torch.tensor([ids])).logits)


def chat_ids(folder: Path, prompt: Any, answer: Any) -> list[int]:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    turns = (prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]) + (
        answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
    )
    return list(tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False))


def expected(folder: Path, items: list[Any]) -> list[list[float]]:
    return [[by_transformers(folder, chat_ids(folder, p, a)) for a in answers] for p, answers in items]


def close(a: list[list[float]], b: list[list[float]], tolerance: float = 1e-5) -> None:
    assert [len(x) for x in a] == [len(x) for x in b]
    assert np.abs(np.concatenate(a) - np.concatenate(b)).max() < tolerance


# -- from elsewhere


def test_a_foreign_model_reads_the_whole_conversation(foreign_dir: Path, items: list[Any]) -> None:
    model = Classifier.open(foreign_dir)
    assert isinstance(model.scorer, PackedScorer)
    assert model.scorer.model.path == "forest"
    close(model.score(items), expected(foreign_dir, items))
    # the template ends with a line end behind the end of turn: that is what is read
    tokenizer = model.loaded.tokenizer
    assert tokenizer.decode(model.layout.groups(items)[0].completions[0].token_ids).endswith("<|im_end|>\n")  # type: ignore[attr-defined]


def test_answers_share_their_prompt_and_the_budget_changes_nothing(foreign_dir: Path, items: list[Any]) -> None:
    model = Classifier.open(foreign_dir)
    group = model.layout.groups(items)[0]
    assert len(group.prompt_ids) > len(group.completions[0].token_ids)
    tight = RewardModel.load(foreign_dir, options=ScoringOptions(tokens=1))
    close(model.score(items), tight.score(items))
    alone = [[model.score([(p, [a])])[0][0] for a in answers] for p, answers in items]
    close(model.score(items), alone)


def test_equal_answers_and_prefixes_of_each_other(foreign_dir: Path) -> None:
    items = [("Sky?", ["Blue", "Blue", "Blue and green", ""]), ("Nobody answered", [])]
    scores = RewardModel.load(foreign_dir).score(items)
    assert scores[0][0] == pytest.approx(scores[0][1], abs=1e-6)
    assert scores[1] == []
    close(scores[:1], expected(foreign_dir, items[:1]))


def test_no_pad_token_is_needed(foreign_dir: Path, tmp_path: Path, items: list[Any]) -> None:
    folder = tmp_path / "rm"
    shutil.copytree(foreign_dir, folder)
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text())
        values.pop("pad_token_id", None)
        values.pop("pad_token", None)
        (folder / name).write_text(json.dumps(values))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    model = Classifier.open(folder)
    assert model.loaded.tokenizer.pad_token_id is None
    close(model.score(items), expected(foreign_dir, items))


def test_trailing_padding_is_no_content(foreign_dir: Path, tmp_path: Path, items: list[Any]) -> None:
    """transformers reads the last token that is not padding: with a template that ends in it, the one before."""
    folder = tmp_path / "rm"
    shutil.copytree(foreign_dir, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("+ '\n' }}{% endfor %}", "}}{% endfor %}"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 2}))  # <|im_end|>
    ids = chat_ids(folder, *("Sky?", "Blue"))
    assert ids[-1] == 2
    scored = RewardModel.load(folder).score([("Sky?", ["Blue"])])
    close(scored, [[by_transformers(folder, ids)]])
    assert abs(scored[0][0] - by_transformers(folder, [*ids, 4])) > 1e-3  # what another end would give


def test_plain_text_without_a_template(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = write_foreign(tmp_path / "rm", tiny_model_dir, chat=False)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Sky? Blue.")["input_ids"]
    items = [("Sky?", [" Blue."])]
    close(RewardModel.load(folder).score(items), [[by_transformers(folder, [*ids, 2])]])
    bare = RewardModel.load(folder, options=ScoringOptions(append_eos=False))
    close(bare.score(items), [[by_transformers(folder, ids)]])
    close(RewardModel.load(folder).score([("Sky?", [" Blue.<|im_end|>"])]), [[by_transformers(folder, [*ids, 2])]])
    with pytest.raises(DataError, match="no chat template") as caught:
        bare.score([([{"role": "user", "content": "Sky?"}], ["Blue."])])
    assert caught.value.code == "PL208"


def test_text_can_be_read_plain_where_there_is_a_template(foreign_dir: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(foreign_dir)
    plain = RewardModel.load(foreign_dir, options=ScoringOptions(plain_text=True))
    wanted = by_transformers(foreign_dir, [*tokenizer("Sky? Blue.")["input_ids"], 2])
    close(plain.score([("Sky?", [" Blue."])]), [[wanted]])
    messages = [([{"role": "user", "content": "Sky?"}], ["Blue."])]
    close(plain.score(messages), expected(foreign_dir, messages))


def test_another_architecture(tmp_path: Path, tiny_model_dir: Path, items: list[Any]) -> None:
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=300, n_positions=256, n_embd=32, n_layer=2, n_head=2, num_labels=1, pad_token_id=0)
    GPT2ForSequenceClassification(config).save_pretrained(str(tmp_path))
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(str(tmp_path))
    close(RewardModel.load(tmp_path).score(items), expected(tmp_path, items))


def test_an_encoder_is_scored_by_its_own_forward(tmp_path: Path, tiny_model_dir: Path, items: list[Any]) -> None:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=1
    )
    BertForSequenceClassification(config).save_pretrained(str(tmp_path))
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(str(tmp_path))
    model = Classifier.open(tmp_path)
    assert isinstance(model.scorer, OwnForward)
    assert any("own forward" in note for note in model.notes)
    close(model.score(items), expected(tmp_path, items))


# -- from here


def trained_scores(folder: Path, rows: list[dict[str, Any]], kind: Any) -> list[list[float]]:
    """The scores that training's own path gives to rows of training."""
    loaded = load_model(ModelConfig(path=str(folder), precision="fp32"), train=False, task="reward")
    groups = prepare(rows, kind, Renderer(loaded.tokenizer)).groups
    model = ForestModel(loaded.model, roles=loaded.roles, bos_id=loaded.tokenizer.bos_token_id)
    scored = GroupScorer({"reward": model}, World(), 512)("reward", groups)
    return [[float(c.last) for c in group] for group in scored if all(c.last is not None for c in group)]


PAIRS = [
    {"prompt": "Which colour is the sky?", "chosen": "It is blue.", "rejected": "I do not know."},
    {"prompt": [{"role": "user", "content": "Cats?"}], "chosen": [{"role": "assistant", "content": "Yes."}],
     "rejected": [{"role": "assistant", "content": "The capital of France is Paris."}]},
]  # fmt: skip


@pytest.mark.parametrize("lora", [False, True])
def test_own_models_score_as_in_training(own: Maker, lora: bool) -> None:
    folder = own("rm", lora=lora)
    items = [(row["prompt"], [row["chosen"], row["rejected"]]) for row in PAIRS]
    model = Classifier.open(folder)
    assert model.loaded.found.trained_here
    assert model.score(items) == trained_scores(folder, PAIRS, "ranking")  # to the bit: the same groups
    last = [int(c.token_ids[-1]) for g in model.layout.groups(items) for c in g.completions]
    assert last == [2, 2, 2, 2]  # the end of turn, without the template's line end
    group = model.layout.groups(items)[1]
    ids = np.concatenate([group.prompt_ids, group.completions[0].token_ids]).tolist()
    close([[model.score(items)[1][0]]], [[by_transformers(folder, ids)]])


def test_an_adapter_folder_finds_base_and_tokenizer(own: Maker, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = own("rm", lora=True)
    items = [(row["prompt"], [row["chosen"], row["rejected"]]) for row in PAIRS]
    whole, adapter = RewardModel.load(folder), RewardModel.load(folder / "adapter")
    close(whole.score(items), adapter.score(items))
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny_model_dir, moved)
    close(RewardModel.load(folder / "adapter", base=str(moved)).score(items), whole.score(items))
    with pytest.raises(ConfigError, match="only for adapters"):
        RewardModel.load(folder, base=str(moved))


def test_own_models_refuse_what_training_refuses(own: Maker) -> None:
    model = RewardModel.load(own("rm"))
    for items, what in [
        ([("", ["a"])], "prompt is empty"),
        ([("a", ["b", [{"role": "assistant", "content": "c"}]])], "some answers are text"),
        ([("a", [None])], "missing"),
        ([([{"role": "assistant", "content": "c"}], ["b"])], "ends with an assistant turn"),
        ([([{"role": "user", "content": "c"}], [""])], "anything to learn"),
    ]:
        with pytest.raises(RewardError, match=what) as caught:
            model.score(items)
        assert caught.value.code == "PL705"
        assert "item 1" in str(caught.value)
    assert len(model.score([("a", [""])])[0]) == 1  # an empty text still ends with EOS


# -- length


def test_too_long_is_an_error_or_is_cut_and_counted(foreign_dir: Path) -> None:
    words = "the sky is blue and the grass is green " * 30
    items = [("Sky?", ["Blue.", words])]
    strict = RewardModel.load(foreign_dir)
    with pytest.raises(RewardError, match="the model takes 256") as caught:
        strict.score(items)
    assert caught.value.where == "item 1, answer 2"
    cut = RewardModel.load(foreign_dir, options=ScoringOptions(overlong="truncate"))
    scores = cut.score(items)
    assert cut.truncated == 1
    ids = chat_ids(foreign_dir, "Sky?", words)
    assert ids[0] == 1  # BOS (<|im_start|>) stays
    close(scores, [[by_transformers(foreign_dir, chat_ids(foreign_dir, "Sky?", "Blue.")),
                    by_transformers(foreign_dir, [ids[0], *ids[-255:]])]])  # fmt: skip
    close(scores, [[strict.score([("Sky?", ["Blue."])])[0][0], scores[0][1]]])  # its sibling loses nothing


# -- what is no reward model


def refused(code: str, what: str, *args: Any, **options: Any) -> PlauditError:
    with pytest.raises(PlauditError, match=what) as caught:
        RewardModel.load(*args, **options)
    assert caught.value.code == code
    return caught.value


def test_language_models_have_no_score(tiny_model_dir: Path, tmp_path: Path) -> None:
    error = refused("PL701", "LlamaForCausalLM gives no rewards", tiny_model_dir)
    assert "plaudit reward" in str(error)
    refused("PL701", "gguf", tmp_path / "model.gguf")
    refused("PL301", "there is no folder", tmp_path / "nothing")


def test_several_labels_are_no_reward(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = write_foreign(tmp_path / "rm", tiny_model_dir, num_labels=3)
    error = refused("PL701", "3 labels", folder)
    assert "multi-objective" in str(error)


def test_a_checkpoint_without_its_head(foreign_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "rm"
    shutil.copytree(foreign_dir, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused("PL301", "lacks 1 of the model's weights: score.weight", folder)


def test_an_encoder_without_its_head(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=1
    )
    model = BertForSequenceClassification(config)
    del model.classifier
    model.save_pretrained(str(tmp_path))
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(str(tmp_path))
    refused("PL701", "lacks 2 of the model's weights", tmp_path)


def test_a_language_models_adapter_has_no_head(tmp_path: Path, tiny_model_dir: Path) -> None:
    from plaudit.config.schema import LoraSection

    loaded = load_model(ModelConfig(path=str(tiny_model_dir)), LoraSection(r=2))
    loaded.model.save_pretrained(str(tmp_path))  # type: ignore[operator]
    refused("PL701", "belongs to a language model", tmp_path)


def test_another_base_is_noticed(own: Maker, tmp_path: Path) -> None:
    from tests.conftest import write_tiny_model

    other = write_tiny_model(tmp_path / "other", seed=5)
    refused("PL306", "another base", own("rm", lora=True) / "adapter", base=str(other))


def test_a_score_that_is_no_number(foreign_dir: Path) -> None:
    model = Classifier.open(foreign_dir)
    model.inner.score.weight.data.fill_(float("nan"))
    with pytest.raises(RewardError, match="gives the score nan") as caught:
        model.score([("a", ["b"])])
    assert caught.value.code == "PL705"
    with pytest.raises(ModelError):
        RewardModel.load(foreign_dir / "nothing")


def test_messages_may_be_objects(foreign_dir: Path) -> None:
    model = RewardModel.load(foreign_dir)
    prompt, answer = as_messages("Sky?", "user"), as_messages("Blue.", "assistant")
    close(model.score([(prompt, [answer])]), model.score([("Sky?", ["Blue."])]))


def test_bf16_keeps_the_head_exact(own: Maker, tiny_model_dir: Path) -> None:
    items = [(row["prompt"], [row["chosen"], row["rejected"]]) for row in PAIRS]
    folder = own("rm")
    half = Classifier.open(folder, precision="bf16")
    assert half.inner.score.weight.dtype == torch.float32
    close(half.score(items), RewardModel.load(folder, precision="fp32").score(items), 0.05)
    assert half.fingerprint == Classifier.open(folder, precision="fp32").fingerprint
    assert half.fingerprint != Classifier.open(write_own(folder.parent / "b", tiny_model_dir, seed=7)).fingerprint
