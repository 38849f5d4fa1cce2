"""The figure of reward_hacking.py: gold against √KL for every variant, and the reward model's score beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, PLOT_W, PLOT_H = 300, 220, 44, 34, 240, 150
COLUMNS = 3
GOLD, PROXY, SOFT = "#1f6f4a", "#b4532a", "#8a8a8a"


def figure(courses: Sequence[Mapping[str, Any]]) -> str:
    """An SVG with a panel for each variant, all with the same axes.

    Gold is solid, in its own units. The score is dashed, from its start to the highest of the panel's seeds, on the
    same height: its units mean nothing beside gold's. A dot is where the alert came.
    """
    variants = list(dict.fromkeys(c["variant"] for c in courses))
    points = [p for c in courses for p in c["points"]]
    most_x = max(max(0.0, p["kl"]) ** 0.5 for p in points) or 1.0
    low, high = min(p["gold"] for p in points), max(p["gold"] for p in points)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    rows = -(-len(variants) // COLUMNS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * WIDTH} {rows * HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{COLUMNS * WIDTH}" height="{rows * HEIGHT}" fill="white"/>',
    ]
    for number, variant in enumerate(variants):
        own = [c for c in courses if c["variant"] == variant]
        at = (number % COLUMNS * WIDTH + LEFT, number // COLUMNS * HEIGHT + TOP)
        parts += _panel(variant, own, at, most_x, low, high)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    variant: str, own: Sequence[Mapping[str, Any]], at: tuple[float, float], most_x: float, low: float, high: float
) -> list[str]:
    x0, y0 = at
    parts = [
        f'<text x="{x0}" y="{y0 - 12}" font-weight="bold">{variant}</text>',
        f'<rect x="{x0}" y="{y0}" width="{PLOT_W}" height="{PLOT_H}" fill="none" stroke="{SOFT}" stroke-width="0.5"/>',
        f'<text x="{x0 + PLOT_W / 2}" y="{y0 + PLOT_H + 26}" fill="{SOFT}" text-anchor="middle">√KL</text>',
    ]
    for share in (0.0, 0.5, 1.0):
        y, x = y0 + PLOT_H * (1 - share), x0 + PLOT_W * share
        parts.append(f'<text x="{x0 - 4}" y="{y + 4}" text-anchor="end" fill="{SOFT}">{low + share * (high - low):.1f}'
                     "</text>")  # fmt: skip
        parts.append(f'<text x="{x}" y="{y0 + PLOT_H + 13}" text-anchor="middle" fill="{SOFT}">{share * most_x:.1f}'
                     "</text>")  # fmt: skip
    first = min(c["points"][0]["proxy"] for c in own)
    span = (max(p["proxy"] for c in own for p in c["points"]) - first) or 1.0

    def place(x: float, share: float) -> str:
        return f"{x0 + PLOT_W * x / most_x:.1f},{y0 + PLOT_H * (1 - share):.1f}"

    for c in own:
        roots = [max(0.0, p["kl"]) ** 0.5 for p in c["points"]]
        gold = [(p["gold"] - low) / (high - low) for p in c["points"]]
        proxy = [0.02 + 0.96 * (p["proxy"] - first) / span for p in c["points"]]
        dashed = f'fill="none" stroke="{PROXY}" stroke-width="1" stroke-dasharray="4 3"'
        solid = f'fill="none" stroke="{GOLD}" stroke-width="1.6"'
        parts.append(f'<polyline points="{" ".join(map(place, roots, proxy))}" {dashed}/>')
        parts.append(f'<polyline points="{" ".join(map(place, roots, gold))}" {solid}/>')
        for p, x, share in zip(c["points"], roots, gold, strict=True):
            if p["step"] == c["alert_step"]:
                cx, cy = place(x, share).split(",")
                parts.append(f'<circle cx="{cx}" cy="{cy}" r="4" fill="{GOLD}"/>')
    return parts
