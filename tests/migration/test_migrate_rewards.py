"""What scores the answers there scores them here: functions stay functions, and the result is one that a run takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from plaudit.errors import ConfigError
from tests.migration.conftest import Migrate, accounts

if TYPE_CHECKING:
    from plaudit.migration.migrate import Migration

TRAINER = 'GRPOTrainer("m", reward_funcs={funcs}, args=GRPOConfig(output_dir="o"), train_dataset=load_dataset("a/b"))'


def script(head: str, funcs: str) -> str:
    return f"{head}\n{TRAINER.format(funcs=funcs)}\n"


def rewards(found: Migration) -> list[Any]:
    reward = found.resolved.run.reward
    assert reward is not None
    return [dict(each) if not isinstance(each, str) else each for each in reward.rewards]


@pytest.mark.parametrize(
    ("head", "funcs", "ours"),
    [
        ("from rw import vowels", "vowels", "rw:vowels"),
        ("from rw import vowels", "[vowels]", "rw:vowels"),
        ("from rw import vowels as v", "v", "rw:vowels"),
        ("from pkg.rw import vowels\nscore = vowels", "score", "pkg.rw:vowels"),
        ("import rw", "rw.spaces", "rw:spaces"),
        ("import rw as r", "r.spaces", "rw:spaces"),
        ("import pkg.rw", "pkg.rw.spaces", "pkg.rw:spaces"),
        ("import pkg.rw as r", "r.spaces", "pkg.rw:spaces"),
        ("from pkg import rw", "rw.spaces", "pkg.rw:spaces"),
        ("from pkg import Scores", "Scores.spaces", "pkg:Scores.spaces"),
        ("def main():\n    from rw import vowels", "vowels", "rw:vowels"),
        ("from rw import accuracy_reward", "accuracy_reward", "rw:accuracy_reward"),
        ("from trl.rewards import accuracy_reward", "accuracy_reward", "math"),
        ("from trl.rewards import accuracy_reward as vowels", "vowels", "math"),
        ("from trl import rewards", "rewards.think_format_reward", "format"),
        ("import trl.rewards as t", "t.think_format_reward", "format"),
        ("from code import runs", "runs", {"kind": "function", "function": "code:runs"}),
        ("def vowels(completions):\n    return []", "vowels", "YOUR_REWARDS.py:vowels"),
        ("NAME = 'rm1'", "NAME", {"kind": "model", "path": "rm1"}),
        ("", "'reward-1.5'", {"kind": "model", "path": "reward-1.5"}),
        (
            "rm = AutoModelForSequenceClassification.from_pretrained('some/rm', num_labels=1)",
            "[rm]",
            {"kind": "model", "path": "some/rm"},
        ),
    ],
)
def test_a_reward_of_a_script(migrate: Migrate, head: str, funcs: str, ours: Any) -> None:
    found = migrate(script(head, funcs), "train.py")
    assert rewards(found) == [ours]
    assert accounts(found)["reward_funcs"][0] == "taken"
    assert found.resolved.run.model.path == "m", "a reward model is not what is trained"


@pytest.mark.parametrize(
    ("head", "funcs"),
    [
        ("from .rw import vowels", "vowels"),
        ("from . import rw", "rw.vowels"),
        ("from rw import *", "vowels"),
        ("", "vowels"),
        ("import rw", "rw"),
        ("import rw", "rw.made()"),
        ("from rw import Scorer", "[Scorer()]"),
        ("from rw import vowels", "[vowels, unknown]"),
        ("from rw import vowels", "[*others, vowels]"),
        ("from rw import vowels, spaces\nfuncs = [vowels]\nfuncs.append(spaces)", "funcs"),
        ("from rw import vowels, spaces\nfuncs = [vowels]\nfuncs += [spaces]", "funcs"),
        ("try:\n    from rw import vowels\nexcept ImportError:\n    from old import vowels", "vowels"),
        ("try:\n    from rw import vowels\nexcept ImportError:\n    vowels = 'some/rm'", "vowels"),
        ("try:\n    from rw import vowels\nexcept ImportError:\n    def vowels(completions): ...", "vowels"),
        ("class Mine:\n    def vowels(self, completions): ...", "vowels"),
        ("from trl.rewards import get_soft_overlong_punishment", "get_soft_overlong_punishment"),
        ("from rw import get_soft_overlong_punishment", "get_soft_overlong_punishment(9, 3)"),
        ("rm = AutoModelForSequenceClassification.from_pretrained(ARGS.rm)", "rm"),
        ("rm = AutoModelForSequenceClassification.from_pretrained('rm', revision='v2')", "rm"),
    ],
)
def test_a_reward_of_a_script_that_only_running_it_would_tell(migrate: Migrate, head: str, funcs: str) -> None:
    found = migrate(script(head, funcs), "train.py")
    part, text = accounts(found)["reward_funcs"]
    assert part == "missing"
    assert "could not be read" in text
    assert found.lossy, "--strict ends with 2"
    assert rewards(found) == ["YOUR_REWARDS.py:reward"]


def test_a_reward_in_the_second_place(migrate: Migrate) -> None:
    text = """
        from rw import vowels
        GRPOTrainer("m", vowels, GRPOConfig(output_dir="o"), load_dataset("a/b"))
    """
    assert rewards(migrate(text, "train.py")) == ["rw:vowels"]


def test_a_punishment_under_another_name(migrate: Migrate) -> None:
    head = "from trl.rewards import get_soft_overlong_punishment as late\nfrom rw import vowels"
    found = migrate(script(head, "[vowels, late(512, 64)]"), "train.py")
    assert rewards(found) == ["rw:vowels"]
    assert "soft_overlong: {longest: 512, cache: 64}" in found.text


def test_the_reward_model_of_a_ppo_script(migrate: Migrate) -> None:
    text = """
        policy = AutoModelForCausalLM.from_pretrained("some/policy")
        worth = AutoModelForSequenceClassification.from_pretrained("some/worth", num_labels=1)
        rm = AutoModelForSequenceClassification.from_pretrained("some/rm", num_labels=1)
        args = PPOConfig(output_dir="o")
        PPOTrainer(args=args, model=policy, value_model=worth, reward_model=rm, train_dataset=load_dataset("a/b"))
    """
    found = migrate(text, "ppo.py")
    assert rewards(found) == [{"kind": "model", "path": "some/rm"}]
    assert found.resolved.run.model.path == "some/policy"


def test_a_script_that_trains_a_classifier(migrate: Migrate) -> None:
    text = """
        model = AutoModelForSequenceClassification.from_pretrained("some/base", num_labels=1)
        RewardTrainer(model=model, args=RewardConfig(output_dir="o"), train_dataset=load_dataset("a/b"))
    """
    assert migrate(text, "reward.py").resolved.run.model.path == "some/base"


@pytest.mark.parametrize(
    ("head", "funcs", "names"),
    [
        ("", "['rm1', 'rm2']", ["rm1", "rm2"]),
        ("", "['a/rm', 'b/rm']", ["rm", "b_rm"]),
        ("", "['rm', 'rm', 'rm']", ["rm", "rm_2", "rm_3"]),
        ("import a, b", "[a.score, b.score, 'rm']", ["a_score", "b_score", None]),
        (
            "from trl.rewards import accuracy_reward, reasoning_accuracy_reward",
            "[accuracy_reward, reasoning_accuracy_reward]",
            ["accuracy_reward", "reasoning_accuracy_reward"],
        ),
        ("from rw import total, one", "[total, one]", ["rw_total", None]),
        ("from rw import model", "[model, 'rm']", ["rw_model", "rm"]),
    ],
)
def test_rewards_that_would_be_called_the_same(migrate: Migrate, head: str, funcs: str, names: list[str]) -> None:
    from plaudit.migration.parts.rewards import check

    found = migrate(script(head, funcs), "train.py")
    read = rewards(found)
    assert [None if isinstance(each, str) else each.get("name") for each in read] == names
    check({"rewards": read})


def test_names_go_with_weights(migrate: Migrate) -> None:
    text = "model_name_or_path: m\ndataset_name: d\nreward_funcs: [some/rm1, some/rm2]\nreward_weights: [1, 0.5]\n"
    found = migrate(text, "grpo.yaml", method="grpo")
    assert rewards(found) == [
        {"kind": "model", "path": "some/rm1", "name": "rm1"},
        {"kind": "model", "path": "some/rm2", "weight": 0.5, "name": "rm2"},
    ]


def test_a_migrated_run_is_one_that_takes_its_rewards(migrate: Migrate, tmp_path: Path) -> None:
    """As `plaudit check` reads them, with everything imported."""
    from plaudit.rewards.spec import read_specs

    (tmp_path / "mig_rw.py").write_text(
        "def vowels(completion):\n    return 1.0\n\n\ndef spaces(completion):\n    return 0.0\n"
    )
    found = migrate(script("import mig_rw as r\nfrom mig_rw import vowels", "[vowels, r.spaces, 'rm1', 'rm2']"), "t.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        spec = read_specs([{"rewards": rewards(found)}])
    assert [part.reward.name for part in spec.reward.parts] == ["vowels", "spaces", "rm1", "rm2"]


def test_rewards_that_no_run_takes_are_an_error(migrate: Migrate) -> None:
    """Not a file that `plaudit check` refuses."""
    text = "model_name_or_path: m\ndataset_name: d\nreward_funcs: [a.b, a.c]\nreward_weights: [1, .inf]\n"
    with pytest.raises(ConfigError, match="weight") as caught:
        migrate(text, "grpo.yaml", method="grpo")
    assert caught.value.code == "PL104"


def test_a_word_of_a_file_that_may_be_a_function_is_noted(migrate: Migrate) -> None:
    text = "model_name_or_path: m\ndataset_name: d\nreward_funcs: [vowels]\n"
    found = migrate(text, "grpo.yaml", method="grpo")
    assert any("vowels is taken for the folder of a reward model" in note for note in found.notes)
