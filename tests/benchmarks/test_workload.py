"""The benchmark's rows: the same every time, with the stated lengths, one word one token."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from benchmarks.workload import EOS, PreferenceWorkload, build_tokenizer, materialise, preference_rows, write_rows

TINY = PreferenceWorkload(rows=3, vocabulary=64)
TINY_LENGTHS = [(241, 124, 262), (73, 193, 106), (224, 71, 45)]


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    first = write_rows(list(preference_rows(TINY)), tmp_path / "a.jsonl")
    again = write_rows(list(preference_rows(TINY)), tmp_path / "b.jsonl")
    other = write_rows(list(preference_rows(dataclasses.replace(TINY, seed=2))), tmp_path / "c.jsonl")
    assert first == again
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert first != other


def test_the_rows_are_those_of_every_machine() -> None:
    assert [(r.prompt_tokens, r.chosen_tokens, r.rejected_tokens) for r in preference_rows(TINY)] == TINY_LENGTHS


def test_more_rows_begin_with_the_same_rows() -> None:
    longer = list(preference_rows(dataclasses.replace(TINY, rows=5)))
    assert longer[:3] == list(preference_rows(TINY))


def test_lengths_have_the_stated_distribution() -> None:
    workload = PreferenceWorkload(rows=3000, vocabulary=64, max_length=10**6)
    rows = list(preference_rows(workload))
    prompts = [r.prompt_tokens for r in rows]
    completions = [n for r in rows for n in (r.chosen_tokens, r.rejected_tokens)]
    # Standard error of the mean: 200 · sqrt(exp(0.36) − 1) / sqrt(3000) = 2.4; the bounds are about 4 of them.
    assert fmean(prompts) == pytest.approx(200, abs=10)
    assert fmean(completions) == pytest.approx(150, abs=6)
    assert pstdev(math.log(n) for n in prompts) == pytest.approx(0.6, abs=0.04)
    chosen = [math.log(r.chosen_tokens) for r in rows]
    rejected = [math.log(r.rejected_tokens) for r in rows]
    covariance = fmean(a * b for a, b in zip(chosen, rejected, strict=True)) - fmean(chosen) * fmean(rejected)
    assert abs(covariance / 0.36) < 0.08  # independent


def test_no_row_is_longer_than_the_limit() -> None:
    rows = list(preference_rows(PreferenceWorkload(rows=300, vocabulary=64, max_length=400)))
    assert max(r.prompt_tokens + max(r.chosen_tokens, r.rejected_tokens) for r in rows) <= 400


def test_tokenised_lengths_are_the_drawn_ones_and_concatenation_keeps_the_boundary() -> None:
    tokenizer = build_tokenizer(64)
    assert len(tokenizer) == 64
    for row in preference_rows(TINY):
        prompt = tokenizer(row.prompt)["input_ids"]
        pair = tokenizer(row.prompt + row.chosen + EOS)["input_ids"]
        assert len(prompt) == row.prompt_tokens
        assert len(pair) == row.prompt_tokens + row.chosen_tokens
        assert pair[: len(prompt)] == prompt
        assert pair[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in pair


def test_sizes_are_what_their_names_say() -> None:
    assert PreferenceWorkload(size="10m").architecture.parameters(16384) == pytest.approx(9e6, rel=0.02)
    assert PreferenceWorkload(size="35m").architecture.parameters(16384) == pytest.approx(33.6e6, rel=0.02)


def test_a_written_workload_is_complete_loads_and_is_not_written_twice(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = materialise(TINY, tmp_path)
    manifest = folder / "workload.json"
    before = manifest.stat().st_mtime_ns
    assert materialise(TINY, tmp_path) == folder
    assert manifest.stat().st_mtime_ns == before
    content = json.loads(manifest.read_text(encoding="utf-8"))
    assert content["unique_tokens"] == [r.unique_tokens for r in preference_rows(TINY)]
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    assert sum(p.numel() for p in model.parameters()) - norms == content["parameters"]
    assert AutoTokenizer.from_pretrained(folder / "model")("w0 w60")["input_ids"] == [3, 63]
