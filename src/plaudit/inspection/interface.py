"""`plaudit.inspect`: imports nothing heavy until it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.config.objects import source_or_rows
from plaudit.config.packages import need_training_packages
from plaudit.data.method_of import METHOD_OF

if TYPE_CHECKING:
    from plaudit.inspection.examples import Choice
    from plaudit.inspection.results import Inspection


def inspect(
    data: Any = None,
    *,
    model: str | Path | Mapping[str, Any] | None = None,
    method: str | None = None,
    eval_data: Any = None,
    config: str | Path | Sequence[str | Path] | None = None,
    row: int | str | Sequence[int | str] = (),
    rows: int | None = None,
    longest: bool = False,
    dropped: bool = False,
    **options: Any,
) -> Inspection:
    """Look at what a run would be trained on: rendered, masked, packed and counted as `train` does it.

    Args:
        data: path or paths; or the rows themselves, a list of dicts or a `datasets.Dataset`.
        model: path or hub id; only its tokenizer and its configuration are read.
        method: name of a method, or the path of a Python file; None takes it from `config`, else from the columns.
        eval_data: held-out data, in the forms of `data`.
        config: one or more YAML files; the arguments win over them.
        row: rows to show, by their numbers in the file, or as "pairs.jsonl:17".
        rows: so many of the first rows; with `longest` of the longest, with `dropped` of each reason.
        longest: show the longest rows.
        dropped: show rows that are not used, as they are.
        options: any key of the configuration, as for `train`: `max_length=512`, `data={"overlong": "drop"}`.

    Returns:
        The figures and the examples; `write_html` makes a page of them, `as_dict` plain values.

    Raises:
        PlauditError: PL100-PL103, PL2xx, PL301, PL303, PL307, PL401. What only keeps training from starting (rows that
            cannot be used) is the result's `problem`.
    """
    from plaudit.inspection.examples import Choice

    given, in_memory, eval_in_memory = dict(options), None, None
    if model is not None:
        given["model"] = str(model) if isinstance(model, Path) else model
    if data is not None:
        given["data"], in_memory = source_or_rows(data)
    if eval_data is not None:
        given["eval_data"], eval_in_memory = source_or_rows(eval_data)
    files = [Path(f) for f in ([config] if isinstance(config, (str, Path)) else config or [])]
    asked = [row] if isinstance(row, (int, str)) else row
    choice = Choice(tuple(map(str, asked)), rows, longest, dropped)
    return _inspect(method, files, given, choice, in_memory, eval_in_memory)


def inspect_from_arguments(
    method: str | None, files: Sequence[Path], arguments: Sequence[str], choice: Choice
) -> Inspection:
    """`inspect` with a command line's arguments: files, key=value and flags."""
    return _inspect(method, files, arguments, choice, None, None)


def _inspect(
    method: str | None,
    files: Sequence[Path],
    overrides: Sequence[str] | Mapping[str, Any],
    choice: Choice,
    in_memory: Any,
    eval_in_memory: Any,
) -> Inspection:
    need_training_packages()
    from plaudit.config.load import given, resolve
    from plaudit.inspection.run import inspect_data

    said = given(files, overrides)
    named = method or said.get("method", {}).get("name")
    chosen = None if named else _by_columns(said.get("data", {}), in_memory)
    objects = in_memory is not None or eval_in_memory is not None
    # Without any method the rest could not be checked: what is missing besides is reported, whichever it is.
    fallback = None if named else chosen or METHOD_OF["completion"]
    resolved = resolve(method or fallback, files, overrides, objects=objects, trains=False)
    return inspect_data(
        resolved, choice, rows=in_memory, eval_rows=eval_in_memory, by_columns=named is None and chosen is not None
    )


def _by_columns(section: Any, in_memory: Any) -> str | None:
    """The method for the kind of data that the first source has; None where no source is named.

    Raises:
        DataError: PL201-PL202 and PL209-PL210 reading, PL203 rows of no kind, PL207 no rows.
    """
    from plaudit.config.schema import SourceConfig
    from plaudit.data.convert import KINDS
    from plaudit.data.kinds import HEAD, kind_of
    from plaudit.data.readers import need_rows, open_rows
    from plaudit.data.recordset import source_list

    section = section if isinstance(section, dict) else {}
    if (conversion := section.get("convert")) in KINDS:
        return METHOD_OF[KINDS[conversion][1]]
    sources = section.get("train")
    if in_memory is not None:
        first = source_list(in_memory)[0]
    elif isinstance(sources, list) and sources and isinstance(sources[0], dict) and "path" in sources[0]:
        columns, limit = sources[0].get("columns") or section.get("columns"), sources[0].get("limit")
        first = SourceConfig(
            path=str(sources[0]["path"]),
            columns=columns if isinstance(columns, dict) else {},
            limit=limit if isinstance(limit, int) and limit > 0 else None,
        )
    else:
        return None
    stream = open_rows(first)
    head = list(islice(stream.rows, HEAD))
    need_rows(head, stream.name)
    return METHOD_OF[kind_of(head, stream.columns, stream.name)]


__all__ = ["METHOD_OF", "inspect", "inspect_from_arguments"]
