"""What `plaudit.api` offers about configurations of other tools: `migrate`. Importing this costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plaudit.config.paths import meant
from plaudit.errors import ConfigError

if TYPE_CHECKING:
    from plaudit.migration.migrate import Migration

SHELL = (".sh", ".bash", ".zsh", ".slurm", ".sbatch", ".txt")


def migrate(
    source: str | Path | Sequence[str],
    output: str | Path | None = None,
    *,
    tool: str | None = None,
    method: str | None = None,
    processes: int | None = None,
) -> Migration:
    """Turn a configuration of TRL, LLaMA-Factory or axolotl into ours.

    Nothing is run: of a Python script the calls are read, of a command its arguments.

    Args:
        source: a YAML or JSON file, a Python script, a shell file; or the words of a command.
        output: the YAML file to write, which must not be there yet; None writes nothing.
        tool: "trl", "llama-factory" or "axolotl"; None recognises it.
        method: the trainer of the other tool (dpo, sft, kto, reward, grpo, …) or one of our methods; None finds it out.
        processes: that trained there: the size of their step depends on it. None takes it from the launcher, or 1.

    Returns:
        The configuration and what became of each key.

    Raises:
        ConfigError: PL104, it cannot be migrated; PL102, an argument is wrong; PL100, a value does not fit.
    """
    from plaudit.migration.migrate import migrate_settings
    from plaudit.migration.reading.command import read_command, read_shell
    from plaudit.migration.reading.files import read_file
    from plaudit.migration.reading.script import read_script
    from plaudit.migration.settings import TOOLS

    if tool is not None and tool not in TOOLS:
        raise ConfigError("PL102", f"there is no tool {tool!r}", where="--from", mend=f"use {', '.join(TOOLS)}")
    if output is not None:
        _check_output(Path(output))
    if not isinstance(source, (str, Path)):
        given = read_command(source)
    else:
        path = Path(source)
        if not path.is_file():
            raise ConfigError(
                "PL104",
                "there is no such file",
                where=str(path),
                mend=f"{meant(str(path))}; a command is given behind --",
            )
        read = read_script if path.suffix == ".py" else read_shell if path.suffix in SHELL else read_file
        given = read(path)
    found = migrate_settings(given, tool=tool, method=method, processes=processes)
    if output is not None:
        Path(output).write_text(found.text, encoding="utf-8")
    return found


def _check_output(output: Path) -> None:
    """Before anything is read.

    Raises:
        ConfigError: PL102, the file exists already, is not YAML by its name, or its folder is not there.
    """
    if output.exists():
        problem, mend = "the file is there already", "it is not overwritten: give another name"
    elif output.suffix not in (".yaml", ".yml"):
        problem, mend = "configurations are .yaml files", f"name it {output.with_suffix('.yaml').name}"
    elif not output.parent.is_dir():
        problem, mend = "the file cannot be written: there is no such folder", f"make {output.parent}"
    else:
        return
    raise ConfigError("PL102", problem, where=str(output), mend=mend)
