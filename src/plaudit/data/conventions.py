"""The row shapes people already have, and how each becomes the fields of a record.

A `Convention` names the columns it needs; `convert` takes those out of a copy of the row, and what is left goes to
`extras`. Order matters: the first convention whose columns are all there wins.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plaudit.data.turns import RowProblem, parse_turns
from plaudit.types import DataKind

Row = dict[str, Any]
OPTIONAL = ("tools", "chat_template_kwargs", "weight")
"""Columns every kind understands."""
JUDGED = (*OPTIONAL, "margin", "preference", "votes", "strength", "annotator")
"""Columns that every comparison of two answers understands."""
OPTIONAL_OF: dict[DataKind, tuple[str, ...]] = {
    "completion": OPTIONAL,
    "preference": JUDGED,
    "ranking": (*OPTIONAL, "annotator"),
    "feedback": OPTIONAL,
    "prompt": ("tools", "chat_template_kwargs"),
}
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n"
    "### Response:\n"
)
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}


ALPACA_PAIR = "Alpaca pair in output"


@dataclass(frozen=True, slots=True)
class Convention:
    """One row shape."""

    name: str
    columns: tuple[str, ...]
    """Columns that must be there."""
    convert: Callable[[Row, bool], Row]
    """(row, has_template) -> record fields; pops the columns it uses from the row."""


def _fields(*names: str) -> Callable[[Row, bool], Row]:
    def convert(row: Row, has_template: bool) -> Row:
        return {n: row.pop(n) for n in names}

    return convert


def _plain(*names: str) -> Convention:
    """Columns that are record fields already."""
    return Convention(" + ".join(names), names, _fields(*names))


def sharegpt_turns(value: Any, row: Row, name: str = "conversations") -> list[Row]:
    """ShareGPT's from/value messages (or role/content ones) as role/content; a `system` column goes in front."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise RowProblem("missing" if value is None else "wrong_type", f"{name} must be a list of messages")
    turns = [_sharegpt_turn(v, f"{name}[{i}]") for i, v in enumerate(value)]
    system = row.pop("system", None)
    if isinstance(system, str) and system.strip() and not (turns and turns[0]["role"] == "system"):
        turns.insert(0, {"role": "system", "content": system})
    return turns


def _sharegpt_turn(turn: Row, at: str) -> Row:
    if "role" in turn:
        return turn
    if "from" not in turn or "value" not in turn:
        has = ", ".join(turn) or "nothing"
        raise RowProblem("wrong_type", f"{at} needs from and value (or role and content), has {has}")
    sender, value = turn["from"], turn["value"]
    if sender not in SHAREGPT_ROLES:
        raise RowProblem("wrong_type", f"{at} has from={sender!r}; known are {', '.join(SHAREGPT_ROLES)}")
    if sender == "function_call":
        try:
            call = json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError:
            call = None
        calls = call if isinstance(call, list) else [call]
        if not all(isinstance(c, dict) and "name" in c for c in calls):
            raise RowProblem("wrong_type", f'{at} (function_call) must be JSON like {{"name": …, "arguments": {{…}}}}')
        return {"role": "assistant", "tool_calls": [{"type": "function", "function": c} for c in calls]}
    rest = {"weight": turn["weight"]} if turn.get("weight") is not None else {}
    return {"role": SHAREGPT_ROLES[sender], "content": value, **rest}


def alpaca_prompt(row: Row, has_template: bool) -> Any:
    """Alpaca's instruction (+ input, system, history) as messages, or as Alpaca's own text without a chat template."""
    instruction, given = row.pop("instruction"), row.pop("input", None)
    system, history = row.pop("system", None), row.pop("history", None)
    if not isinstance(instruction, str):
        raise RowProblem("missing" if instruction is None else "wrong_type", "instruction must be text")
    if not instruction.strip():
        raise RowProblem("empty", "instruction is empty")
    given = given if isinstance(given, str) and given.strip() else None
    if not has_template:
        if history or system:
            raise RowProblem("wrong_type", "system and history need a chat template, and the tokenizer has none")
        return (ALPACA_INPUT if given else ALPACA).format(instruction=instruction, input=given)
    turns = [{"role": "system", "content": system}] if system else []
    for pair in history or []:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise RowProblem("wrong_type", "history must be a list of [instruction, answer] pairs")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return [*turns, {"role": "user", "content": f"{instruction}\n\n{given}" if given else instruction}]


def _alpaca_answers(**fields: str) -> Callable[[Row, bool], Row]:
    def convert(row: Row, has_template: bool) -> Row:
        return {"prompt": alpaca_prompt(row, has_template)} | {f: row.pop(c) for f, c in fields.items()}

    return convert


def _alpaca_pair_in_output(row: Row, has_template: bool) -> Row:
    output = row.pop("output")
    if not isinstance(output, list) or len(output) != 2:
        raise RowProblem("wrong_type", "output must be [chosen, rejected] (or use columns chosen and rejected)")
    return {"prompt": alpaca_prompt(row, has_template), "chosen": output[0], "rejected": output[1]}


def _conversation(column: str) -> Callable[[Row, bool], Row]:
    def convert(row: Row, has_template: bool) -> Row:
        return {"messages": sharegpt_turns(row.pop(column), row, column)}

    return convert


def _conversation_pair(column: str) -> Callable[[Row, bool], Row]:
    def convert(row: Row, has_template: bool) -> Row:
        prompt = sharegpt_turns(row.pop(column), row, column)
        answers = {}
        for side in ("chosen", "rejected"):
            value = row.pop(side)
            answers[side] = sharegpt_turns(value, {}, side) if isinstance(value, dict) else value
        return {"prompt": prompt, **answers}

    return convert


def _conversation_label(column: str, label: str) -> Callable[[Row, bool], Row]:
    def convert(row: Row, has_template: bool) -> Row:
        turns = parse_turns(sharegpt_turns(row.pop(column), row, column), column)
        assert not isinstance(turns, str)
        last = max((i for i, m in enumerate(turns) if m.role != "assistant"), default=-1) + 1
        return {"prompt": turns[:last], "completion": turns[last:], "label": row.pop(label)}

    return convert


def _open_conversation(column: str) -> Callable[[Row, bool], Row]:
    def convert(row: Row, has_template: bool) -> Row:
        return {"prompt": sharegpt_turns(row.pop(column), row, column)}

    return convert


def _prompt_of(row: Row, has_template: bool) -> Any:
    return alpaca_prompt(row, has_template) if "instruction" in row else row.pop("prompt")


def _rated(answers: str, values: str | None, field: str) -> Callable[[Row, bool], Row]:
    """Answers in one column and their ranks or scores in another, or a list of {text, rank | score} objects."""

    def convert(row: Row, has_template: bool) -> Row:
        found, prompt = row.pop(answers), _prompt_of(row, has_template)
        if not isinstance(found, list):
            raise RowProblem("missing" if found is None else "wrong_type", f"{answers} must be a list of answers")
        if values is not None:
            given = row.pop(values)
            if not isinstance(given, list):
                raise RowProblem("missing" if given is None else "wrong_type", f"{values} must be a list of numbers")
            return {"prompt": prompt, "completions": found, field: given}
        return {"prompt": prompt, **_objects(found, answers)}

    return convert


def _objects(found: list[Any], name: str) -> Row:
    text_keys, value_keys = ("text", "response", "answer", "completion", "content"), ("rank", "score", "overall_score")
    texts, numbers, used = [], [], None
    for i, item in enumerate(found):
        keys = item if isinstance(item, dict) else {}
        text = next((k for k in text_keys if k in keys), None)
        value = next((k for k in value_keys if k in keys), None)
        if text is None or value is None or used not in (None, value):
            raise RowProblem("wrong_type", f"{name}[{i}] needs a text ({', '.join(text_keys)}) and a rank or score")
        used = value
        texts.append(item[text])
        numbers.append(item[value])
    return {"completions": texts, "ranks" if used == "rank" else "scores": numbers}


_ANSWERS = ("completions", "responses", "answers")
_VALUES = (("ranks", "ranks"), ("ranking", "ranks"), ("rank", "ranks"), ("scores", "scores"), ("rewards", "scores"))

PAIRS = (
    _plain("prompt", "chosen", "rejected"),
    Convention("ShareGPT pair", ("conversations", "chosen", "rejected"), _conversation_pair("conversations")),
    Convention("messages pair", ("messages", "chosen", "rejected"), _conversation_pair("messages")),
    Convention(
        "Alpaca pair",
        ("instruction", "chosen", "rejected"),
        _alpaca_answers(chosen="chosen", rejected="rejected"),
    ),
    Convention(ALPACA_PAIR, ("instruction", "output"), _alpaca_pair_in_output),
    Convention("chosen + rejected (implicit prompt)", ("chosen", "rejected"), _fields("chosen", "rejected")),
)
"""Shapes of a chosen and a rejected answer: preference data, and rankings of two."""

CONVENTIONS: dict[DataKind, tuple[Convention, ...]] = {
    "completion": (
        _plain("prompt", "completion"),
        Convention("messages", ("messages",), _conversation("messages")),
        Convention("ShareGPT conversations", ("conversations",), _conversation("conversations")),
        Convention("Alpaca", ("instruction", "output"), _alpaca_answers(completion="output")),
        _plain("text"),
    ),
    "preference": PAIRS,
    "ranking": tuple(
        Convention(f"{prompt} + {answers} + {column}", (prompt, answers, column), _rated(answers, column, field))
        for prompt in ("prompt", "instruction")
        for answers in _ANSWERS
        for column, field in _VALUES
    )
    + PAIRS
    + tuple(
        Convention(f"{prompt} + {answers} with rank or score", (prompt, answers), _rated(answers, None, ""))
        for prompt in ("prompt", "instruction")
        for answers in _ANSWERS
    ),
    "feedback": (
        _plain("prompt", "completion", "label"),
        *(
            Convention(f"{column} + {label}", (column, label), _conversation_label(column, label))
            for column in ("messages", "conversations")
            for label in ("label", "kto_tag")
        ),
        *(
            Convention(
                f"Alpaca + {label}",
                ("instruction", "output", label),
                _alpaca_answers(completion="output", label=label),
            )
            for label in ("label", "kto_tag")
        ),
    ),
    "prompt": (
        _plain("prompt"),
        Convention("messages", ("messages",), _open_conversation("messages")),
        Convention("ShareGPT conversations", ("conversations",), _open_conversation("conversations")),
        Convention("Alpaca", ("instruction",), lambda row, has_template: {"prompt": alpaca_prompt(row, has_template)}),
    ),
}
"""Per data kind, the conventions in the order in which they are tried."""

VOTES = ("votes_chosen", "votes_rejected")
"""Two columns that say together what `votes` says."""
FIELDS: dict[DataKind, tuple[str, ...]] = {
    kind: tuple(
        dict.fromkeys(
            [
                *(c for shape in shapes for c in shape.columns),
                *OPTIONAL_OF[kind],
                *((*JUDGED, *VOTES) if kind in ("preference", "ranking") else ()),
            ]
        )
    )
    for kind, shapes in CONVENTIONS.items()
}
"""Per data kind, the names a `columns:` map may use on its left side."""
SHAPES: dict[DataKind, tuple[str, ...]] = {
    kind: tuple(dict.fromkeys(" + ".join(s.columns) for s in shapes))
    for kind, shapes in CONVENTIONS.items()
    if kind != "ranking"
}
SHAPES["ranking"] = (
    "prompt + completions + ranks",
    "prompt + completions + scores",
    "prompt + completions with a rank or score in each",
    "a pair: prompt + chosen + rejected",
)
"""Per data kind, the shapes that a message lists."""
CONVERSION_OF: dict[tuple[DataKind, DataKind], str] = {
    ("preference", "feedback"): "pairs_to_feedback",
    ("ranking", "feedback"): "ranking_to_feedback",
    ("feedback", "preference"): "feedback_to_pairs",
    ("ranking", "preference"): "ranking_to_pairs",
    ("feedback", "ranking"): "feedback_to_ranking",
}
"""(kind of the rows, kind that is needed) -> value of data.convert."""
EXAMPLES: dict[DataKind, str] = {
    "completion": '{"prompt": "What is 2+2?", "completion": "4"}',
    "preference": '{"prompt": "What is 2+2?", "chosen": "4", "rejected": "5"}',
    "ranking": '{"prompt": "What is 2+2?", "completions": ["4", "four?", "5"], "ranks": [1, 2, 3]}',
    "feedback": '{"prompt": "What is 2+2?", "completion": "4", "label": true}',
    "prompt": '{"prompt": "What is 2+2?", "answer": "4"}',
}
