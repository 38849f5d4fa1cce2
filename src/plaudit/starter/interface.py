"""`plaudit.init`: imports nothing heavy until it is called."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plaudit.errors import ConfigError

if TYPE_CHECKING:
    from plaudit.starter.fits import Fit
    from plaudit.starter.rows import Looked
    from plaudit.starter.settings import Setting
    from plaudit.starter.sizes import Sizes

FILE = "plaudit.yaml"
"""Name of the file where nobody gives another."""
SCHEMA_FILE = ".plaudit.schema.json"
"""Lies beside the configuration, so that an editor finds it without any network."""


@dataclass(frozen=True, slots=True)
class Starter:
    """A starter configuration.

    Attributes:
        text: the file.
        method: its method.
        seen: what was seen in the data, line by line.
        fitting: (method, why) of those to think of, best first.
        others: further methods that learn from the rows as they are.
        chosen: what was chosen and why, line by line.
        commands: (command, what it does) of what comes next.
    """

    text: str
    method: str
    seen: tuple[str, ...]
    fitting: tuple[tuple[str, str], ...]
    others: tuple[str, ...]
    chosen: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]


def init(
    data: str | Path,
    output: str | Path | None = None,
    *,
    method: str | None = None,
    model: str | Path | None = None,
    lora: bool | None = None,
    reward: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Starter:
    """Write a commented starter configuration for a data file that is looked at.

    Args:
        data: file, folder or hub id of rows, as training takes it.
        output: .yaml file to write, and the JSON schema for editors beside it; None writes nothing.
        method: name of a method, or the path of a Python file that defines one; None takes what fits the rows best.
        model: path or hub id; its tokenizer and configuration are read. None: lengths are counted in characters, and
            the configuration has no model.path.
        lora: adapter or full fine-tuning; None decides by the model's size and the free memory.
        reward: for a method that samples answers; () takes the verifier that the rows have a column for.
        columns: map from our field names to the file's column names; () recognises them.
        overwrite: replace `output`.

    Raises:
        PlauditError: PL101, PL102 for arguments, PL2xx for the rows, PL301 and PL303 for the model.
    """
    from plaudit.config.packages import need_training_packages

    if output is not None:
        check_output(Path(output), overwrite=overwrite)
    if model is not None:
        need_training_packages()
    starter = _starter(
        str(data), method, None if model is None else str(model), lora, reward, columns or {}, Path(output or FILE)
    )
    if output is not None:
        _write(starter.text, Path(output))
    return starter


def _starter(
    data: str,
    method: str | None,
    model: str | None,
    lora: bool | None,
    reward: Sequence[str],
    columns: Mapping[str, str],
    output: Path,
) -> Starter:
    from plaudit.starter.fits import fit, others, suited
    from plaudit.starter.rows import look
    from plaudit.starter.settings import Wanted, settings_for
    from plaudit.starter.sizes import makes_groups, measure
    from plaudit.starter.text import as_text

    looked = look(data, columns)
    fitting = [(fits, why) for fits, why in suited(looked) if makes_groups(looked, fits)]
    found = fitting[0][0] if method is None else fit(looked, method)
    wanted = Wanted(model, lora, *_reward(looked, found, reward))
    machine = None
    if model is not None:
        from plaudit.starter.machine import machine_for

        machine = machine_for(model)
    sizes = measure(looked, found, None if machine is None else machine.renderer)
    settings = settings_for(looked, found, sizes, machine, wanted)
    commands = _commands(found, output, model)
    width = max(len(command) for command, _ in commands)
    head = [
        f"yaml-language-server: $schema=./{SCHEMA_FILE}",
        f"{found.method.title} on {looked.path}, by `plaudit init`. What comes next:",
        "",
        *(f"  {command:<{width}}  {meaning}" for command, meaning in commands),
        "",
        "Comments say what was seen in the file. `plaudit config show` has the keys that are not here; what they mean",
        "is in docs/configuration.md.",
    ]
    missing = "path: PATH   No model was given, so each command needs --model PATH. Write it here instead."
    return Starter(
        text=as_text(settings, head, missing if model is None else None),
        method=found.name,
        seen=tuple(_seen(looked, found, sizes)),
        fitting=tuple((_named(fits), why) for fits, why in fitting),
        others=tuple(others(looked)),
        chosen=tuple(_chosen(settings)),
        commands=tuple(commands),
    )


def _named(fits: Fit) -> str:
    return f"{fits.name} (data.convert: {fits.convert})" if fits.convert else fits.name


def _reward(looked: Looked, found: Fit, given: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """(rewards, why) of a method that samples answers.

    Raises:
        ConfigError: PL102, one that is needed and not known, or known and not needed; PL100, one with wrong options.
    """
    from plaudit.data.kinds import HEAD
    from plaudit.rewards.spec import read_specs
    from plaudit.starter.rewards import reward_of

    if not found.method.is_online():
        if given:
            what = f"a reward has no meaning for {found.name}, which learns from answers that are there already"
            raise ConfigError("PL102", what, where="--reward", mend="leave it out")
        return (), ""
    if given:
        read_specs(given)  # nothing is written that a run would refuse
        return tuple(given), "as asked for"
    known = reward_of(looked.rows.rows[:HEAD])
    if known is None:
        names = ", ".join(map(str, looked.rows.rows[0][1]))
        raise ConfigError(
            "PL102",
            f"{found.name} samples answers, and no column of the rows says which are good\n  found: {names}",
            where=looked.path,
            mend="--reward NAME (`plaudit rewards` lists them; math:column=COLUMN reads that column), the folder of a "
            "reward model (`plaudit reward` trains one), or FILE.py:FUNCTION",
        )
    return (known[0],), known[1]


def _commands(found: Fit, output: Path, model: str | None) -> list[tuple[str, str]]:
    file = shlex.quote(str(output)) + ("" if model is not None else " --model PATH")
    name = found.name if not found.name.endswith(".py") else "train"
    return [
        (f"plaudit inspect {file}", "rows as they would be trained on, lengths, what is dropped"),
        (f"plaudit check {file}", "whether a run would come to its end: memory, time, disk"),
        (f"plaudit {name} {file}", "train; behind it any key: train.epochs=1"),
    ]


def _seen(looked: Looked, found: Fit, sizes: Sizes) -> list[str]:
    from plaudit.data.columns import as_options
    from plaudit.starter.rows import WORDS

    lines = [
        f"{looked.path}: {sizes.rows:,} rows of {WORDS[looked.kind]} ({', '.join(sizes.shapes)})",
        f"{sizes.prompts:,} different prompts; {sizes.unit} of prompt and answer: median {sizes.total.median:.0f}, "
        f"95 % {sizes.total.p95:.0f}, max {sizes.total.max:,}",
    ]
    if found.method.data_kind == "prompt":
        lines[1] = lines[1].replace("prompt and answer", "a prompt")
    columns = looked.readings[0].columns
    if columns:
        lines.append("columns: " + ", ".join(f"{ours} is {theirs}" for ours, theirs in columns.items()))
    if (beside := sizes.held_out) is not None:
        used = f"not used: {beside.shared:,} of its {beside.prompts:,} prompts are trained on" if beside.leaks else ""
        lines.append(f"{beside.path}: {beside.rows:,} rows of the same kind, {used or 'held out'}")
    if sizes.untemplated:
        options = " ".join(part for part in ("--to messages", as_options(columns)) if part)
        file = Path(looked.path)
        command = shlex.join(["plaudit", "convert", looked.path, f"{file.stem}-chat.jsonl"])
        lines.append(
            "text is trained on without the model's chat template. For a chat model write the rows as messages first, "
            f"and begin again with these: {command} {options}"
        )
    if sizes.unusable:
        lines.append(f"{sizes.unusable:,} rows cannot be used")
    return lines


_TOLD = (
    "method.name", "data.convert", "data.eval", "data.eval_fraction", "data.max_length", "data.overlong", "lora.r",
    "train.learning_rate", "train.groups_per_step", "train.epochs", "reward.rewards",
)  # fmt: skip


def _chosen(settings: Sequence[Setting]) -> list[str]:
    from plaudit.starter.text import scalar

    told = {setting.key: setting for setting in settings if (setting.key, setting.value) != ("data.overlong", "error")}
    return [f"{key}: {scalar(told[key].value)}   {told[key].why}" for key in _TOLD if key in told]


def check_output(output: Path, *, overwrite: bool) -> None:
    """Before anything is read.

    Raises:
        ConfigError: PL102, the file is not YAML by its name or exists already, or its folder is not there.
    """
    problem, mend = None, ""
    if output.suffix not in (".yaml", ".yml"):
        problem, mend = "configurations are .yaml files", f"name it {output.with_suffix('.yaml').name}"
    elif output.is_dir() or not output.parent.is_dir():
        problem, mend = "the file cannot be written: there is no such folder", f"make {output.parent}"
        if output.is_dir():
            problem, mend = "the file cannot be written: it is a folder", "name another file"
    elif output.exists() and not overwrite:
        problem, mend = "the file exists already", "name another one with -o, or replace it with --force"
    if problem is not None:
        raise ConfigError("PL102", problem, where=str(output), mend=mend)


def _write(text: str, output: Path) -> None:
    from plaudit.config.json_schema import json_schema

    schema = json.dumps(json_schema(), ensure_ascii=False, separators=(",", ":"))
    try:
        output.write_text(text, encoding="utf-8")
        output.with_name(SCHEMA_FILE).write_text(schema + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            "PL102", f"the file cannot be written: {error.strerror}", where=str(output), mend="name another with -o"
        ) from error


__all__ = ["FILE", "SCHEMA_FILE", "Starter", "check_output", "init"]
