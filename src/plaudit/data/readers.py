"""Read rows from files, folders, the hub or memory. Every row keeps its number; every error names file and row."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from plaudit.config.schema import SourceConfig
from plaudit.errors import DataError

if TYPE_CHECKING:
    import datasets  # type: ignore[import-untyped]

Row = dict[str, Any]
NumberedRow = tuple[int, Row]
RowSource = SourceConfig | str | Sequence[Mapping[str, Any]] | Any
"""A source as the user may give it: config, path, list of dicts, or a datasets.Dataset."""
SHOWN = 10
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.+%\[\]-]+){0,2}")


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one source."""

    name: str
    """What messages and reports call it."""
    rows: list[NumberedRow]
    """(number from 1, columns); the number is the line for JSONL."""
    weight: float
    columns: dict[str, str]


@dataclass(frozen=True, slots=True)
class Stream:
    """The rows of one source as they are read; the fields are those of `Rows`."""

    name: str
    rows: Iterator[NumberedRow]
    weight: float
    columns: dict[str, str]


def read(source: RowSource, *, position: int = 1) -> Rows:
    """All rows of a source.

    Args:
        source: a `SourceConfig`, a path or hub id, a list of dicts, or a `datasets.Dataset`.
        position: number of the source, to name rows that come from memory.

    Raises:
        DataError: PL201 the source is missing or unreadable, PL202 rows do not parse, PL209 streaming or an
            unknown type, PL210 the hub is out of reach.
    """
    stream = open_rows(source, position=position)
    return Rows(stream.name, list(stream.rows), stream.weight, stream.columns)


def need_rows(rows: Sequence[NumberedRow], name: str) -> None:
    """Refuse a source without rows.

    Raises:
        DataError: PL207, there are none.
    """
    if not rows:
        raise DataError("PL207", "the source has no rows", where=name, mend="remove it or fill it")


def open_rows(source: RowSource, *, position: int = 1) -> Stream:
    """A source whose rows are read one after the other, for work that needs no more than one at a time.

    Args:
        source, position: as for `read`.

    Raises:
        DataError: as `read`; where rows are at fault, only when they are reached.
    """
    if isinstance(source, (str, Path)):
        source = SourceConfig(path=str(source))
    if isinstance(source, SourceConfig):
        rows = _rows_of_path(source.path, source.limit)
        return Stream(source.path, rows, source.weight, dict(source.columns))
    name = "<rows>" if position == 1 else f"<rows {position}>"
    return Stream(name, iter(_rows_of_object(source, name)), 1.0, {})


def _rows_of_path(path: str, limit: int | None) -> Iterator[NumberedRow]:
    file = Path(path)
    suffix = file.suffix.lower()
    try:
        file.stat()
    except PermissionError as error:  # a folder on the way, where even looking is forbidden
        raise DataError("PL201", f"the source cannot be read: {error.strerror}", where=path) from error
    except (OSError, ValueError):
        pass  # what is not there may be on the hub
    if file.is_file():
        if suffix not in _READERS:
            raise DataError(
                "PL209", f"files of type {suffix or '(none)'} cannot be read", where=path,
                mend=f"use one of {', '.join(_READERS)}",
            )  # fmt: skip
        try:
            yield from islice(_READERS[suffix](file), limit)
        except OSError as error:
            raise DataError("PL201", f"the file cannot be read: {error}", where=path) from error
        return
    folder, split = _folder_and_split(path)
    if folder is not None:
        yield from islice(_read_saved(folder, split, path), limit)
        return
    if suffix in _READERS or file.is_absolute() or path.startswith((".", "~")):
        _missing(path)
    if not _HUB_ID.fullmatch(path):
        _missing(path)
    yield from islice(_read_hub(path), limit)


def _missing(path: str) -> NoReturn:
    file = Path(path)
    folder = next((p for p in file.parents if p.is_dir()), Path("."))
    near = difflib.get_close_matches(file.name, [p.name for p in folder.iterdir()], 1) if folder == file.parent else []
    mend = f"did you mean {folder / near[0]}?" if near else f"the last folder that exists is {folder}"
    if path.startswith("~"):
        mend = "write the whole path; ~ is not expanded here"
    raise DataError("PL201", "there is no such file or folder", where=path, mend=mend)


# ---------------------------------------------------------------- files


def _read_jsonl(file: Path) -> Iterator[NumberedRow]:
    """One object per line. All lines are checked, so that the error shows more than the first bad one."""
    bad: list[tuple[int, str]] = []
    total_bad = number = 0
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            row, problem = _parse_line(raw, first=number == 1)
            if row is not None and not bad:
                yield number, row
            elif problem:
                total_bad += 1
                if not raw.endswith(b"\n"):
                    problem += " (the last line has no line end: was the file cut off while it was written?)"
                if len(bad) < SHOWN:
                    bad.append((number, problem))
    if bad:
        listed = "\n".join(f"  {file}:{n}  {problem}" for n, problem in bad)
        raise DataError(
            "PL202", f"{total_bad} of {number} lines cannot be parsed\n{listed}", where=f"{file}:{bad[0][0]}",
            mend="every line must be one JSON object; mend or remove these lines",
        )  # fmt: skip


def _parse_line(raw: bytes, *, first: bool) -> tuple[Row | None, str | None]:
    if first:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        return None, None
    try:
        value = json.loads(raw.decode("utf-8").rstrip())  # an error at a line end would be at column 1 of a line behind
    except UnicodeDecodeError as error:
        return None, f"is not UTF-8 at byte {error.start + 1} of the line"
    except json.JSONDecodeError as error:
        return None, f"is not valid JSON at column {error.colno}: {error.msg.removesuffix(' at')}"
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, brackets without end
        return None, f"is not valid JSON: {str(error).partition(';')[0]}"
    if not isinstance(value, dict):
        return None, f"is a JSON {type(value).__name__}, must be an object"
    return value, None


def _read_json(file: Path) -> Iterator[NumberedRow]:
    """A list of objects. Files named .json that hold one object per line are common and are read as JSONL."""
    raw = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if raw.lstrip().startswith(b"{") and len(raw.strip().splitlines()) > 1:
        first, _ = _parse_line(raw.lstrip().splitlines()[0], first=False)
        if first is not None:
            yield from _read_jsonl(file)
            return
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError("PL202", f"the file is not UTF-8 at byte {error.start + 1}", where=str(file)) from None
    except json.JSONDecodeError as error:
        raise DataError(
            "PL202", f"the file is not valid JSON: {error.msg}", where=f"{file}:{error.lineno}",
            mend="mend the JSON, or use .jsonl with one object per line",
        ) from None  # fmt: skip
    if not isinstance(value, list):
        raise DataError(
            "PL202", f"the file holds a JSON {type(value).__name__}, must be a list of objects", where=str(file),
            mend='write the rows as [{"prompt": …}, …], or as .jsonl with one object per line',
        )  # fmt: skip
    yield from _rows_of_object(value, str(file))


def _read_parquet(file: Path) -> Iterator[NumberedRow]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        raise DataError(
            "PL201", f"the file is not readable as Parquet: {error}", where=str(file), mend="write the file again"
        ) from error


def _read_csv(file: Path) -> Iterator[NumberedRow]:
    """Header line, then rows; cells that hold a JSON list or object (messages) are parsed."""
    csv.field_size_limit(2**31 - 1)
    bad: list[str] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, None)
            if not header or len(set(header)) != len(header):
                what = "has no header line" if not header else "names a column twice"
                raise DataError("PL202", f"the file {what}", where=f"{file}:1", mend="the first line names the columns")
            for number, cells in enumerate((c for c in reader if c), start=1):
                if len(cells) != len(header):
                    what = f"{len(cells)} cells for {len(header)} columns"
                    bad.append(f"  {file}:{number}  (line {reader.line_num}) {what}")
                elif not bad:
                    yield number, {h: cell_value(c) for h, c in zip(header, cells, strict=True)}
    except UnicodeDecodeError as error:
        raise DataError(
            "PL202", f"the file is not UTF-8: {error.reason}", where=str(file), mend="save it as UTF-8"
        ) from None
    except csv.Error as error:
        raise DataError("PL202", f"the file is not valid CSV: {error}", where=f"{file}:{reader.line_num}") from None
    if bad:
        listed = "\n".join(bad[:SHOWN])
        raise DataError(
            "PL202", f"{len(bad)} rows cannot be parsed\n{listed}", where=str(file),
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


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet, ".csv": _read_csv}


# ---------------------------------------------------------------- datasets


def _folder_and_split(path: str) -> tuple[Path | None, str | None]:
    if Path(path).is_dir():
        return Path(path), None
    head, colon, split = path.rpartition(":")
    if colon and Path(head).is_dir():
        return Path(head), split
    return None, None


def _read_saved(folder: Path, split: str | None, name: str) -> Iterator[NumberedRow]:
    try:
        names = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        raise DataError("PL201", f"the folder cannot be read: {error.strerror}", where=str(folder)) from error
    if not {"dataset_info.json", "dataset_dict.json"}.intersection(names):
        inside = [n for n in names if Path(n).suffix in _READERS]
        raise DataError(
            "PL209", "the folder was not written by datasets' save_to_disk", where=str(folder),
            mend=f"name the files as sources: {', '.join(inside[:5])}" if inside else "name a file",
        )  # fmt: skip
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise DataError("PL201", f"the folder cannot be read: {error}", where=str(folder)) from error
    return _rows_of_object(_one_split(loaded, split, str(folder)), name)


def _one_split(loaded: Any, split: str | None, name: str) -> Any:
    import datasets

    if not isinstance(loaded, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        if split is not None:
            raise DataError(
                "PL201", f"there is no split {split!r}: the folder holds one dataset without splits", where=name,
                mend=f"write {name}",
            )  # fmt: skip
        return loaded
    splits = [str(s) for s in loaded]
    if split is None and len(splits) == 1:
        split = splits[0]
    if split not in splits:
        what = "there are several splits" if split is None else f"there is no split {split!r}"
        raise DataError("PL201", what, where=name, mend=f"write one of: {', '.join(f'{name}:{s}' for s in splits)}")
    return loaded[split]


def _read_hub(path: str) -> Iterator[NumberedRow]:
    """`name`, `name:split` or `name:config:split`."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    name, *rest = path.split(":")
    config = rest[0] if len(rest) == 2 else None
    split = rest[-1] if rest else None
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
        raise DataError(
            "PL210", f"there is no such file or folder, and the hub does not know it or cannot be asked: {error}",
            where=path, mend="check the name (name:split), the network, and for private data `hf auth login`",
        ) from error  # fmt: skip
    except ValueError as error:
        raise DataError("PL201", f"the dataset cannot be loaded: {error}", where=path) from error
    except (ConnectionError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise DataError(
            "PL210", f"the hub cannot be reached: {type(error).__name__}: {error}", where=path,
            mend="go online once, or use a local file (a name without a known file ending is taken for a hub id)",
        ) from error  # fmt: skip
    return _rows_of_object(_one_split(loaded, split, name) if split is None else loaded, path)


# ---------------------------------------------------------------- memory


def _rows_of_object(value: Any, name: str) -> Iterator[NumberedRow]:
    kind = f"{type(value).__module__}.{type(value).__name__}"
    if kind.startswith("datasets.") and "Iterable" in kind:
        raise DataError(
            "PL209", "streaming datasets (IterableDataset) are not supported: lengths and order must be known",
            where=name, mend="load it without streaming=True, or take(n) and save it to a file",
        )  # fmt: skip
    if kind.startswith("datasets.") and "DatasetDict" in kind:
        if len(value) != 1:
            raise DataError(
                "PL201", "there are several splits", where=name,
                mend=f"hand over one of them: {', '.join(f'dataset[{str(s)!r}]' for s in value)}",
            )  # fmt: skip
        return _rows_of_object(next(iter(value.values())), name)
    if kind.startswith("datasets."):
        return _rows_of_dataset(value)
    if kind.startswith("pandas."):
        raise DataError(
            "PL209", "a pandas DataFrame is not a data source", where=name, mend='give df.to_dict("records")'
        )  # fmt: skip
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable) or isinstance(value, Iterator):
        raise DataError(
            "PL209", f"a {kind} is not a data source", where=name,
            mend="give a path, a list of dicts, or a datasets.Dataset",
        )  # fmt: skip
    return _rows_of_list(value, name)


def _rows_of_list(rows: Iterable[Any], name: str) -> Iterator[NumberedRow]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise DataError(
                "PL202", f"the row is {type(row).__name__}, must be an object with columns", where=f"{name}:{number}"
            )
        yield number, dict(row)


def _rows_of_dataset(dataset: datasets.Dataset) -> Iterator[NumberedRow]:
    number = 0
    plain = dataset.with_format(None)
    for start in range(0, len(plain), 1000):
        columns = plain[start : start + 1000]
        for values in zip(*columns.values(), strict=True):
            number += 1
            yield number, dict(zip(columns, values, strict=True))
