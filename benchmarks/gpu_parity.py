"""On a GPU, before anything is timed: which attention kernels are right there, and whether packed equals padded.

    python -m benchmarks.gpu_parity

1. Every candidate kernel, forward and backward, against the plain operations on the host: fp32 to 2e-4, fp16 to 5e-3,
   bf16 to 2.5e-2 (measures: `plaudit.forest.attention.choose.TOLERANCE`). One that is wrong is not used, which is no
   failure of the check; that a combination is left without any is said.
2. Every architecture of the tests' exactness matrix: log-probs of the packed row against the model's own forward (the
   parity probe: 3e-5 in fp32, 3e-2 or the model's own rounding in bf16), and the gradients of the packed path against
   the padded one. In fp32 each entry to 1e-4 of its parameter's largest one, or of a hundredth of the model's largest;
   in bf16 the norm of the difference to 0.05 of the norm, except for mixtures of experts, where a rounding sends a
   token to another expert.

Ends with status 1 where 2 fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

GRADIENTS = {"float32": 1e-4, "bfloat16": 0.05}
_HEADS = ((1, 64), (2, 128), (4, 128), (7, 64), (2, 256))
"""(query heads of a key head, entries of a head)"""


def main() -> None:
    """Two tables; `--out` writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--quick", action="store_true", help="one head size, three architectures: a check of the script"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    kernels = kernel_table(torch.device(given.device), quick=given.quick)
    models, wrong = model_table(given.device, quick=given.quick)
    if given.out:
        given.out.write_text(json.dumps({"kernels": kernels, "models": models}), encoding="utf-8")
    sys.exit(1 if wrong else 0)


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def kernel_table(device: Any, *, quick: bool) -> list[dict[str, Any]]:
    """What each candidate does with each combination of precision, heads, window and soft cap."""
    import torch

    from plaudit.forest.attention import choose

    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (8, 0)
    found = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for group, width in _HEADS[:1] if quick else _HEADS:
            for windowed, cap in ((False, None), (True, None), (False, 50.0)):
                wanted = choose.Ask(device, capability, dtype, group, width, width, windowed, cap, None)
                about = {"dtype": str(dtype)[6:], "group": group, "width": width, "window": windowed, "cap": cap}
                used = "plain operations"
                for kernel in reversed(choose.CANDIDATES["cuda"]):
                    reason = kernel.refuses(wanted)
                    verdict = f"cannot: {reason}" if reason else choose.fault(kernel, wanted) or "right"
                    if verdict == "right":
                        used = kernel.name
                    about[kernel.name] = verdict
                found.append({**about, "used": used})
                say(f"{about['dtype']:9} group {group} width {width:3} window {windowed!s:5} cap {cap!s:5} → {used}")
                for name in (k.name for k in choose.CANDIDATES["cuda"]):
                    if not str(about[name]).startswith(("right", "cannot")):
                        say(f"    {name}: {about[name]}")
    return found


def model_table(device: str, *, quick: bool) -> tuple[list[dict[str, Any]], int]:
    """Packed against padded, for every architecture; and how many differ."""
    import torch

    from plaudit.errors import PlauditError
    from plaudit.models.forest_model import ForestModel
    from plaudit.models.probe import probe
    from tests import zoo

    found, wrong = [], 0
    names = [n for n in zoo.NAMES if n not in zoo.PADDED_ONLY]
    for name in ["llama", "gemma2", "gpt_oss"] if quick else names:
        for dtype in (torch.float32, torch.bfloat16):
            model = zoo.build(name, dtype=dtype).to(device)
            row: dict[str, Any] = {"model": name, "dtype": str(dtype)[6:]}
            try:
                result = probe(ForestModel(model), "forest")
                gap = gradient_gap(model, device, by_entry=dtype == torch.float32)
                row |= {"logprobs": result.error, "limit": result.tolerance, "gradients": gap, "notes": result.notes}
                experts = any("expert" in n for n, _ in model.named_parameters())
                fine = gap <= GRADIENTS[row["dtype"]] or (experts and dtype != torch.float32)
                numbers = f"log-probs {result.error:.1e} (limit {result.tolerance:.1e}), gradients {gap:.1e}"
                limit = GRADIENTS[row["dtype"]]
                say(f"{'ok   ' if fine else 'WRONG'} {name:14} {row['dtype']:9} {numbers} (limit {limit:g})")
            except PlauditError as error:
                fine = False
                row["error"] = str(error)
                say(f"WRONG {name:14} {row['dtype']:9} {error}")
            wrong += not fine
            found.append(row)
    return found, wrong


def gradient_gap(model: Any, device: str, *, by_entry: bool) -> float:
    """Difference of the gradients between the packed and the padded path, relative: of an entry, or of the norms."""
    import torch

    from plaudit.forest.layout import Piece, build_forest
    from plaudit.models.forest_model import AttentionPath, ForestModel
    from tests.zoo import SHAPES

    groups = SHAPES["ragged K"].groups()
    pieces = [Piece(g, i, tuple(range(len(g.completions)))) for i, g in enumerate(groups)]
    paths: tuple[AttentionPath, ...] = ("padded", "forest")
    sides: list[dict[str, Any]] = []
    for path in paths:
        forest_model = ForestModel(model, path=path)
        # One forest per group: longrope's frequencies depend on what shares a forward.
        with forest_model.role("policy"):
            for piece in pieces:
                regime = forest_model.regime.floor(forest_model.position_regime(piece))
                forest = build_forest([piece], bos_id=None, device=device, position_floor=regime)
                logprobs = forest_model(forest).logprobs_N
                (logprobs * torch.linspace(0.5, 1.5, len(logprobs), device=device)).sum().backward()
        sides.append({n: p.grad.float().clone() for n, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
    if not by_entry:
        apart = sum(float((sides[1][n] - g).square().sum()) for n, g in sides[0].items())
        return float((apart / sum(float(g.square().sum()) for g in sides[0].values())) ** 0.5)
    largest = max(float(g.abs().max()) for g in sides[0].values())
    return max(
        float((sides[1][n] - g).abs().max()) / max(float(g.abs().max()), 0.01 * largest) for n, g in sides[0].items()
    )


if __name__ == "__main__":
    main()
