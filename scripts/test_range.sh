#!/usr/bin/env bash
# Runs the core tests with the oldest supported versions of the libraries (the lower bounds in pyproject.toml, torch
# excepted: see lower_bounds.py) and with the newest that can be installed, each in its own environment.
# Usage: scripts/test_range.sh [oldest|newest]; without an argument both.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# Core = what calls the libraries of the range: numbers, models, training, data, sampling, rewards, serving. The rest of the tests
# (the command line's texts, run directories, docs, project files, demo and benchmark harness) runs with `make test`.
core=(tests/forest tests/models tests/methods tests/train tests/online tests/data tests/engines tests/evaluation tests/rewards)
core+=(tests/inspection tests/preflight tests/recipes tests/serving tests/cli/test_api.py)
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

run() {
    local name="$1" venv=".venv-$1" constraints="$2"
    shift 2
    echo "== $name: $venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade -c "$constraints" "$@"
    "$venv/bin/python" -m pip list --disable-pip-version-check |
        grep -E '^(torch|transformers|peft|datasets|accelerate|tokenizers|safetensors|gguf|numpy|pydantic) '
    "$venv/bin/python" -m pytest ${WORKERS:+-n "$WORKERS" --dist worksteal} "${core[@]}"
}

oldest() {
    "$python" scripts/lower_bounds.py > "$work/oldest.txt"
    # The package gguf without our extra of that name, whose bound of transformers is higher: that it is refused here,
    # with the way to mend it, is part of what is tested. Not the extra gym: reasoning-gym wants a newer PyYAML than we do.
    run oldest "$work/oldest.txt" -e '.[train,serve,verify,sandbox,dev]' gguf
}

newest() {
    grep '^torch==' constraints.txt > "$work/newest.txt"
    run newest "$work/newest.txt" -e '.[train,gguf,serve,verify,gym,sandbox,dev]'
}

case "${1:-both}" in
    oldest) oldest ;;
    newest) newest ;;
    both)
        oldest
        newest
        ;;
    *) echo "usage: $0 [oldest|newest]" >&2; exit 2 ;;
esac
