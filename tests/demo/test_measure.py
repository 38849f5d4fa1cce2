"""The demo's measuring, on a tiny model that ships nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plaudit.models.load import LoadedModel

TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
DEMO = Path(measure.__file__).parent


def tiny(seed: int) -> LoadedModel:
    alphabet = sorted(ByteLevel.alphabet())
    tokens = Tokenizer(BPE({t: i for i, t in enumerate(["<s>", "</s>", *alphabet])}, []))
    tokens.pre_tokenizer, tokens.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=2 + len(alphabet),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.2,
    )
    return LoadedModel(LlamaForCausalLM(config), tokenizer, {})


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return tiny(0)


def test_a_model_against_itself_has_no_opinion_and_no_distance(base: LoadedModel) -> None:
    task = measure.demo_task(base, DEMO, 6)
    before, again = measure.measure(base, task), measure.measure(base, task)
    change = measure.compare(base, before, again, task)
    assert change.accuracy.value == 0.5
    assert change.wins is not None
    assert change.wins.ties == 6
    assert change.kl.value == pytest.approx(0, abs=1e-4)
    assert [measure.shown(a) for a in before.answers] == [measure.shown(a) for a in again.answers]
    # A byte-level model that knows nothing is about as surprised as its vocabulary is large.
    assert 150 < before.perplexity < 450


def test_a_model_against_another(base: LoadedModel) -> None:
    task, other = measure.demo_task(base, DEMO, 4), tiny(1)
    before, after = measure.measure(base, task), measure.measure(other, task)
    change = measure.compare(base, before, after, task)
    assert change.kl.value > 0
    ratios = np.array(after.pair_logprobs_N) - np.array(before.pair_logprobs_N)
    agreeing = np.mean([chosen > rejected for chosen, rejected in ratios.reshape(-1, 2)])
    assert change.accuracy.value == pytest.approx(agreeing)
    numbers = json.loads(json.dumps(measure.as_numbers(before, after, change)))
    assert numbers["win_rate"]["wins"] + numbers["win_rate"]["ties"] + numbers["win_rate"]["losses"] == 4
    assert numbers["before"]["perplexity"] == before.perplexity


def test_other_data_has_no_rule_and_holds_out_what_training_holds_out(base: LoadedModel, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"Question {i}?", "chosen": f"Yes {i}.", "rejected": f"No {i}."} for i in range(60)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = measure.own_task(base, str(path))
    assert 0 < len(task.pairs) < 20
    assert task.data["eval_fraction"] == measure.EVAL_FRACTION
    measured = measure.measure(base, task)
    assert measured.rewards is None
    assert measure.compare(base, measured, measured, task).wins is None
