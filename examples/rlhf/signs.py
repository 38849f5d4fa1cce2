"""A small world in which it is known what a good answer is: what a sign at a zoo should say.

prompt   a red fox from kenya
answer   home kenya . animal fox . coat grey .        gold reward 2 − 1 = 1
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping

FACTS: Mapping[str, tuple[str, ...]] = {
    "coat": ("red", "grey", "black", "white", "brown", "golden", "silver", "spotted"),
    "animal": ("fox", "bear", "owl", "wolf", "seal", "goat", "lynx", "crane"),
    "home": ("kenya", "peru", "japan", "egypt", "nepal", "cuba", "chile", "mali"),
}
RIGHT, LEFT_OUT = 0.6, 0.15
"""What the authors of the demonstrations do with a fact; otherwise they state it wrongly."""
HELD_OUT = 112
SHARPNESS = 3.0
WORDS = ("a", "from", ".", *FACTS, *itertools.chain(*FACTS.values()))


def prompts() -> tuple[list[str], list[str]]:
    """(for training, held out): no combination of facts is in both."""
    every = itertools.product(*FACTS.values())
    found = [f"a {coat} {animal} from {home}" for coat, animal, home in every]
    random.Random(0).shuffle(found)
    return found[HELD_OUT:], found[:HELD_OUT]


def facts_of(prompt: str) -> dict[str, str]:
    """What the prompt states: fact → value."""
    words = prompt.split()
    return {"coat": words[1], "animal": words[2], "home": words[4]}


def gold_reward(prompt: str, answer: str, ended: bool) -> int:
    """One for every fact that is stated rightly, minus one for every other sentence and for an answer that is cut."""
    *sentences, rest = f" {answer}".split(" .")
    said = [sentence.strip() for sentence in sentences]
    right = set(said) & {f"{fact} {value}" for fact, value in facts_of(prompt).items()}
    whole = ended and not rest.strip()
    return 2 * len(right) - len(said) - (not whole)


def preference_probability(gap: float) -> float:
    """Bradley–Terry: how likely an annotator prefers an answer whose gold reward is higher by `gap`."""
    return 1 / (1 + math.exp(-SHARPNESS * gap))


def demonstration(prompt: str, rng: random.Random, right: float = RIGHT, left_out: float = LEFT_OUT) -> str:
    """An answer as the authors give it: the facts in any order, at least one of them."""
    sentences = []
    for fact, value in facts_of(prompt).items():
        draw = rng.random()
        if draw >= 1 - left_out:
            continue
        said = value if draw < right else rng.choice([v for v in FACTS[fact] if v != value])
        sentences.append(f"{fact} {said} .")
    rng.shuffle(sentences)
    return " ".join(sentences) or demonstration(prompt, rng, right, left_out)
