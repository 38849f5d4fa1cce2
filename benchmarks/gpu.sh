#!/usr/bin/env bash
# On one large GPU, in under ten minutes each:
#   benchmarks/gpu.sh            offline training: exactness, no waiting, then DPO and SFT against TRL, and the heads
#   benchmarks/gpu.sh online     generation and GRPO: exactness of the local engine, then transformers' generate, vLLM where
#                                VLLM_PYTHON names the Python of an environment that has it, and TRL
# TRL is installed into .bench/ at the first time, which does not count. Contenders for the head, if wanted, before:
#   pip install liger-kernel cut-cross-entropy
# (PYTHON=… for another interpreter; results go to benchmarks/results. A try of the scripts without a GPU:
#   python -m benchmarks.gpu_offline --device cpu --quick)
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
limit=$((10 * 60))     # seconds in all
part="${1:-offline}"
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

online() {
    local left=$((limit - SECONDS))
    if ((left < 60)); then
        echo "== left out, no time: online $*"
        return
    fi
    echo "== online $* (after $SECONDS s)"
    timeout "$left" "$python" -m benchmarks.online_vs_trl --device cuda --threads 8 --steps 2 --trl-batch 64 "$@"
}

case "$part" in
offline)
    "$python" -m benchmarks.gpu_offline --minutes 9
    timeout 60 "$python" -m benchmarks.gpu_head || echo "== the heads: left out, no time"
    ;;
online)
    timeout 120 "$python" -m benchmarks.gpu_exactness
    row --size 10m --dtype bfloat16 --rounds 2
    row --size 135m --dtype bfloat16 --rounds 2
    row --size 135m --dtype bfloat16 --rounds 2 --prompts 1 --samples 1
    row --size 1b --dtype bfloat16 --rounds 1
    # The slow part comes last: what there is no time for is named.
    online --method grpo --size 35m --repeats 2
    online --method grpo --size 35m --repeats 1 --precision bf16
    ;;
*)
    echo "usage: benchmarks/gpu.sh [offline|online]" >&2
    exit 2
    ;;
esac
