"""Mistakes in commands, options, configuration files and rewards."""

from __future__ import annotations

from typing import Any

from tests.mistakes.desk import Desk, Mistake


def _options(*options: object) -> Any:
    return lambda desk: desk.train("dpo", None, *options)


def _config(text: str) -> Any:
    """A training command with a configuration file."""
    return lambda desk: desk.train("dpo", None, desk.write("config.yaml", text))


def _reward(name: str, source: str | None = None) -> Any:
    """Answers scored by a function in a file of this content."""

    def command(desk: Desk) -> list[object]:
        if source is not None:
            desk.write("mine.py", source)
        rows = [{"prompt": f"{i}?", "completion": "a"} for i in range(3)]
        return ["score", desk.write("answers.jsonl", rows), "--reward", name, "--output", "run"]

    return command


def _rows_into(name: str, *command: object) -> Any:
    """A command that writes rows, into a file of this name."""

    def made(desk: Desk) -> list[object]:
        rows = desk.write("answers.jsonl", [{"prompt": f"{i}?", "completion": "a"} for i in range(3)])
        known = {"ROWS": rows, "MODEL": desk.model}
        return [*(known.get(str(word), word) for word in command), name]

    return made


_NOT_JSONL = "the rows are written as JSONL"
OPTIONS = [
    Mistake(
        "a misspelt command", "PL102", lambda desk: ["trian"], "No such command 'trian'", "plaudit",
        "did you mean 'train'?",
    ),
    Mistake(
        "a command without its arguments", "PL102", lambda desk: ["generate"], "Missing argument", "plaudit generate",
        "plaudit generate --help",
    ),
    Mistake(
        "a misspelt option of another command", "PL102", lambda desk: ["generate", desk.model, "--promt", "Hi"],
        "--promt", "plaudit generate", "--prompt",
    ),
    Mistake(
        "a word where another command takes a number", "PL102", lambda desk: ["generate", desk.model, "--n", "two"],
        "Invalid value for '--n'", "plaudit generate", "plaudit generate --help",
    ),
    Mistake(
        "a misspelt command behind another", "PL102", lambda desk: ["runs", "lst"], "No such command 'lst'",
        "plaudit runs", "did you mean 'list'?",
    ),
    Mistake(
        "a misspelt method", "PL101", lambda desk: desk.train("train", None, "--method", "dpoo"),
        "did you mean 'dpo'?", "method.name", "`plaudit methods` lists all",
    ),
    Mistake(
        "a method of another tool", "PL101", lambda desk: desk.train("train", None, "--method", "nash_md"),
        "there is no method 'nash_md'", "method.name", "not offered",
    ),
    Mistake(
        "no method", "PL100", lambda desk: desk.train("train"), "is required", "method.name", "--method dpo",
    ),
    Mistake("no model", "PL100", lambda desk: ["dpo", "--data", desk.pairs()], "is required", "model", "--model PATH"),
    Mistake("no data", "PL100", lambda desk: ["dpo", "--model", desk.model], "is required", "data", "--data FILE"),
    Mistake(
        "a misspelt option", "PL100", _options("--learning-rat", "1e-5"), "unknown option",
        "command line: --learning-rat", "did you mean --learning-rate?",
    ),
    Mistake(
        "a misspelt key", "PL100", _config("train:\n  learning_rat: 1e-5\n"), "unknown key",
        "config.yaml:2  train.learning_rat", "did you mean train.learning_rate?",
    ),
    Mistake(
        "a key in the wrong section", "PL100", _config("model:\n  max_length: 10\n"), "unknown key",
        "config.yaml:2  model.max_length", "did you mean data.max_length?",
    ),
    Mistake(
        "a word where a number belongs", "PL100", _config("train:\n  epochs: many\n"),
        "expected a number or null, got the text 'many'", "config.yaml:2  train.epochs", "a number",
    ),
    Mistake(
        "a number in quotes", "PL100", _config("train:\n  learning_rate: '5e-6'\n"),
        "got the text '5e-6'", "config.yaml:2  train.learning_rate", "without quotes",
    ),
    Mistake(
        "a number out of range", "PL100", _options("--warmup-fraction", "10"),
        "must be less than or equal to 1, got 10", "train.warmup_fraction", "1",
    ),
    Mistake(
        "negative steps", "PL100", lambda desk: ["dpo", "--model", desk.model, "--data", desk.pairs(),
        "--max-steps", "-5"],
        "must be greater than 0, got -5", "train.max_steps", "greater than 0",
    ),
    Mistake(
        "a value of another tool", "PL100", _options("--schedule", "cosin"), "expected one of linear, cosine, constant",
        "train.schedule", "did you mean cosine?",
    ),
    Mistake(
        "a half precision that is not there", "PL100", _options("--precision", "fp16"),
        "expected one of auto, fp32, bf16", "model.precision", "bf16",
    ),
    Mistake(
        "a tab in YAML", "PL100", _config("train:\n\tepochs: 1\n"), "tab", "config.yaml:2", "spaces",
    ),
    Mistake(
        "a key twice", "PL100", _config("train:\n  epochs: 1\n  epochs: 2\n"), "duplicate key", "config.yaml:3",
        "first given at config.yaml:2",
    ),
    Mistake(
        "YAML without a space", "PL100", _config("train:\n  epochs:1\n"), "expected a section of `key: value` lines",
        "config.yaml:1  train", "a space belongs behind the colon",
    ),
    Mistake(
        "a configuration that is not there", "PL100", lambda desk: ["dpo", "runn.yaml"],
        "the configuration cannot be read: No such file", "runn.yaml", "relative paths",
    ),
    Mistake(
        "an option of another method", "PL100", _options("--gamma-beta-ratio", "0.5"), "there is no such option here",
        "--gamma-beta-ratio", "`plaudit simpo`",
    ),
    Mistake(
        "a batch size as in TRL", "PL100", _options("--per-device-train-batch-size", "4"),
        "there is no such option here", "--per-device-train-batch-size", "train.groups_per_step",
    ),
    Mistake(
        "accumulation as in TRL", "PL100", _options("--gradient-accumulation-steps", "4"),
        "there is no such option here", "--gradient-accumulation-steps", "train.tokens_per_microbatch",
    ),
    Mistake(
        "a prompt length as in TRL", "PL100", _options("--max-prompt-length", "4"), "there is no such option here",
        "--max-prompt-length", "data.max_length",
    ),
    Mistake(
        "a loss as in TRL", "PL100", _options("--loss-type", "ipo"), "there is no such option here", "--loss-type",
        "plaudit ipo",
    ),
    Mistake(
        "epochs as in TRL, in a file", "PL100", _config("num_train_epochs: 2\n"), "unknown key",
        "config.yaml:1  num_train_epochs", "did you mean train.epochs?",
    ),
    Mistake(
        "a device", "PL100", _options("--device", "cuda"), "there is no such option here", "--device",
        "CUDA_VISIBLE_DEVICES",
    ),
    Mistake(
        "one dash", "PL100", _options("-lr", "1e-5"), "neither a configuration file", "-lr", "options have two dashes",
    ),
    Mistake(
        "an evaluation without data", "PL100", _options("--eval.every", "5"), "has no effect without held-out data",
        "eval.every", "data.eval_fraction",
    ),
    Mistake(
        "no reward", "PL100", lambda desk: desk.train("grpo", desk.write("p.jsonl", [{"prompt": "Which?"}])),
        "is required: nothing says which answers are good", "reward", "for example --reward math",
    ),
    Mistake(
        "a misspelt reward", "PL100", _reward("maths"), "is neither a reward", "--reward maths", "did you mean math?",
    ),
    Mistake(
        "a reward function that is not there", "PL100", _reward("mine.py:polite", "def kind(completion): ...\n"),
        "has no function polite", "--reward mine.py:polite", "it has: kind",
    ),
    Mistake(
        "a reward file that is not there", "PL100", _reward("mine.py:polite"), "there is no file mine.py",
        "--reward mine.py:polite", "relative paths count from the working directory",
    ),
    Mistake(
        "a reward file that fails on import", "PL100", _reward("mine.py:polite", "import nltk_\n"),
        "ModuleNotFoundError: No module named 'nltk_'", "mine.py:1", "python mine.py",
    ),
    Mistake(
        "a reward file that ends the program on import", "PL100",
        _reward("mine.py:polite", "import sys\nsys.exit(0)\ndef polite(completion): ...\n"),
        "cannot be imported: SystemExit: 0", "mine.py:2", "python mine.py",
    ),
    Mistake(
        "a reward file that is no Python", "PL100", _reward("mine.py:polite", "def polite(completion)\n"),
        "SyntaxError", "mine.py:1", "python mine.py",
    ),
    Mistake(
        "a reward that returns a list for one answer", "PL706",
        _reward("mine.py:polite", "def polite(completion):\n    return [1.0]\n"), "list is no number", "polite",
        "mend what scores",
    ),
    Mistake(
        "a reward that returns too few values", "PL706",
        _reward("mine.py:polite", "def polite(completions):\n    return [1.0]\n"),
        "returned 1 values for 3 answers", "polite", "mend what scores",
    ),
    Mistake(
        "a reward that raises", "PL706", _reward("mine.py:polite", "def polite(completion):\n    return 1 / 0\n"),
        "ZeroDivisionError: division by zero (mine.py:2)", "polite", "mend what scores",
    ),
    Mistake(
        "scores into a table", "PL102", _rows_into("o.csv", "score", "ROWS", "--reward", "repetition", "--output"),
        _NOT_JSONL, "o.csv", "name it o.jsonl",
    ),
    Mistake(
        "completions into Parquet", "PL102",
        _rows_into("o.parquet", "generate", "MODEL", "--prompt", "Which?", "--output"), _NOT_JSONL, "o.parquet",
        "name it o.jsonl",
    ),
    Mistake(
        "a reward model's scores into packed lines", "PL102",
        _rows_into("o.jsonl.gz", "reward-model", "score", "MODEL", "ROWS", "--output"), _NOT_JSONL, "o.jsonl.gz",
        "name it o.jsonl",
    ),
    Mistake(
        "tasks into JSON", "PL102", _rows_into("o.json", "rewards", "tasks", "leg_counting", "--output"), _NOT_JSONL,
        "o.json", "name it o.jsonl",
    ),
    Mistake(
        "converted rows into a table", "PL102", _rows_into("o.csv", "convert", "--to", "preference", "ROWS"),
        _NOT_JSONL, "o.csv", "name it o.jsonl",
    ),
    Mistake(
        "the doctor's log into a table", "PL102",
        _rows_into("o.csv", "doctor", "ROWS", "--fix", "mended.jsonl", "--log"), _NOT_JSONL, "o.csv", "name it o.jsonl",
    ),
    Mistake(
        "a column that the rows do not have", "PL709",
        lambda desk: ["score", desk.write("answers.jsonl", [{"prompt": "?", "completion": "a"}] * 3), "--reward",
        "math", "--output", "run"],
        "reads the column 'answer', which no row has", "answers.jsonl", "the rows have: completion, prompt",
    ),
    Mistake(
        "a method's file that is no Python", "PL101",
        lambda desk: desk.train("train", None, "--method", desk.write("mine.py", "class Mine(\n")),
        "SyntaxError", "mine.py:1", "python mine.py",
    ),
    Mistake(
        "a method's file that ends the program on import", "PL101",
        lambda desk: desk.train("train", None, "--method", desk.write("mine.py", "raise SystemExit(0)\n")),
        "cannot be imported: SystemExit: 0", "mine.py:1", "python mine.py",
    ),
]  # fmt: skip
