"""Rows of CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plaudit.data.encodings import opened_text, refuse_utf16, to_utf8
from plaudit.errors import DataError

_SHOWN = 10
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def _header(header: list[str] | None, file: Path) -> list[str]:
    """The first line, which must name the columns."""
    where = f"{file}:1"
    if not header:
        raise DataError("PL202", "the file has no header line", where=where, mend="the first line names the columns")
    if header[0].startswith("#") and not all(header[1:] or [""]):
        raise DataError(
            "PL202", f"the first line is a comment, must name the columns: {header[0]}", where=where,
            mend=f"remove it: tail -n +2 {file} > {file.with_name(f'{file.stem}-rows{file.suffix}')}",
        )  # fmt: skip
    again = next((name for name in header if header.count(name) > 1), None)
    if again is not None:
        what = f"the file names the column {again!r} twice" if again else f"{header.count('')} columns have no name"
        raise DataError("PL202", what, where=where, mend="the first line names the columns, each by a name of its own")
    return header


def read_csv(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Header line, then rows; cells that hold a JSON list or object (messages) are parsed."""
    refuse_utf16(file)
    csv.field_size_limit(2**31 - 1)
    bad: list[str] = []
    try:
        with opened_text(file) as stream:
            reader = csv.reader(stream, strict=True)
            header = _header(next(reader, None), file)
            if len(header) == 1 and (other := next((s for s in _SEPARATORS if s in header[0]), None)):
                raise DataError(
                    "PL202", f"the columns are separated by {_SEPARATORS[other]}", where=f"{file}:1",
                    mend="save it with commas between the columns",
                )  # fmt: skip
            for number, cells in enumerate((c for c in reader if c), start=1):
                if len(cells) != len(header):
                    what = f"{len(cells)} cells for {len(header)} columns"
                    bad.append(f"  {file}:{number}  (line {reader.line_num}) {what}")
                elif not bad:
                    yield number, {h: cell_value(c) for h, c in zip(header, cells, strict=True)}
    except UnicodeDecodeError as error:
        raise DataError(
            "PL202", f"the file is not UTF-8: {error.reason}", where=str(file), mend=to_utf8(file)
        ) from None
    except csv.Error as error:
        raise DataError(
            "PL202", f"the file is not valid CSV: {error}", where=f"{file}:{reader.line_num}",
            mend='put cells with commas or line ends in "quotes", and write a quote in them as ""',
        ) from None  # fmt: skip
    if bad:
        listed = "\n".join(bad[:_SHOWN])
        rows = f"{len(bad)} rows" if len(bad) > 1 else "a row"
        raise DataError(
            "PL202", f"{rows} cannot be parsed\n{listed}", where=bad[0].split()[0],
            mend='put cells with commas or line ends in "quotes"',
        )  # fmt: skip


def cell_value(text: str) -> Any:
    """What a cell of CSV says: JSON lists and objects are parsed."""
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return text


__all__ = ["cell_value", "read_csv"]
