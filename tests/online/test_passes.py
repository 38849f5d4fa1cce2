"""pass@k and avg@k."""

from __future__ import annotations

from itertools import combinations

import pytest

from plaudit.online.passes import pass_at_k, pass_metrics


@pytest.mark.parametrize(("count", "right", "k"), [(1, 0, 1), (5, 2, 3), (6, 1, 2), (6, 6, 4), (6, 0, 6), (7, 3, 5)])
def test_it_is_the_share_of_the_subsets_with_a_right_answer(count: int, right: int, k: int) -> None:
    subsets = list(combinations([True] * right + [False] * (count - right), k))
    assert pass_at_k(count, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def means(rows: list[list[float]], threshold: float | None = None) -> dict[str, float]:
    return {name: total / count for name, (total, count) in pass_metrics(rows, threshold).items()}


def test_the_metrics_of_some_prompts() -> None:
    assert means([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]) == pytest.approx(
        {"avg@4": 5 / 12, "pass@2": (0.5 + 1 + 0) / 3, "pass@4": 2 / 3}
    )
    assert means([[1, 0, 0, 0, 0, 0]]).keys() == {"avg@6", "pass@2", "pass@4", "pass@6"}
    assert means([[1], [0]]) == {"avg@1": 0.5}
    assert means([]) == {}


def test_who_is_right() -> None:
    """Without a threshold only rewards of 0 and 1 say it."""
    assert means([[1, 0.5]]) == {}
    assert means([[1, -1]]) == {}
    assert means([[1, 0.5]], 0.5) == {"avg@2": 1.0, "pass@2": 1.0}
    assert means([[0.3 * 3, 0.8999]], 0.9)["avg@2"] == 0.5  # 0.8999…9 is 0.9
    assert means([[-1.0, -3.0]], -2.0)["avg@2"] == 0.5


def test_prompts_with_fewer_answers_count_where_they_can() -> None:
    assert means([[1, 0, 0], [1]]) == pytest.approx({"avg@3": 0.5, "pass@2": 2 / 3, "pass@3": 1.0})
