"""What OpenAI's own client gets: the engine's texts, numbers and reasons, whole and in pieces."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch

from plaudit.engines import Sampling
from plaudit.engines.hf import HFEngine
from plaudit.inference.sampling import Sampler
from tests.serving.conftest import Served

HELLO: Any = [{"role": "user", "content": "Which colour is the sky?"}]


def expected(served: Served, prompt: Any, n: int, **options: Any) -> Any:
    """The engine's own group."""
    ids = served.sampler.prompt_ids(prompt, chat=False, where="here")
    return next(iter(served.sampler.sample([ids], n, Sampling(**options))))


RawLogprobs = Callable[[list[int]], torch.Tensor]


@pytest.fixture(scope="session")
def raw_logprobs(tiny_model_dir: Path) -> RawLogprobs:
    """[L] token ids → [L, V] log-probs of every next token, by the model itself."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(tiny_model_dir), dtype=torch.float32)

    def of(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), -1)

    return of


def test_a_chat_is_what_the_engine_draws(served: Served, client: openai.OpenAI) -> None:
    said = client.chat.completions.create(
        model="tiny", messages=HELLO, n=3, seed=5, max_tokens=12, temperature=0.8, top_p=0.9
    )
    group = expected(served, HELLO, 3, seed=5, max_new_tokens=12, temperature=0.8, top_p=0.9)
    assert [c.message.content for c in said.choices] == [c.text for c in group.completions]
    assert [c.finish_reason for c in said.choices] == [c.finish_reason for c in group.completions]
    assert [c.index for c in said.choices] == [0, 1, 2]
    assert said.choices[0].message.role == "assistant"
    assert said.model == "tiny"
    assert said.object == "chat.completion"
    assert said.usage is not None
    assert said.usage.prompt_tokens == len(group.prompt_ids)
    assert said.usage.completion_tokens == sum(len(c.token_ids) for c in group.completions)
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_logprobs_are_the_models_own(
    served: Served, client: openai.OpenAI, raw_logprobs: RawLogprobs, temperature: float
) -> None:
    """Before temperature and filters, with the most likely tokens, in falling order."""
    said = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        seed=2,
        max_tokens=10,
        temperature=temperature,
        top_p=0.8,
        logprobs=True,
        top_logprobs=4,
    )
    group = expected(served, HELLO, 1, seed=2, max_new_tokens=10, temperature=temperature, top_p=0.8)
    ids, own = group.prompt_ids.tolist(), group.completions[0].token_ids.tolist()
    by_model = raw_logprobs(ids + own)[len(ids) - 1 : -1]
    assert said.choices[0].logprobs is not None
    content = said.choices[0].logprobs.content or []
    assert len(content) == len(own) == 10
    tokenizer = served.sampler.renderer.tokenizer
    for at, entry in enumerate(content):
        assert entry.logprob == pytest.approx(float(by_model[at, own[at]]), abs=1e-4)
        best = torch.topk(by_model[at], 4)
        assert [t.logprob for t in entry.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
        texts = [bytes(t.bytes or []).decode(errors="replace") for t in entry.top_logprobs]
        assert texts == [tokenizer.decode([i]) for i in best.indices.tolist()]
    assert bytes(b for e in content for b in e.bytes or []).decode(errors="replace") == tokenizer.decode(own)


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_is_the_answer_in_pieces(served: Served, client: openai.OpenAI, n: int) -> None:
    options: Any = {
        "model": "tiny",
        "messages": HELLO,
        "n": n,
        "seed": 9,
        "max_tokens": 20,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = client.chat.completions.create(**options)
    texts, reasons, entries = [""] * n, [None] * n, [[] for _ in range(n)]  # type: ignore[var-annotated]
    pieces = 0
    usage = None
    for chunk in client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):
        assert chunk.object == "chat.completion.chunk"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert reasons[choice.index] is None, "nothing comes behind the end"
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason  # type: ignore[call-overload]
            entries[choice.index] += (choice.logprobs.content or []) if choice.logprobs else []
            pieces += 1
    assert texts == [c.message.content for c in whole.choices]
    assert reasons == [c.finish_reason for c in whole.choices]
    for mine, choice in zip(entries, whole.choices, strict=True):
        assert choice.logprobs is not None
        theirs = choice.logprobs.content or []
        assert [e.token for e in mine] == [e.token for e in theirs]
        assert [e.logprob for e in mine] == pytest.approx([e.logprob for e in theirs], abs=1e-5)
    assert usage == whole.usage
    assert pieces > 5 * n
    with client.chat.completions.stream(**options) as gathered:  # it expects the choices in order
        for _ in gathered:
            pass
        final = gathered.current_completion_snapshot
    assert [c.message.content or "" for c in final.choices] == texts


def test_offsets_of_a_stream_go_on_from_piece_to_piece(client: openai.OpenAI) -> None:
    options: Any = {"model": "tiny", "prompt": "The sky", "max_tokens": 20, "seed": 2, "logprobs": 1}
    whole = client.completions.create(**options).choices[0].logprobs
    parts = [c.choices[0].logprobs for c in client.completions.create(**options, stream=True) if c.choices]
    assert whole is not None
    assert len(parts) > 5
    assert [at for p in parts if p is not None for at in p.text_offset or []] == whole.text_offset
    assert [t for p in parts if p is not None for t in p.tokens or []] == whole.tokens


def test_stop_texts_and_the_other_options_reach_the_engine(served: Served, client: openai.OpenAI) -> None:
    plain = client.completions.create(model="tiny", prompt="The sky", max_tokens=40, seed=1)
    text = plain.choices[0].text
    stop = text[12:15]
    cut = client.completions.create(model="tiny", prompt="The sky", max_tokens=40, seed=1, stop=[stop, "never"])
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    streamed = client.completions.create(model="tiny", prompt="The sky", max_tokens=40, seed=1, stop=stop, stream=True)
    assert "".join(c.choices[0].text for c in streamed) == cut.choices[0].text
    extra = {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.3, "min_tokens": 5, "stop_token_ids": [70]}
    found = client.completions.create(model="tiny", prompt="The sky", max_tokens=9, seed=1, n=2, extra_body=extra)
    group = expected(
        served,
        "The sky",
        2,
        seed=1,
        max_new_tokens=9,
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.3,
        min_new_tokens=5,
        stop_token_ids=(70,),
    )
    assert [c.text for c in found.choices] == [c.text for c in group.completions]


def test_without_a_seed_each_request_draws_anew(client: openai.OpenAI) -> None:
    texts = {client.completions.create(model="tiny", prompt="The", max_tokens=12).choices[0].text for _ in range(3)}
    assert len(texts) == 3


def test_many_prompts_as_text_and_as_tokens(served: Served, client: openai.OpenAI) -> None:
    texts = ["The sky", "The grass is", "The sky"]
    ids = [served.sampler.prompt_ids(t, chat=False, where="here").tolist() for t in texts]
    by_text = client.completions.create(model="tiny", prompt=texts, n=2, seed=3, max_tokens=8)
    by_ids = client.completions.create(model="tiny", prompt=ids, n=2, seed=3, max_tokens=8)
    assert [c.index for c in by_text.choices] == list(range(6))
    assert [c.text for c in by_text.choices] == [c.text for c in by_ids.choices]
    one = client.completions.create(model="tiny", prompt=ids[1], n=2, seed=3, max_tokens=8)
    assert [c.text for c in one.choices] == [c.text for c in by_text.choices[2:4]]
    assert by_text.choices[0].text != by_text.choices[4].text, "a repeated prompt has completions of its own"


def test_completions_report_tokens_as_the_evaluation_harnesses_read_them(
    served: Served, client: openai.OpenAI, raw_logprobs: RawLogprobs
) -> None:
    """Loglikelihoods of given texts: echo with log-probs, and one token that nobody reads."""
    prompt = "The sky is blue"
    said = client.completions.create(model="tiny", prompt=prompt, echo=True, logprobs=2, max_tokens=1, temperature=0)
    ids = served.sampler.prompt_ids(prompt, chat=False, where="here").tolist()
    found = said.choices[0].logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.token_logprobs is not None
    assert found.top_logprobs is not None
    assert found.text_offset is not None
    assert len(found.tokens) == len(ids) + 1
    by_model = raw_logprobs(ids)
    assert found.token_logprobs[0] is None
    assert found.top_logprobs[0] is None
    own = [float(by_model[at, token]) for at, token in enumerate(ids[1:])]
    assert found.token_logprobs[1:-1] == pytest.approx(own, abs=1e-4)
    assert found.token_logprobs[-1] == pytest.approx(float(by_model[-1].max()), abs=1e-4)
    for at, top in enumerate(found.top_logprobs[1:]):
        assert max(top.values()) == pytest.approx(float(by_model[at].max()), abs=1e-4)
        assert found.tokens[at + 1] in top
    assert said.choices[0].text.startswith(prompt)
    assert found.text_offset == [len("".join(found.tokens[:i])) for i in range(len(found.tokens))]
    nothing = client.completions.create(model="tiny", prompt=prompt, echo=True, logprobs=0, max_tokens=0)
    assert nothing.choices[0].logprobs is not None
    assert nothing.choices[0].logprobs.token_logprobs == pytest.approx(found.token_logprobs[:-1], abs=1e-4)
    assert nothing.choices[0].text == prompt
    assert nothing.usage is not None
    assert nothing.usage.completion_tokens == 0


def test_requests_at_the_same_time_are_computed_together(served: Served) -> None:
    """And each gets what it would get alone."""
    alone = [
        served.client.completions.create(model="tiny", prompt=f"The {i}", seed=i, max_tokens=60).choices[0].text
        for i in range(8)
    ]
    scheduler = served.service._worker._scheduler  # type: ignore[attr-defined]
    before = scheduler.counts.steps, scheduler.counts.generated_tokens

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=served.url, api_key="any", max_retries=0) as client:
            calls = [
                client.completions.create(model="tiny", prompt=f"The {i}", seed=i, max_tokens=60) for i in range(8)
            ]
            return [said.choices[0].text for said in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == alone
    steps, tokens = scheduler.counts.steps - before[0], scheduler.counts.generated_tokens - before[1]
    assert tokens > 3 * steps


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="there is no model other"):
        client.models.retrieve("other")


def test_a_system_prompt_of_the_server(serving: Callable[..., Served], tiny_model_dir: Path, served: Served) -> None:
    instructed = serving(Sampler.of(str(tiny_model_dir), system="Tell the truth."))
    options: Any = {"model": "tiny", "seed": 4, "max_tokens": 10}
    said = instructed.client.chat.completions.create(messages=HELLO, **options)
    for role in ("system", "developer"):
        explicit: Any = [{"role": role, "content": "Tell the truth."}, *HELLO]
        same = served.client.chat.completions.create(messages=explicit, **options)
        assert same.choices[0].message.content == said.choices[0].message.content
        assert same.usage == said.usage
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": HELLO[0]["content"]}]}]
    in_parts = instructed.client.chat.completions.create(messages=parts, **options)
    assert in_parts.choices[0].message.content == said.choices[0].message.content


def test_on_transformers_generate(
    serving: Callable[..., Served], tiny_model_dir: Path, raw_logprobs: RawLogprobs
) -> None:
    """What models get whose attention cannot be replaced."""
    sampler = Sampler.of(str(tiny_model_dir))
    forest = sampler.engine.model  # type: ignore[attr-defined]
    sampler.engine = HFEngine(forest.model, sampler.renderer.tokenizer, generation_context=forest.native)
    served = serving(sampler)
    unseeded = served.client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=2)
    assert unseeded.usage is not None
    nothing = served.client.completions.create(model="tiny", prompt="The", echo=True, max_tokens=0)
    assert nothing.choices[0].text == "The"
    said = served.client.chat.completions.create(
        model="tiny", messages=HELLO, n=2, seed=1, max_tokens=6, logprobs=True, temperature=0.7
    )
    ids = sampler.prompt_ids(HELLO, chat=True, where="here").tolist()
    for choice in said.choices:
        assert choice.logprobs is not None
        content = choice.logprobs.content or []
        assert 0 < len(content) <= 6
        assert all(math.isfinite(e.logprob) and not e.top_logprobs for e in content)
    own = expected(served, HELLO, 2, seed=1, max_new_tokens=6, temperature=0.7).completions[0].token_ids.tolist()
    by_model = raw_logprobs(ids + own)
    picked = [float(by_model[len(ids) - 1 + at, token]) for at, token in enumerate(own)]
    first = said.choices[0].logprobs
    assert first is not None
    np.testing.assert_allclose([e.logprob for e in first.content or []], picked, atol=1e-4)
    streamed = served.client.chat.completions.create(
        model="tiny", messages=HELLO, n=2, seed=1, max_tokens=6, temperature=0.7, stream=True
    )
    texts = ["", ""]
    for chunk in streamed:
        for part in chunk.choices:
            texts[part.index] += part.delta.content or ""
    assert texts == [c.message.content for c in said.choices]
    # Who leaves during one prompt does not keep the next client waiting for the others.
    worker: Any = served.service._worker
    inner, begun = worker._engine.generate, []

    def slow(prompts: Any, n: int, sampling: Sampling) -> Any:
        for group in inner(prompts, n, sampling):
            begun.append(group)
            time.sleep(0.1)
            yield group

    worker._engine.generate = slow
    with pytest.raises(openai.APITimeoutError):
        served.client.with_options(timeout=0.3).completions.create(model="tiny", prompt=["a"] * 40, max_tokens=1)
    assert served.client.completions.create(model="tiny", prompt="b", max_tokens=1).choices
    assert len(begun) < 30
    worker._engine.generate = inner
    with pytest.raises(openai.BadRequestError, match="drawn tokens only"):
        served.client.chat.completions.create(model="tiny", messages=HELLO, logprobs=True, top_logprobs=1, max_tokens=2)
    with pytest.raises(openai.BadRequestError, match="no log-probs of prompts"):
        served.client.completions.create(model="tiny", prompt="a", logprobs=0, echo=True, max_tokens=2)
    with pytest.raises(openai.BadRequestError, match="stop"):
        served.client.completions.create(model="tiny", prompt="a", stop="x", max_tokens=2)
