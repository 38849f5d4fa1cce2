"""Every check finds exactly the rows that have its fault, and nothing in clean rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from plaudit.data.doctor import lengths, thresholds
from plaudit.data.doctor.findings import percent, wilson
from tests.data.doctor.rows import bad, chats, diagnosed, feedback, pairs, prose


@pytest.mark.parametrize("rows", [pairs(), feedback(), chats(), [{"prompt": prose(i)} for i in range(20)]])
def test_clean_rows_have_no_finding(rows: Any) -> None:
    found = diagnosed(rows)
    assert bad(found) == {}
    assert (found.rows, found.usable, found.prompts) == (len(rows), len(rows), len(rows))
    assert not found.failed


# ---------------------------------------------------------------- rows that training refuses


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"chosen": " \n"}, "empty"),
        ({"prompt": ""}, "empty"),
        ({"rejected": "{chosen}"}, "identical_pairs"),
        ({"chosen": None}, "malformed"),
        ({"votes": [1, 3]}, "self_contradictions"),
        ({"preference": 0.2}, "self_contradictions"),
    ],
)
def test_rows_that_training_refuses_fail(change: dict[str, Any], check: str) -> None:
    rows = pairs()
    rows[6] |= {k: rows[6]["chosen"] if v == "{chosen}" else v for k, v in change.items()}
    found = diagnosed(rows)
    assert bad(found) == {check: ("FAIL", 1)}
    assert found.finding(check).examples[0].rows == [7]
    assert (found.rows, found.usable) == (40, 39)


def test_rankings_without_a_rank() -> None:
    rows = [{"prompt": prose(9 * i), "completions": [prose(9 * i + j) for j in (1, 2, 3)], "ranks": [1, 2, 3]}
            for i in range(5)]  # fmt: skip
    assert bad(diagnosed(rows)) == {}
    rows[2]["ranks"] = [1, 1, 1]
    assert bad(diagnosed(rows)) == {"no_signal": ("FAIL", 1)}


# ---------------------------------------------------------------- repeats


def test_duplicates_are_the_same_up_to_white_space() -> None:
    rows = pairs(100)
    rows[10] = {**rows[3], "source": "again"}
    rows[50] = {**rows[3], "chosen": rows[3]["chosen"].replace(" ", "  ") + "\n"}
    found = diagnosed(rows)
    assert bad(found) == {"duplicates": ("WARN", 2)}
    assert [e.rows for e in found.finding("duplicates").examples] == [[4, 11], [4, 51]]
    rows[60:66] = rows[:6]
    assert bad(diagnosed(rows)) == {"duplicates": ("FAIL", 8)}


def test_the_same_answers_in_another_order_are_no_duplicates() -> None:
    rows = pairs(200)
    rows[1] = {"prompt": rows[0]["prompt"], "chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    assert bad(diagnosed(rows)) == {"contradictions": ("FAIL", 2)}


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [
        ("river", "brook", 1),  # one word of many
        ("river", "RIVER!", 1),  # case and punctuation
        ("river", "river 7", 0),  # another number is another task
    ],
)
def test_near_duplicates(old: str, new: str, count: int) -> None:
    rows = pairs(100)
    for name in ("prompt", "chosen", "rejected"):
        rows[5][name] += f" By the river {prose(1000, 60)}"
    rows[70] = {**rows[5], "chosen": rows[5]["chosen"].replace(f"the {old}", f"the {new}")}
    found = diagnosed(rows).finding("near_duplicates")
    assert found.count == count
    if count:
        assert found.examples[0].rows == [6, 71]


def test_near_duplicates_need_similar_answers_and_similar_prompts() -> None:
    long = prose(1, 200)
    rows = [{"prompt": long, "chosen": prose(2 * i + 10), "rejected": prose(2 * i + 11)} for i in range(40)]
    assert diagnosed(rows).finding("near_duplicates").count == 0
    rows = [{"prompt": prose(2 * i + 10), "completion": long} for i in range(40)]
    assert diagnosed(rows).finding("near_duplicates").count == 0


def test_short_rows_are_near_duplicates_only_when_equal_but_for_case() -> None:
    rows = [{"prompt": f"Is {w} a word?", "completion": "Yes."} for w in ("ant", "bee", "cat", "Bee")]
    assert diagnosed(rows).finding("near_duplicates").count == 1


def test_a_row_of_near_duplicates_in_a_chain_is_compared_with_one_that_stays() -> None:
    """Many near copies of one row: all but the first are found, however many there are."""
    words = prose(5, 200).split()
    rows = pairs(40)
    for i in range(60):
        changed = words.copy()
        changed[3 * i] = "otherwise"
        rows.append({"prompt": prose(7, 40), "chosen": " ".join(changed), "rejected": prose(8, 100)})
    assert diagnosed(rows).finding("near_duplicates").count == 59


# ---------------------------------------------------------------- judgements


def test_contradictions_of_pairs_feedback_and_rankings() -> None:
    rows: Any = pairs(40)
    rows[7] = {"prompt": rows[3]["prompt"], "chosen": rows[3]["rejected"], "rejected": rows[3]["chosen"]}
    found = diagnosed(rows).finding("contradictions")
    assert (found.verdict, found.count, found.of) == ("FAIL", 2, 40)
    assert found.examples[0].rows == [4, 8]
    rows = feedback(400)
    rows[7] = {**rows[4], "label": not rows[4]["label"]}
    assert bad(diagnosed(rows)) == {"contradictions": ("WARN", 2)}
    answers = [prose(1), prose(2), prose(3)]
    ranked = [{"prompt": prose(4), "completions": answers, "ranks": ranks} for ranks in ([1, 2, 3], [1, 3, 2])]
    found = diagnosed(ranked).finding("contradictions")
    assert (found.count, found.numbers) == (2, {"times": 1})


def test_a_tie_contradicts_nobody() -> None:
    rows = pairs(2)
    rows[1] = {**rows[0], "chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"], "preference": 0.5}
    assert diagnosed(rows).finding("contradictions").count == 0


def test_answers_both_chosen_and_rejected() -> None:
    rows = pairs(20)
    rows[1] = {"prompt": rows[0]["prompt"], "chosen": rows[0]["rejected"], "rejected": prose(999)}
    found = diagnosed(rows).finding("both_sides")
    assert (found.verdict, found.count) == ("WARN", 2)
    rows[1] = {"prompt": rows[0]["prompt"], "chosen": rows[0]["chosen"], "rejected": prose(999)}
    assert diagnosed(rows).finding("both_sides").count == 0


def test_answers_that_hardly_differ() -> None:
    rows = pairs()
    rows[2]["rejected"] = rows[2]["chosen"].upper().replace(".", "!")
    assert bad(diagnosed(rows)) == {"hardly_different": ("WARN", 1)}


# ---------------------------------------------------------------- length, labels, positions


@pytest.mark.parametrize(("longer", "verdict"), [(50, "OK"), (59, "OK"), (75, "WARN"), (25, "WARN"), (95, "FAIL")])
def test_length_bias(longer: int, verdict: str) -> None:
    rows = [
        {"prompt": prose(3 * i, 12), "chosen": prose(3 * i + 1, 40 if i < longer else 20), "rejected": prose(3 * i + 2)}
        for i in range(100)
    ]
    found = diagnosed(rows).finding("length_bias")
    assert (found.count, found.of, found.verdict) == (longer, 100, verdict)
    assert (found.numbers["low"], found.numbers["high"]) == wilson(longer, 100)


def test_length_bias_of_feedback_is_an_auc() -> None:
    rows = feedback(60)
    for i, row in enumerate(rows):
        row["completion"] = "x" * (20 + i if row["label"] else 10) + f" {i:02d}"
    found = diagnosed(rows).finding("length_bias")
    assert (found.share, found.verdict) == (1.0, "FAIL")


def test_few_comparisons_say_nothing() -> None:
    skipped = {s.check: s.why for s in diagnosed(pairs(19)).skipped}
    assert skipped["length_bias"].startswith("19 comparisons")
    assert "length_bias" not in {s.check for s in diagnosed(pairs(20)).skipped}


def test_numbers_derived_by_hand() -> None:
    low, high = wilson(8, 10)  # Wilson 1927 by hand: centre 0.7168, half 0.2265
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    assert lengths.auc(np.array([1, 2, 3]), np.array([2, 2])) == pytest.approx(0.5)  # (0 + 1 + 2 … ) / 6
    assert lengths.auc(np.array([3, 4]), np.array([1, 3])) == pytest.approx(3.5 / 4)
    assert lengths.cohens_d(np.array([2.0, 4.0]), np.array([1.0, 3.0])) == pytest.approx(1 / math.sqrt(2))
    assert lengths.cohens_d(np.array([2.0, 2.0]), np.array([1.0, 1.0])) == 0.0
    normal = 0.5 * (1 + math.erf(0.5 / math.sqrt(2) / math.sqrt(2)))
    assert round(normal, 2) == thresholds.LENGTH_WARN  # the share that belongs to Cohen's d = 0.5
    assert 1 - (1 - 0.8**6) ** thresholds.BANDS > 0.9999
    assert (percent(0), percent(0.00001), percent(0.0012), percent(0.5)) == ("0.0 %", "< 0.01 %", "0.12 %", "50.0 %")


def test_label_balance() -> None:
    rows = feedback(60)
    assert diagnosed(rows).finding("label_balance").share == 0.5
    for row in rows[10:]:
        row["label"] = True
    found = diagnosed(rows).finding("label_balance")
    assert (found.verdict, found.count, found.of) == ("WARN", 55, 60)
    assert "undesirable_weight" in found.mend
    for row in rows:
        row["label"] = False
    found = diagnosed(rows).finding("label_balance")
    assert (found.verdict, found.count) == ("FAIL", 0)
    assert "label_balance" in {s.check for s in diagnosed(pairs()).skipped}


@pytest.mark.parametrize(
    ("column", "values", "first"),
    [
        ("winner", ["model_a"] * 35 + ["model_b"] * 5, 35),
        ("chosen_index", [0] * 38 + [1] * 2, 38),
        ("position", [1] * 36 + [2] * 4, 36),
        ("side", ["left", "right"] * 20, 20),
    ],
)
def test_position_balance(column: str, values: list[Any], first: int) -> None:
    found = diagnosed([row | {column: v} for row, v in zip(pairs(), values, strict=True)]).finding("position_balance")
    assert (found.count, found.of, found.verdict) == (first, 40, "OK" if first == 20 else "WARN")


def test_position_balance_says_why_it_was_not_looked_at() -> None:
    why = {s.check: s.why for s in diagnosed(pairs()).skipped}["position_balance"]
    assert "no column says" in why
    one_value = {s.check: s.why for s in diagnosed([r | {"winner": 1} for r in pairs()]).skipped}
    assert "position_balance" in one_value  # does it count from 0 or from 1?


# ---------------------------------------------------------------- inside the texts


@pytest.mark.parametrize(
    ("field", "text", "check", "verdict"),
    [
        ("chosen", "{prompt}\nIt is so.", "prompt_leak", "FAIL"),
        ("rejected", "  {prompt} It is so.", "prompt_leak", "FAIL"),
        ("chosen", "Done.<|im_end|>", "special_tokens", "FAIL"),
        ("chosen", "Done. [/INST] And more.", "special_tokens", "FAIL"),
        ("rejected", "Done.</s>", "special_tokens", "FAIL"),
        ("chosen", "Done.\n\nHuman: And then?", "role_markers", "WARN"),
        ("chosen", "Done.\n### Instruction:\nmore", "role_markers", "WARN"),
        ("chosen", "Un cafÃ© noir", "mojibake", "FAIL"),
        ("chosen", "donâ€™t", "mojibake", "FAIL"),
        ("chosen", "bro\ufffdken", "replacement_characters", "FAIL"),
        ("prompt", "half \ud83d of a pair", "replacement_characters", "FAIL"),
        ("chosen", "\ufeffDone", "invisible_characters", "FAIL"),
        ("prompt", "Ring the bell\x07", "invisible_characters", "FAIL"),
        ("prompt", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "rendered_prompts", "WARN"),
    ],
)
def test_faults_inside_texts(field: str, text: str, check: str, verdict: str) -> None:
    rows = pairs()
    rows[12][field] = text.format(prompt=rows[12]["prompt"])
    found = diagnosed(rows)
    assert bad(found) == {check: (verdict, 1)}
    assert found.finding(check).examples[0].rows == [13]


@pytest.mark.parametrize(
    "text",
    [
        "I say <s>this</s> and x < 3, list[0], [INSTALL], a |b| c",
        "Naïve café, crème brûlée, “quoted”, Ångström, ÃO PAULO, 5 €",
        "The human: a being. He is the user: nobody.",
        "family \U0001f468\u200d\U0001f469\u200d\U0001f467 and می\u200cخواهم\ttab\nline",
    ],
)
def test_what_looks_like_a_fault_and_is_none(text: str) -> None:
    rows = pairs()
    rows[12]["chosen"] = text
    assert bad(diagnosed(rows)) == {}


def test_quoted_prompts_warn_when_they_are_many() -> None:
    rows = pairs()
    for row in rows[:2]:
        row["chosen"] = f"You ask: {row['prompt']} {row['chosen']}"
    found = diagnosed(rows).finding("prompt_quoted")
    assert (found.verdict, found.count) == ("WARN", 2)
    assert diagnosed(rows[1:] + pairs(90)[40:]).finding("prompt_quoted").verdict == "OK"


def test_short_prompts_do_not_leak() -> None:
    assert bad(diagnosed([{"prompt": "Hello", "completion": f"Hello there, {prose(i)}"} for i in range(5)])) == {}


def test_the_order_of_turns() -> None:
    def said(*roles: str) -> Any:
        return {"messages": [{"role": r, "content": prose(i + len(roles) * 7)} for i, r in enumerate(roles)]}

    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}
    fine = [
        said("user", "assistant", "user", "assistant"),
        said("system", "user", "assistant"),
        {"messages": [{"role": "user", "content": "hi"}, call, {"role": "tool", "content": "1"},
                      {"role": "tool", "content": "2"}, {"role": "assistant", "content": "done"}]},
    ]  # fmt: skip
    assert diagnosed(fine).finding("turn_order").count == 0
    wrong = [
        said("user", "user", "assistant"),
        said("user", "assistant", "assistant"),
        said("assistant", "user", "assistant"),
        said("user", "system", "assistant"),
    ]
    found = diagnosed([*fine, *wrong]).finding("turn_order")
    assert found.count == 4
    assert found.examples[0].text == "messages 1 and 2 are both the user's"


def test_system_prompts() -> None:
    found = diagnosed(chats(20, "Be brief.")).finding("system_prompts")
    assert (found.verdict, found.numbers) == ("OK", {"with": 20, "different": 1})
    mixed = [*chats(20, "Be brief."), *({"messages": c["messages"][1:]} for c in chats(22, "x")[20:])]
    found = diagnosed(mixed).finding("system_prompts")
    assert (found.verdict, found.count, found.examples[0].rows) == ("WARN", 2, [21])
    with pytest.raises(KeyError):
        diagnosed(pairs()).finding("system_prompts")


# ---------------------------------------------------------------- languages

_TEXTS = {
    "en": "The old bridge over the river was built by masons who came from the valley in the north.",
    "de": "Die alte Brücke über den Fluss wurde von Maurern gebaut, die aus dem Tal im Norden kamen.",
    "ru": "Старый мост через реку построили каменщики, которые пришли из долины на севере страны.",
    "zh": "这座古老的桥是由来自北方山谷的石匠建造的，它横跨河流，连接着两个村庄和许多田野。" * 2,
    "ja": "この古い橋は北の谷からやってきた石工たちによって建てられたもので、川をまたいでいます。" * 2,
}


def _talk(prompt: str, answer: str, i: int) -> dict[str, str]:
    return {"prompt": f"{_TEXTS[prompt]} {i}", "completion": f"{_TEXTS[answer]} {i} {i}"}


def test_scripts() -> None:
    rows = [_talk("en", "en", i) for i in range(18)] + [_talk("en", "ru", 18), _talk("ja", "zh", 19)]
    found = diagnosed(rows).finding("script_mix")
    assert (found.verdict, found.count, found.of) == ("WARN", 2, 20)
    assert found.numbers == {"Latin": 37, "Cyrillic": 1, "Kana": 1, "Han": 1}


def test_languages() -> None:
    pytest.importorskip("py3langid")
    rows = [_talk("en", "en", i) for i in range(18)]
    assert diagnosed(rows).finding("language_mix").numbers == {"en": 36}
    found = diagnosed([*rows, _talk("en", "de", 18), _talk("en", "de", 19)]).finding("language_mix")
    assert (found.verdict, found.count, found.of) == ("WARN", 2, 20)


def test_without_the_package_languages_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plaudit.data.doctor.languages.find_spec", lambda name: None)
    why = {s.check: s.why for s in diagnosed(pairs()).skipped}["language_mix"]
    assert "pip install 'plaudit[verify]'" in why


# ---------------------------------------------------------------- evaluation data


def test_overlap_with_evaluation_data() -> None:
    rows, other = pairs(40), pairs(60)[40:]
    assert bad(diagnosed(rows, against=other)) == {}
    other[0] = {**other[0], "prompt": rows[7]["prompt"] + "\n"}
    found = diagnosed(rows, against=other)
    assert bad(found) == {"eval_overlap": ("FAIL", 1)}
    assert found.finding("eval_overlap").numbers == {"eval_rows": 1, "eval_of": 20}
    assert found.finding("eval_overlap").examples[0].rows == [8]
    assert "eval_overlap" in {s.check for s in diagnosed(rows).skipped}


@pytest.mark.parametrize(
    ("change", "count"), [(("violin", "cello"), 1), (("violin", "9"), 0), (("violin", "VIOLIN"), 1)]
)
def test_near_overlap(change: tuple[str, str], count: int) -> None:
    rows, other = pairs(40), pairs(60)[40:]
    rows[7]["prompt"] = f"Why is a violin {prose(77, 60)}"
    other[0]["prompt"] = rows[7]["prompt"].replace("a " + change[0], "a " + change[1])
    found = diagnosed(rows, against=other)
    assert found.finding("eval_overlap").count == 0
    near = found.finding("eval_near_overlap")
    assert (near.count, near.numbers["eval_rows"]) == (count, count)


def test_evaluation_data_may_be_of_another_kind() -> None:
    rows = pairs(10)
    found = diagnosed(rows, against=[{"prompt": rows[2]["prompt"], "answer": "7"}])
    assert found.finding("eval_overlap").count == 1


def test_text_is_compared_as_a_whole() -> None:
    rows = [{"text": prose(i, 60)} for i in range(10)]
    found = diagnosed([*rows, rows[3]], against=[rows[5]])
    assert (found.finding("duplicates").count, found.finding("eval_overlap").count) == (1, 1)
    assert found.prompts == 0
