"""The whole of RLHF in three commands on a small world: demonstrations → reward model → PPO, and what it changed.

    python examples/rlhf/run_rlhf.py                   # a new folder, runs/rlhf or runs/rlhf-2 …

Each step is a command as one would give it, in a folder that has the data and the configurations beside each other.
What is measured is measured by this script afterwards, on prompts that no step has seen, with a gold reward that no
step has seen either.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table
from sign_data import ANSWERS, compared, read_rows, write_data, write_rows, write_untaught
from signs import FACTS, gold_reward, prompts

from plaudit.evaluation import Estimate, WinRate, mean_estimate, proportion_estimate, sequence_kl, win_rate

HERE = Path(__file__).resolve().parent
MAX_NEW_TOKENS, SEED = 20, 11
JUDGED = 4
"""answers of each model to each held-out prompt, at temperature 1"""
SHOWN = 3


def main() -> None:
    """Three steps, one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/rlhf"), help="default: runs/rlhf")
    args = parser.parse_args()
    console, began = Console(), time.perf_counter()
    folder = unused(args.folder)
    lay_out(folder)
    console.print(f"== small world in {folder}: {len(prompts()[0])} prompts, {len(prompts()[1])} held out")

    seconds = {"SFT": command(console, folder, "sft", "sft.yaml")}
    sampling = ["--n", str(ANSWERS), "--max-new-tokens", str(MAX_NEW_TOKENS)]
    seconds["answers"] = 0.0
    for seed, which in enumerate(("", "held_out_"), start=1):
        answers = folder / f"{which}answers.jsonl"
        options = [*sampling, "--seed", str(seed), "--output", answers.name]
        seconds["answers"] += command(console, folder, "generate", "sft", f"{which}prompts.jsonl", *options)
        pairs = compared(read_rows(answers), seed)
        write_rows(folder / f"{which}preferences.jsonl", pairs)
        console.print(f"   noisy annotators compare them: {len(pairs)} preferences in {which}preferences.jsonl")
    seconds["reward model"] = command(console, folder, "reward", "reward.yaml")
    seconds["PPO"] = command(console, folder, "ppo", "ppo.yaml")

    found = measure(folder)
    console.print(found.side_by_side())
    console.print(found.table())
    seconds["together, with the measuring"] = time.perf_counter() - began
    console.print("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    console.print("reports: " + ", ".join(str(folder / step / "report.html") for step in ("sft", "reward", "ppo")))
    numbers = found.numbers() | {"seconds": seconds}
    (folder / "rlhf.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def unused(folder: Path) -> Path:
    """The folder itself, or with the first number that is free: nothing is overwritten."""
    places = (folder if n == 1 else folder.with_name(f"{folder.name}-{n}") for n in count(1))
    return next(place for place in places if not place.exists())


def lay_out(folder: Path) -> None:
    """Data, configurations, and a model that knows nothing."""
    folder.mkdir(parents=True)
    write_data(folder)
    write_untaught(folder / "untaught")
    for config in ("sft.yaml", "reward.yaml", "ppo.yaml"):
        shutil.copy(HERE / config, folder)


def command(console: Console, folder: Path, *arguments: str) -> float:
    """Give a command of plaudit in the folder, and return its wall time in seconds."""
    console.print(f"== plaudit {' '.join(arguments)}", highlight=False, soft_wrap=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "plaudit", *arguments], cwd=folder, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return time.perf_counter() - start


@dataclass
class Judged:
    """A model's answers to the held-out prompts, `JUDGED` each."""

    texts: list[list[str]]
    gold: list[list[int]]
    scores: list[list[float]]
    """the reward model's"""
    finished: list[bool]

    def mean_gold(self) -> Estimate:
        """Over the prompts, whose answers are no independent draws."""
        return mean_estimate([fmean(row) for row in self.gold])

    def mean_score(self) -> Estimate:
        """See `mean_gold`."""
        return mean_estimate([fmean(row) for row in self.scores])

    def ended(self) -> Estimate:
        """Share of the answers that ended by themselves."""
        return proportion_estimate(sum(self.finished), len(self.finished))


@dataclass
class Found:
    """SFT and PPO, judged by the gold reward."""

    asked: list[str]
    before: Judged
    after: Judged
    agreement: Estimate
    """share of prompts on which the reward model prefers the better of two of the SFT model's answers"""
    wins: WinRate
    kl: Estimate

    def table(self) -> Table:
        """With 95 % intervals."""
        table = Table("held out", "SFT", "PPO", "95 % interval", title="What RLHF changed", title_justify="left")
        for label, old, new in (
            (f"gold reward, of {len(FACTS)}", self.before.mean_gold(), self.after.mean_gold()),
            ("the reward model's score", self.before.mean_score(), self.after.mean_score()),
        ):
            table.add_row(label, f"{old.value:.2f}", f"{new.value:.2f}", f"{new.low:.2f} – {new.high:.2f}")
        wins, rate = self.wins, self.wins.rate
        counts = f"{wins.wins} won, {wins.ties} tied, {wins.losses} lost"
        table.add_row(f"gold win rate ({counts})", "50.0 %", f"{rate.value:.1%}", f"{rate.low:.1%} – {rate.high:.1%}")
        old, new = self.before.ended(), self.after.ended()
        table.add_row("answers that end", f"{old.value:.1%}", f"{new.value:.1%}", f"{new.low:.1%} – {new.high:.1%}")
        kl = self.kl
        table.add_row("KL to SFT, nats per answer", "0", f"{kl.value:.2f}", f"{kl.low:.2f} – {kl.high:.2f}")
        right = self.agreement
        label = f"reward model right, {right.n} pairs of SFT answers"
        table.add_row(label, f"{right.value:.1%}", "", f"{right.low:.1%} – {right.high:.1%}")
        return table

    def side_by_side(self) -> Table:
        """The first few held-out prompts; nothing is picked."""
        table = Table("prompt", "SFT", "PPO", title="Same prompts, before and after", title_justify="left")
        for asked, old, new in list(zip(self.asked, self.before.texts, self.after.texts, strict=True))[:SHOWN]:
            table.add_row(asked, old[0], new[0])
        return table

    def numbers(self) -> dict[str, Any]:
        """Everything measured, for a file."""
        return {
            "gold": {"sft": asdict(self.before.mean_gold()), "ppo": asdict(self.after.mean_gold())},
            "score": {"sft": asdict(self.before.mean_score()), "ppo": asdict(self.after.mean_score())},
            "win_rate": asdict(self.wins),
            "kl": asdict(self.kl),
            "reward_model": asdict(self.agreement),
        }


def measure(folder: Path) -> Found:
    """Let both models answer the held-out prompts; the gold reward and the reward model judge."""
    from plaudit import api
    from plaudit.engines import Sampling
    from plaudit.engines.open import open_engine
    from plaudit.rewards.models.model import RewardModel
    from plaudit.types import PromptGroup, token_array

    asked = prompts()[1]
    reward_model = RewardModel.load(folder / "reward")
    engines = []
    for step in ("sft", "ppo"):
        loaded = api.load(folder / step)
        engines.append(open_engine(loaded.model, loaded.tokenizer)[0])
        ids = [token_array(loaded.tokenizer(prompt)["input_ids"]) for prompt in asked]  # the same for both
    sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS, seed=SEED)
    answers = [list(engine.generate(ids, JUDGED, sampling)) for engine in engines]

    def judged(groups: Sequence[PromptGroup]) -> Judged:
        texts = [[(c.text or "").strip() for c in group.completions] for group in groups]
        ended = [[c.finish_reason == "stop" for c in group.completions] for group in groups]
        gold = [
            [gold_reward(prompt, text, end) for text, end in zip(row, ends, strict=True)]
            for prompt, row, ends in zip(asked, texts, ended, strict=True)
        ]
        scores = reward_model.score([(p, [f" {t}" for t in row]) for p, row in zip(asked, texts, strict=True)])
        return Judged(texts, gold, [list(map(float, row)) for row in scores], [e for row in ended for e in row])

    before, after = (judged(groups) for groups in answers)
    right = []
    for scores, gold in zip(before.scores, before.gold, strict=True):
        other = next((i for i, reward in enumerate(gold) if reward != gold[0]), None)
        if other is not None:
            right.append((scores[0] > scores[other]) == (gold[0] > gold[other]))
    new, old = ([float(row.sum()) for group in e.score(answers[1]) for row in group] for e in reversed(engines))
    return Found(
        asked,
        before,
        after,
        proportion_estimate(sum(right), len(right)),
        win_rate([row[0] for row in after.gold], [row[0] for row in before.gold]),
        sequence_kl(new, old),
    )


if __name__ == "__main__":
    main()
