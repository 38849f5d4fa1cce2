"""Metrics of rollout batches against values worked out by hand, and which answers are shown."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plaudit.online.watch import rollout_metrics, sample_rows
from plaudit.rewards.contract import RewardResult
from plaudit.rewards.scoring import ScoredGroup
from plaudit.runs.metrics import EVAL_PREFIX, is_known, spec
from plaudit.types import Completion, FinishReason, PromptGroup, token_array


class Letters:
    """A tokenizer of letters: 1 is a, 2 is b, …; 0 is its end token."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join("." if i == 0 else chr(96 + i) for i in ids if i or not skip_special_tokens)


def answer(*ids: int, finish: FinishReason | None = "stop", text: str | None = None) -> Completion:
    return Completion(token_array(ids), np.ones(len(ids), dtype=bool), finish_reason=finish, text=text)


def group(*answers: Completion, prompt: tuple[int, ...] = (16,)) -> PromptGroup:
    return PromptGroup(token_array(prompt), list(answers))


def scored(*values: float | None) -> ScoredGroup:
    return ScoredGroup([RewardResult.failed("timeout", "slow") if v is None else RewardResult.of(v) for v in values])


def batch(*values: tuple[float | None, ...]) -> tuple[list[PromptGroup], list[ScoredGroup]]:
    """Groups whose answers are one token and the end, with these rewards; prompts are p, q, r, …"""
    groups = [group(*(answer(n + 1, 0) for n in range(len(v))), prompt=(16 + g,)) for g, v in enumerate(values)]
    return groups, [scored(*v) for v in values]


def means(groups: list[PromptGroup], results: list[ScoredGroup]) -> dict[str, float]:
    return {name: total / count for name, (total, count) in rollout_metrics(groups, results).items()}


# -- rewards


def test_rewards_of_groups() -> None:
    found = rollout_metrics(*batch((1.0, 3.0), (2.0, 2.0), (0.0, 0.0, 6.0)))
    # Σ = 1 + 3 + 2 + 2 + 0 + 0 + 6 of 7 answers.
    assert found["reward"] == (14.0, 7.0)
    # Within groups, n − 1: √2, 0, √((4 + 4 + 16) / 2) = √12.
    assert found["reward_std"] == (pytest.approx(math.sqrt(2) + math.sqrt(12)), 3.0)
    assert found["frac_reward_zero_std"] == (1.0, 3.0)


def test_one_answer_per_prompt_has_the_spread_of_the_batch() -> None:
    found = rollout_metrics(*batch((1.0,), (2.0,), (6.0,)))
    # Mean 3; √((4 + 1 + 9) / 2) = √7.
    assert found["reward_std"] == (pytest.approx(math.sqrt(7)), 1.0)
    assert "frac_reward_zero_std" not in found


def test_a_single_answer_has_no_spread() -> None:
    found = rollout_metrics(*batch((1.5,)))
    assert found["reward"] == (1.5, 1.0)
    assert "reward_std" not in found


def test_groups_of_one_do_not_count_beside_larger_ones() -> None:
    found = rollout_metrics(*batch((5.0,), (1.0, 3.0)))
    assert found["reward_std"] == (pytest.approx(math.sqrt(2)), 1.0)
    assert found["frac_reward_zero_std"] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "equal"),
    [
        ((0.1 + 0.2, 0.3), 1.0),
        ((1000.0, 1000.0005), 1.0),  # 5e-7 of 1000: rounding of a float32 score
        ((0.0, 1e-5), 0.0),
        ((1e-7, 1.1e-7), 0.0),  # small, and a tenth apart
        ((0.1 + 0.2 - 0.3, 0.0), 1.0),
        ((1000.0, 1000.01), 0.0),
        ((-2.0, 2.0), 0.0),
    ],
)
def test_equal_up_to_rounding(values: tuple[float, ...], equal: float) -> None:
    assert rollout_metrics(*batch(values))["frac_reward_zero_std"] == (equal, 1.0)


def test_parts_are_averaged_over_the_answers_that_have_them() -> None:
    groups, _ = batch((0.0, 0.0), (0.0,))
    results = [
        ScoredGroup(
            [RewardResult.of(1.0, parts={"math": 1.0, "judge/style": 0.25}), RewardResult.of(0.5, parts={"math": 0.0})]
        ),
        ScoredGroup([RewardResult.of(2.0, parts={"math": 0.5, "total": 3.0})]),
    ]
    found = rollout_metrics(groups, results)
    assert found["rewards/math/mean"] == (1.5, 3.0)
    assert found["rewards/judge/style/mean"] == (0.25, 1.0)
    assert found["rewards/total/mean"] == (3.0, 1.0)


def test_failures_are_counted_and_their_group_is_not() -> None:
    groups, results = batch((1.0, None), (4.0, 2.0), (None, None))
    results[1].results[0] = results[1].results[0].tried(3)
    results[2].results[1] = results[2].results[1].tried(2)
    found = rollout_metrics(groups, results)
    assert found["reward"] == (6.0, 2.0)  # the 1 lies in a group that is left out
    assert found["reward_std"] == (pytest.approx(math.sqrt(2)), 1.0)
    assert found["rewards/error_rate"] == (3.0, 6.0)
    assert found["rewards/retried"] == (2.0, 6.0)
    assert found["rewards/excluded"] == (2.0, 3.0)


def test_parts_of_a_group_that_is_left_out_do_not_count() -> None:
    groups, results = batch((1.0, None), (1.0, 1.0))
    results[0].results[0] = RewardResult.of(1.0, parts={"math": 1.0})
    assert "rewards/math/mean" not in rollout_metrics(groups, results)


def test_nothing_usable_leaves_no_reward_but_the_lengths() -> None:
    found = rollout_metrics(*batch((None, 1.0)))
    assert "reward" not in found
    assert "reward_std" not in found
    assert found["completions/mean_length"] == (4.0, 2.0)


def test_an_empty_batch_says_nothing() -> None:
    assert rollout_metrics([], []) == {}


# -- lengths


def test_lengths() -> None:
    groups = [
        group(answer(1, 2, 0), answer(1, 2, 3, 4, finish="length")),
        group(answer(0), answer(finish="length"), answer(1, finish=None)),
    ]
    found = rollout_metrics(groups, [scored(0.0, 0.0), scored(0.0, 0.0, 0.0)])
    assert found["completions/mean_length"] == (9.0, 5.0)
    assert found["completions/max_length"] == (4.0, 1.0)
    assert found["completions/mean_terminated_length"] == (4.0, 2.0)
    assert found["completions/clipped_ratio"] == (2.0, 5.0)
    # The end token alone, and nothing at all; a token of an answer that did not end is a token.
    assert found["completions/empty"] == (2.0, 5.0)


def test_where_no_answer_ended_there_is_no_such_length() -> None:
    found = rollout_metrics([group(answer(1, 2, finish="length"))], [scored(0.0)])
    assert "completions/mean_terminated_length" not in found
    assert found["completions/clipped_ratio"] == (1.0, 1.0)


# -- texts


@pytest.mark.parametrize(
    ("ids", "repetition"),
    [
        ((1, 2, 3, 4), 0.0),
        ((1, 1, 1, 1, 1, 1), 2 / 3),  # aaaa three times: one is new
        ((1, 2, 1, 2, 1, 2, 1), 0.5),  # abab, baba, abab, baba
        ((1, 2, 3, 4, 1, 2, 3, 5), 0.0),  # abca … the repeated part is three long
        ((1, 2, 3, 4, 5, 1, 2, 3, 4), 1 / 6),  # abcd, bcde, cdea, deab, eabc, abcd
        ((2**31 - 1, 0, 2**31 - 1, 0, 2**31 - 1, 0), 1 / 3),  # the largest id: xoxo, oxox, xoxo
    ],
)
def test_repetition_counts_4_grams(ids: tuple[int, ...], repetition: float) -> None:
    found = rollout_metrics([group(answer(*ids))], [scored(0.0)])
    assert found["completions/repetition"] == (pytest.approx(repetition), 1.0)


def test_repetition_is_a_mean_over_answers_that_are_long_enough() -> None:
    groups = [group(answer(1, 1, 1, 1, 1, 1), answer(1, 2, 3, 4), answer(1, 1, 1))]
    found = rollout_metrics(groups, [scored(0.0, 0.0, 0.0)])
    assert found["completions/repetition"] == (pytest.approx(2 / 3), 2.0)


def test_distinct_counts_bigrams_of_the_whole_batch() -> None:
    groups = [group(answer(1, 2, 3), answer(1, 2, 4)), group(answer(2, 3), answer(5))]
    # ab bc | ab bd | bc | none: ab, bc and bd of five. No bigram reaches from one answer into the next.
    found = rollout_metrics(groups, [scored(0.0, 0.0), scored(0.0, 0.0)])
    assert found["completions/distinct"] == (3.0, 5.0)


@pytest.mark.parametrize("other", [((1, 2), (2, 1)), ((1, 0), (0, 2**16)), ((1, 0), (0, 2**31 - 1))])
def test_different_bigrams_are_told_apart(other: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    found = rollout_metrics([group(*(answer(*ids) for ids in other))], [scored(0.0, 0.0)])
    assert found["completions/distinct"] == (2.0, 2.0)


# -- all of them


def test_every_metric_is_in_the_table() -> None:
    groups, results = batch((1.0, 2.0), (None, 0.0))
    results[0].results[0] = RewardResult.of(1.0, parts={"math": 1.0})
    groups[0].completions[0] = answer(1, 2, 3, 4, 0)
    found = rollout_metrics(groups, results)
    assert all(is_known(name) for name in found)
    assert len(found) == 14
    assert spec("reward").direction == spec(f"{EVAL_PREFIX}reward").direction == "higher"
    assert {spec(name).group for name in found} == {"rewards", "completions"}
    assert spec("rewards/math/mean").meaning.startswith("one part of the reward")


def test_batches_add_up() -> None:
    first, second = batch((1.0, 3.0), (2.0, 2.0)), batch((0.0, 6.0))
    whole = rollout_metrics(first[0] + second[0], first[1] + second[1])
    one, two = rollout_metrics(*first), rollout_metrics(*second)
    for name in ("reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "rewards/error_rate"):
        assert whole[name] == pytest.approx(tuple(np.add(one[name], two[name])))


# -- samples


def shown(values: list[tuple[float | None, ...]], k: int) -> list[tuple[str, str, float | None]]:
    rows = sample_rows(*batch(*values), k, Letters())
    return [(row["prompt"], row["completion"], row["reward"]) for row in rows]


def test_best_middle_and_worst_of_different_prompts() -> None:
    # Ranked: q.b 9, q.a 8, p.b 5, r.a 4, r.b 3, p.a 1, s.a 0. The middle place is r.a, the fourth of seven.
    values: list[tuple[float | None, ...]] = [(1.0, 5.0), (8.0, 9.0), (4.0, 3.0), (0.0,)]
    assert shown(values, 3) == [("q", "b", 9.0), ("r", "a", 4.0), ("s", "a", 0.0)]
    assert shown(values, 2) == [("q", "b", 9.0), ("s", "a", 0.0)]
    assert shown(values, 1) == [("r", "a", 4.0)]
    assert shown(values, 0) == []


def test_prompts_differ_even_where_one_has_both_ends() -> None:
    # The worst answer, p.b, is to the best one's prompt; the worst of another prompt takes its place.
    values: list[tuple[float | None, ...]] = [(9.0, 0.0), (5.0, 4.0), (3.0, 2.0), (8.0, 7.0)]
    # Ranked: p.a 9, s.a 8, s.b 7, q.a 5, q.b 4, r.a 3, r.b 2, p.b 0: the middle lies between q.a and q.b.
    assert shown(values, 3) == [("p", "a", 9.0), ("q", "a", 5.0), ("r", "b", 2.0)]


def test_one_prompt_is_shown_several_times_where_there_is_no_other() -> None:
    assert shown([(1.0, 2.0, 3.0, 4.0, 5.0)], 3) == [("p", "a", 1.0), ("p", "c", 3.0), ("p", "e", 5.0)]
    assert shown([(1.0, 2.0)], 5) == [("p", "a", 1.0), ("p", "b", 2.0)]


def test_equal_rewards_are_taken_in_the_order_of_the_batch() -> None:
    values: list[tuple[float | None, ...]] = [(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)]
    assert shown(values, 2) == shown(values, 2) == [("p", "a", 1.0), ("r", "b", 1.0)]


def test_held_out_prompts_stay_in_their_places() -> None:
    assert [row[0] for row in shown([(1.0,), (3.0,), (2.0,)], 3)] == ["p", "q", "r"]
    assert [row[0] for row in shown([(3.0,), (1.0,), (2.0,)], 3)] == ["p", "q", "r"]


def test_what_a_row_says() -> None:
    groups = [
        group(answer(1, 2, 0, text="A b."), answer(3, 4, 0)),
        group(answer(5, finish="length", text="")),
    ]
    groups[0].prompt_text = "<user> Why?"
    results = [
        ScoredGroup(
            [
                RewardResult.of(0.9, parts={"math": 1.0, "length": -0.1}, note="read 7, expected 7"),
                RewardResult.of(0.0, parts={"math": 0.0}),
            ]
        ),
        ScoredGroup([RewardResult.failed("timeout", "10 s")]),
    ]
    first, second, third = sample_rows(groups, results, 3, Letters())
    assert first == {
        "prompt": "<user> Why?",
        "completion": "A b.",
        "reward": 0.9,
        "parts": {"math": 1.0, "length": -0.1},
        "note": "read 7, expected 7",
        "tokens": 3,
        "finish_reason": "stop",
    }
    # One part that is the reward says nothing more; a text that nobody wrote down is decoded without its end token.
    assert second == {"prompt": "<user> Why?", "completion": "cd", "reward": 0.0, "tokens": 3, "finish_reason": "stop"}
    # An empty text is a text.
    assert third["completion"] == ""
    assert (third["prompt"], third["reward"], third["error"]) == ("p", None, "timeout: 10 s")


def test_failures_are_shown_only_where_there_is_too_little_else() -> None:
    assert [row[2] for row in shown([(None, 1.0), (2.0, 3.0), (None,)], 2)] == [3.0, 1.0]
    assert [row[2] for row in shown([(None, 1.0), (2.0, 3.0), (None,)], 4)] == [3.0, 2.0, 1.0, None]
