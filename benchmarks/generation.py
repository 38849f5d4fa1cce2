"""The local engine against transformers' generate, side by side: tokens per second, CPU time, peak memory.

    python -m benchmarks.generation --size 10m --rounds 3
    python -m benchmarks.generation --size 135m --prompts 16 --rounds 2
    python -m benchmarks.generation --vllm PYTHON      # beside vLLM, installed in an environment of its own
    benchmarks/gpu.sh                                  # on a GPU

Every run is a process of its own, the contenders take turns, ratios are taken inside a round. All draw from the same
randomly initialised model at temperature 1, n samples of ragged prompts (lognormal); an eightieth of the vocabulary
ends a completion, so lengths are geometric with mean about 60, cut at 128. What is counted are the tokens that come
out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.compare import paired_ratio
from benchmarks.harness import MIB, RESULTS, ROOT, BenchmarkError

SIZES: dict[str, dict[str, Any]] = {
    "10m": {"vocab_size": 16384, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6}
    | {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32},
    # The shape of SmolLM2-135M.
    "135m": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    | {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64},
    # The shape of Llama-3.2-1B with a smaller vocabulary.
    "1b": {"vocab_size": 65536, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64},
}
NEW_TOKENS = 128
_PASSED_ON = ("size", "prompts", "samples", "threads", "device", "dtype")
CONTENDERS = {
    "ours": "the local engine with its defaults",
    "trl": "transformers' generate in one batch, left-padded, as TRL calls it",
    "best": "transformers' generate in batches of 64, prompts sorted by length",
    "vllm": "vLLM, log-probs of the drawn tokens, prefix cache",
}


@dataclass(frozen=True)
class Run:
    """What a worker measured, from the first prompt to the last completion."""

    tokens: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """greatest resident size over what the process held with the model loaded; on a GPU, of the device's memory"""
    note: str = ""
    """what the engine says of itself"""


def main() -> None:
    """Run the rounds and print the table, or be a worker."""
    args = parse_arguments()
    if args.worker:
        sys.stdout.write(json.dumps(asdict(work(args))) + "\n")
        return
    chosen = [name for name in args.contenders.split(",") if name != "vllm" or args.vllm]
    rounds = []
    for number in range(args.rounds):
        found = {}
        for name in chosen:
            found[name] = launch_vllm(args) if name == "vllm" else launch(name, args)
            say(f"round {number + 1}  {name:5} {found[name].tokens / found[name].seconds:8.1f} tokens/s")
        rounds.append(found)
    table = report(args, rounds)
    say(table)
    RESULTS.mkdir(parents=True, exist_ok=True)
    where = f"{args.threads}-threads" if args.device == "cpu" else f"{args.device}-{args.prompts}x{args.samples}"
    name = f"generation-{args.size}-{where}"
    asked = {k: v for k, v in vars(args).items() if not k.startswith("vllm")}  # where vLLM lies is nobody's business
    raw = {"arguments": asked, "rounds": [{k: asdict(r) for k, r in found.items()} for found in rounds]}
    (RESULTS / f"{name}.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(table + "\n", encoding="utf-8")


def say(line: str) -> None:
    """At once: it takes minutes."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="10m")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="some of them; ours first")
    parser.add_argument("--vllm", help="the Python of an environment that has vLLM")
    parser.add_argument("--vllm-preload", help="a library to preload there (an OpenMP that does not spin)")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


def launch(name: str, args: argparse.Namespace) -> Run:
    """A worker process."""
    options = [f"--{k}={getattr(args, k)}" for k in _PASSED_ON]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.generation", f"--worker={name}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
    )
    if done.returncode:
        raise BenchmarkError(done.stderr[-2000:])
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def launch_vllm(args: argparse.Namespace) -> Run:
    """vLLM in its own environment, on the same weights and prompts."""
    with tempfile.TemporaryDirectory() as folder:
        model, prompts, ends = task(args)
        model.generation_config.eos_token_id = model.config.eos_token_id = 2
        model.save_pretrained(folder)
        wanted = {
            "model": folder,
            "prompts": [p.tolist() for p in prompts],
            "samples": args.samples,
            "new": NEW_TOKENS,
            "stops": list(ends),
            "positions": 512,
            "dtype": args.dtype,
            "eager": args.device == "cpu",  # on a GPU with its graphs; on a CPU compiling gains nothing
        }
        preload = {"LD_PRELOAD": args.vllm_preload} if args.vllm_preload else {}
        done = subprocess.run(
            [args.vllm, str(ROOT / "benchmarks" / "vllm_worker.py")],
            input=json.dumps(wanted),
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1", **preload},
        )
    if done.returncode:
        raise BenchmarkError(done.stderr[-2000:])
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def report(args: argparse.Namespace, rounds: list[dict[str, Run]]) -> str:
    """A Markdown table of ratios: ours against each of the others."""
    where = f"{args.threads} thread(s)" if args.device == "cpu" else device_name()
    work_done = f"{args.prompts} prompts × {args.samples} samples, {args.dtype}, {where}, {len(rounds)} round(s)"
    lines = [
        f"{args.size}, {work_done}",
        "",
        "| against | tokens/s, median (range) | tokens per CPU second | peak memory |",
        "| --- | --- | --- | --- |",
    ]

    def ratio(name: str, value: Callable[[Run], float]) -> str:
        return str(paired_ratio([value(r["ours"]) for r in rounds], [value(r[name]) for r in rounds]))

    for name in [name for name in rounds[0] if name != "ours"]:
        speed = ratio(name, lambda r: r.tokens / r.seconds)
        cpu = ratio(name, lambda r: r.tokens / r.cpu_seconds)
        # vLLM takes its cache before anything is generated, whatever it is going to use.
        peak = "not comparable" if name == "vllm" else ratio(name, lambda r: r.peak_bytes)
        lines.append(f"| {CONTENDERS[name]} | {speed} × | {cpu} × | {peak} |")
    ours = [r["ours"] for r in rounds]
    rates = ", ".join(f"{r.tokens / r.seconds:.0f}" for r in ours)
    peaks = ", ".join(f"{r.peak_bytes / MIB:.0f}" for r in ours)
    return "\n".join(
        [*lines, "", f"Ours: {rates} tokens/s; {peaks} MiB over the loaded model.", f"The engine: {ours[0].note}."]
    )


def device_name() -> str:
    """The GPU, as its driver calls it."""
    import torch

    return torch.cuda.get_device_name()


# -- the worker -------------------------------------------------------------------------------------------------------


class _NoText:
    """Decoding is not what is compared."""

    eos_token_id = 2
    pad_token_id = 0

    def decode(self, ids: Any, **_: Any) -> str:
        return ""


def task(args: argparse.Namespace) -> tuple[Any, list[Any], tuple[int, ...]]:
    """The model, the prompts and the tokens that end a completion; the same in every process."""
    import torch
    import transformers as tf

    torch.manual_seed(0)
    shape = SIZES[args.size]
    config = tf.Qwen3Config(**shape, tie_word_embeddings=True, max_position_embeddings=2048)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4, 0.6, args.prompts), 8, 300).astype(int)
    prompts = [rng.integers(3, shape["vocab_size"], n).astype(np.int32) for n in lengths]
    return model, prompts, tuple(range(3, 3 + shape["vocab_size"] // 80))


def work(args: argparse.Namespace) -> Run:
    """Generate once and measure."""
    import resource

    import torch

    from plaudit.engines import Sampling
    from plaudit.engines.hf import HFEngine
    from plaudit.engines.local import LocalEngine
    from plaudit.models.forest_model import ForestModel

    torch.set_num_threads(args.threads)
    model, prompts, ends = task(args)
    sampling = Sampling(max_new_tokens=NEW_TOKENS, seed=1, stop_token_ids=ends)
    model = model.to(args.device, getattr(torch, args.dtype))
    engine: Any
    note = ""
    if args.worker == "ours":
        engine = LocalEngine(ForestModel(model), _NoText())
        note = f"largest difference to the scores {engine.verify():.1g}; {engine.described or 'nothing prepared'}"
    else:
        rows = args.prompts * args.samples
        engine = HFEngine(model, _NoText(), batch_size=rows if args.worker == "trl" else 64)
    # Every contender warms up with one prompt, so that no lazy set-up is measured.
    list(engine.generate(prompts[:1], 1, Sampling(max_new_tokens=2)))
    before = _held(args.device)
    wall, cpu = time.perf_counter(), time.process_time()
    groups = list(engine.generate(prompts, args.samples, sampling))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if args.device == "cuda":
        peak = torch.cuda.max_memory_allocated() - before
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return Run(sum(len(c.token_ids) for g in groups for c in g.completions), wall, cpu, peak, note)


def _held(device: str) -> int:
    """Bytes in use now: resident, or of the GPU; what was the peak until now is forgotten there."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return _resident()


def _resident() -> int:
    """Resident bytes now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
