"""A copy of a file without some rows and with others mended: the same form, columns and order.

A line of JSONL that is not mended is copied byte for byte, a cell of CSV character by character; Parquet keeps its
schema.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from plaudit.data.conventions import Row
from plaudit.data.readers import RowSource, open_rows
from plaudit.data.tables import cell_value

Mend = Callable[[Row], Row]
_BOM = b"\xef\xbb\xbf"


def copy(
    source: RowSource,
    file: Path | None,
    output: Path,
    removed: Collection[int],
    changed: Collection[int],
    mended: Mend,
) -> int:
    """Copy a source; returns how many rows were written.

    Args:
        source: what to copy; `file` is its file, if it is one.
        output: the file to write; of the same form as `file`, or JSONL.
        removed, changed: numbers of rows.
        mended: what becomes of a row that is changed.
    """
    suffix = file.suffix.lower() if file is not None else ""
    if file is not None and (suffix == ".jsonl" or (suffix == ".json" and _is_jsonl(file))):
        return _jsonl(file, output, removed, changed, mended)
    if file is not None and suffix == ".csv":
        return _csv(file, output, removed, changed, mended)
    if file is not None and suffix == ".parquet":
        return _parquet(file, output, removed, changed, mended)
    kept = (mended(row) if n in changed else row for n, row in open_rows(source).rows if n not in removed)
    return _json(kept, output) if suffix == ".json" else _lines(kept, output)


def json_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON; half a surrogate pair stays an escape, a value that JSON does not know becomes text."""
    return (json.dumps(row, ensure_ascii=False, default=str) + "\n").encode("utf-8", "backslashreplace")


def _is_jsonl(file: Path) -> bool:
    """As the reader decides it: objects one after the other and no list."""
    with file.open("rb") as stream:
        return stream.read(4096).removeprefix(_BOM).lstrip().startswith(b"{")


def _jsonl(file: Path, output: Path, removed: Collection[int], changed: Collection[int], mended: Mend) -> int:
    written = 0
    with file.open("rb") as stream, output.open("wb") as out:
        for number, raw in enumerate(stream, start=1):
            line = raw.removeprefix(_BOM) if number == 1 else raw
            if number in removed or not line.strip():
                continue
            if number in changed:
                line = json_line(mended(json.loads(line)))
            out.write(line if line.endswith(b"\n") else line + b"\n")
            written += 1
    return written


def _json(rows: Iterator[Row], output: Path) -> int:
    written = 0
    with output.open("wb") as out:
        for written, row in enumerate(rows, start=1):
            out.write((b"[\n" if written == 1 else b",\n") + json_line(row).rstrip(b"\n"))
        out.write(b"\n]\n" if written else b"[]\n")
    return written


def _lines(rows: Iterator[Row], output: Path) -> int:
    written = 0
    with output.open("wb") as out:
        for row in rows:
            out.write(json_line(row))
            written += 1
    return written


def _csv(file: Path, output: Path, removed: Collection[int], changed: Collection[int], mended: Mend) -> int:
    written = 0
    with file.open(encoding="utf-8-sig", newline="") as stream, output.open("w", encoding="utf-8", newline="") as out:
        reader, writer = csv.reader(stream, strict=True), csv.writer(out, lineterminator="\n")
        header = next(reader)
        writer.writerow(header)
        for number, cells in enumerate((c for c in reader if c), start=1):
            if number in removed:
                continue
            if number in changed:
                row = {h: cell_value(c) for h, c in zip(header, cells, strict=True)}
                cells = [_cell(new, row[h], c) for (h, new), c in zip(mended(row).items(), cells, strict=True)]
            writer.writerow(cells)
            written += 1
    return written


def _cell(new: Any, old: Any, text: str) -> str:
    if new == old:
        return text
    return new if isinstance(new, str) else json.dumps(new, ensure_ascii=False)


def _parquet(file: Path, output: Path, removed: Collection[int], changed: Collection[int], mended: Mend) -> int:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    written = number = 0
    with pq.ParquetFile(file) as table, pq.ParquetWriter(output, table.schema_arrow) as out:
        for batch in table.iter_batches():
            numbers = range(number + 1, number + 1 + len(batch))
            number += len(batch)
            if any(n in removed or n in changed for n in numbers):
                rows = zip(numbers, batch.to_pylist(), strict=True)
                kept = [mended(row) if n in changed else row for n, row in rows if n not in removed]
                batch = pa.RecordBatch.from_pylist(kept, schema=table.schema_arrow)
            out.write_batch(batch)
            written += len(batch)
    return written
