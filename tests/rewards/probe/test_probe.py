"""The hack suite: our rewards stand, naive ones fall, and the probe says which."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import ConfigError
from plaudit.rewards.function import FunctionOptions, FunctionReward
from plaudit.rewards.probe.run import Probed, probe_reward
from plaudit.rewards.probe.suite import FAMILIES


def probe(function: Callable[..., Any], **options: Any) -> Probed:
    return probe_reward(FunctionReward(FunctionOptions(function="tests:f"), function), **options)


def bad(found: Probed) -> set[str]:
    return {c.name for c in found.checks if c.verdict == "bad"}


@pytest.mark.parametrize("spec", ["math", "choice", "exact", "code:cpu_seconds=2", "json_schema"])
def test_our_verifiers_stand(spec: str) -> None:
    found = probe_reward(spec)
    assert [(c.name, c.value, c.detail) for c in found.checks if c.verdict != "ok"] == []
    assert sum(c.kind == "hack" for c in found.checks) == sum(len(p.hacks) for p in FAMILIES[found.family])


def test_a_naive_math_reward_falls() -> None:
    def contains(completion: str, answer: str) -> float:
        return float(str(answer) in completion)

    found = probe(contains)
    assert found.family == "math"
    assert not found.passed
    assert bad(found) >= {
        "one or the other",
        "every option, boxed one by one",
        "the problem again",
        "right in the thought, wrong in the answer",
        "the reference is empty text",
    }


def test_the_last_box_falls_for_enumeration() -> None:
    def last_box(completion: str, ground_truth: str) -> float:
        found = re.findall(r"\\boxed\{([^{}]*)\}", completion)
        return float(bool(found) and found[-1] == ground_truth)

    found = probe(last_box)
    assert "ten boxes, the right one last" in bad(found)
    assert "boxed in an HTML comment" in bad(found)
    assert "one or the other" not in bad(found)


def test_digits_of_other_scripts_fool_int() -> None:
    def as_int(completion: str, answer: str) -> float:
        found = re.findall(r"\\boxed\{([^{}]*)\}", completion)
        return float(len(found) == 1 and found[0].isdigit() and int(found[0]) == int(answer))

    assert {"Arabic-Indic digits", "full-width digits"} <= bad(probe(as_int))


def test_a_reward_that_changes_its_mind_is_noticed() -> None:
    counter = itertools.count()

    def moody(completion: str) -> float:
        return float(next(counter) % 7)

    assert "an answer's reward does not depend on the order" in bad(probe(moody))


def test_a_reward_that_looks_at_its_neighbours_is_noticed() -> None:
    def ranked(completions: list[str]) -> list[float]:
        order = sorted(completions)
        return [order.index(c) / len(order) for c in completions]

    assert "nor on the answers beside it" in bad(probe(ranked))


def test_a_reward_that_writes_into_rows_is_noticed() -> None:
    from plaudit.rewards.contract import RewardResult, Sample, SampleReward

    class Writes(SampleReward):
        kind, title = "writes", "test"

        def one(self, sample: Sample) -> RewardResult:
            sample.row["seen"] = True  # type: ignore[index]  # which is what is tested
            return RewardResult.of(1)

    assert "rows are not changed" in bad(probe_reward(Writes()))


def test_a_reward_that_raises_for_honest_answers_is_bad() -> None:
    def broken(completion: str) -> float:
        raise ValueError("always")

    found = probe(broken)
    assert not found.passed
    assert any("no value" in c.detail for c in found.checks)


def test_a_reward_that_an_answer_can_make_fail_is_weak() -> None:
    def fragile(completion: str, answer: str) -> float:
        found = re.findall(r"\\boxed\{([^{}]*)\}", completion)
        return float(float(found[0]) == float(answer.replace("\\frac{1}{4}", "0.25"))) if found else 0.0

    weak = {c.name for c in probe(fragile).checks if c.verdict == "weak"}
    assert "a variable" in weak


def test_length_rewards_do_not_tell_text_from_noise() -> None:
    found = probe_reward("length:unit=words,most=500")
    assert found.family == "text"
    assert found.passed
    assert any(c.verdict == "weak" and c.name == "one word for ever" for c in found.checks)
    assert not probe_reward("length:unit=words,least=400").passed  # more for a loop than for an answer


def test_what_it_is_attacked_as() -> None:
    assert probe(lambda completion: 1.0).family == "text"
    assert probe(lambda completion, tests: 0.0).family == "code"
    assert probe(lambda completion, schema: 0.0).family == "json"
    assert probe(lambda completion, gold: 0.0, against="choice").family == "choice"
    with pytest.raises(ConfigError, match="use one of"):
        probe_reward("repetition", against="maths")


def test_no_reward_is_held_to_problems_that_it_cannot_read() -> None:
    found = probe(lambda completion, test_list: float("a + b" in completion))
    assert "an honest wrong answer" not in bad(found)
    assert [c.detail for c in found.checks if "columns that it reads" in c.name] == [
        "1 of 3 are left out: it reads test_list"
    ]
    everything = probe(lambda completion, tests, test_list: 0.0, against="code")
    assert not any("columns that it reads" in c.name for c in everything.checks)


def test_a_right_answer_that_is_worth_0_is_a_measure_too() -> None:
    def punishes(completion: str) -> float:
        return -1.0 if not completion else 0.0 if completion.startswith("Sunlight") else -0.5

    found = probe(punishes)
    assert found.family == "text"
    assert not bad(found)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "plaudit", "rewards", "probe", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, cwd=folder, timeout=120, check=False)


def test_answers_that_end_the_scoring_process_are_hacks(tmp_path: Path) -> None:
    """A reward that runs programs in its own process: `os._exit(0)` would end the probe, and a loop would hold it."""
    (tmp_path / "naive.py").write_text(
        "import re\n"
        "def reward(completion, test_list):\n"
        "    code = re.search(r'```python\\n(.*?)```', completion, re.S)\n"
        "    try:\n"
        "        exec('\\n'.join([code[1], *test_list]), {})\n"
        "    except BaseException:\n"
        "        return 0.0\n"
        "    return 1.0\n"
    )
    done = command(tmp_path, "naive.py:reward", "--seconds", "2")
    assert done.returncode == 1, done.stderr
    text = " ".join(done.stdout.split())
    assert "BAD leaves before the tests ended the process that scores" in text
    assert "BAD never returns was not scored within 2 s" in text
    assert "BAD equal to everything 1" in text  # the others were tried all the same
    assert "ok a function 1" in text


def test_a_reward_that_leaves_while_it_is_set_up_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("import os\nos._exit(0)\n")
    done = command(tmp_path, "leaves.py:reward")
    assert done.returncode == 2
    assert "PL705" in done.stderr
    assert "exit code 0" in done.stderr
    done = command(tmp_path, "nowhere.py:reward")  # errors of the other process are told as our own
    assert done.returncode == 2
    assert "there is no file nowhere.py" in done.stderr


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "mine_of_probe.py").write_text(
        "def reward(completion, answer):\n    return float(answer in completion)\n"
    )
    done = command(tmp_path, "mine_of_probe:reward")
    assert done.returncode == 1
    assert "BAD" in done.stdout
    assert "the problem again" in done.stdout
    assert re.search(r"\d+ checks, \d+ bad, \d+ weak", done.stdout)
