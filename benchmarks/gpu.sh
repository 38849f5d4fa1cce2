#!/usr/bin/env bash
# Generation and online steps on one GPU, in under ten minutes: exactness there, then the local engine against
# transformers' generate, and against vLLM where VLLM_PYTHON names the Python of an environment that has it; then whole
# GRPO steps against TRL, which is installed into .bench/ at the first time.
# Usage: benchmarks/gpu.sh   (PYTHON=… for another interpreter; results go to benchmarks/results)
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
limit=$((10 * 60))     # seconds in all
versus=()
if [[ -n "${VLLM_PYTHON:-}" ]]; then
    versus=(--vllm "$VLLM_PYTHON")
fi

"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "there is no GPU that PyTorch can use")'

row() {
    local left=$((limit - SECONDS))
    if ((left < 30)); then
        echo "== left out, no time: $*"
        return
    fi
    echo "== $* (after $SECONDS s)"
    timeout "$left" "$python" -m benchmarks.generation --device cuda --threads 8 "${versus[@]}" "$@"
}

timeout 120 "$python" -m benchmarks.gpu_exactness
row --size 10m --dtype bfloat16 --rounds 2
row --size 135m --dtype bfloat16 --rounds 2
row --size 135m --dtype bfloat16 --rounds 2 --prompts 1 --samples 1
row --size 1b --dtype bfloat16 --rounds 1

online() {
    local left=$((limit - SECONDS))
    if ((left < 60)); then
        echo "== left out, no time: online $*"
        return
    fi
    echo "== online $* (after $SECONDS s)"
    timeout "$left" "$python" -m benchmarks.online_vs_trl --device cuda --threads 8 --steps 2 --trl-batch 64 "$@"
}

# The slow part comes last: what there is no time for is named.
online --method grpo --size 35m --repeats 2
online --method grpo --size 35m --repeats 1 --precision bf16
