"""Generation with vLLM, for `benchmarks.generation`: run by the Python of an environment of its own.

Takes a JSON of what to do on stdin and prints a JSON of what it measured as its last line. It imports nothing of
plaudit, which need not be installed where vLLM is.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time


def main() -> None:
    task = json.loads(sys.stdin.read())
    # In this process, without pinned threads and with an explicit cache: the fastest of the settings that were tried.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams

    llm = LLM(
        task["model"],
        skip_tokenizer_init=True,
        dtype=task["dtype"],
        enforce_eager=task["eager"],
        max_model_len=task["positions"],
        max_num_seqs=512,
        disable_log_stats=True,
        enable_prefix_caching=True,
    )
    options = {"temperature": 1.0, "logprobs": 0, "detokenize": False, "stop_token_ids": task["stops"]}
    prompts = [{"prompt_token_ids": p} for p in task["prompts"]]
    llm.generate(prompts[:1], SamplingParams(max_tokens=2, **options), use_tqdm=False)
    before = _resident()
    wall, cpu = time.perf_counter(), time.process_time()
    done = llm.generate(prompts, SamplingParams(n=task["samples"], max_tokens=task["new"], **options), use_tqdm=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    tokens = sum(len(c.token_ids) for request in done for c in request.outputs)
    result = {"tokens": tokens, "seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
