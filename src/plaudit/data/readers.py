"""Read rows from files, folders, the hub or memory. Every row keeps its number; every error names file and row."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from plaudit.config.hub import quieten
from plaudit.config.paths import meant
from plaudit.config.schema import SourceConfig
from plaudit.data.encodings import BOM, form_of, is_packed, opened, refuse_utf16, to_utf8
from plaudit.data.tables import read_csv
from plaudit.errors import DataError

if TYPE_CHECKING:
    import datasets  # type: ignore[import-untyped]

Row = dict[str, Any]
NumberedRow = tuple[int, Row]
RowSource = SourceConfig | str | Sequence[Mapping[str, Any]] | Any
"""A source as the user may give it: config, path, list of dicts, or a datasets.Dataset."""
SHOWN = 10
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.+%\[\]-]+){0,2}")
_UNPACK = {".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd", ".zip": "unzip"}


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
    suffix = form_of(file)
    try:
        file.stat()
    except PermissionError as error:  # a folder on the way, where even looking is forbidden
        raise DataError(
            "PL201", f"the source cannot be read: {error.strerror}", where=path,
            mend="permit it for the folder that the file is in (chmod u+x)",
        ) from error  # fmt: skip
    except (OSError, ValueError):
        pass  # what is not there may be on the hub
    if file.is_file():
        if suffix not in _READERS or (is_packed(file) and suffix == ".parquet"):
            own = file.suffix.lower()
            unpack = f"unpack it first: {_UNPACK[own]} {path}; then " if own in _UNPACK else ""
            raise DataError(
                "PL209", f"files of type {own or '(none)'} cannot be read", where=path,
                mend=f"{unpack}use one of {', '.join(_READERS)}",
            )  # fmt: skip
        try:
            yield from islice(_READERS[suffix](file), limit)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                "PL201", f"the packed file is damaged: {error}", where=path,
                mend=f"fetch it again, and try: gzip -t {path}",
            ) from error  # fmt: skip
        except OSError as error:
            denied = isinstance(error, PermissionError)
            raise DataError(
                "PL201", f"the file cannot be read: {error.strerror or error}", where=path,
                mend=f"permit it: chmod u+r {path}" if denied else "copy the file to a disk that can be read",
            ) from error  # fmt: skip
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
    if os.path.exists(path):
        mend = "write what it gives into a file, and name that"
        raise DataError("PL201", "it is neither a file nor a folder, but a pipe or a device", where=path, mend=mend)
    mend = "write the whole path; ~ is not expanded here" if path.startswith("~") else meant(path)
    raise DataError("PL201", "there is no such file or folder", where=path, mend=mend)


# ---------------------------------------------------------------- files


def _refuse_json(file: Path) -> None:
    """Refuse JSON that is not one object a line: every line of it would be a mistake."""
    start = refuse_utf16(file)
    if start.startswith(b"["):
        raise DataError(
            "PL202", "the file holds one JSON list, must hold one JSON object a line", where=f"{file}:1",
            mend=f"call it {file.with_suffix('.json')}, or write a line for each: jq -c '.[]' {file}",
        )  # fmt: skip
    if start.partition(b"\n")[0].strip() == b"{":
        raise DataError(
            "PL202", "the file holds JSON objects over several lines, must hold one JSON object a line",
            where=f"{file}:1", mend=f"write each on a line of its own: jq -c . {file}",
        )  # fmt: skip


def _read_jsonl(file: Path) -> Iterator[NumberedRow]:
    """One object per line. All lines are checked, so that the error shows more than the first bad one."""
    _refuse_json(file)
    bad: list[tuple[int, str]] = []
    total_bad = number = 0
    with opened(file) as stream:
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
        foreign = any("UTF-8" in problem for _, problem in bad)
        raise DataError(
            "PL202", f"{total_bad} of {number} lines cannot be parsed\n{listed}", where=f"{file}:{bad[0][0]}",
            mend=to_utf8(file) if foreign else "every line must be one JSON object; mend or remove these lines",
        )  # fmt: skip


class _Twice(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"has the key {next(n for n in names if names.count(n) > 1)!r} twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
"""Of a key that is there twice, json would keep the last value without a word."""


def _parse_line(raw: bytes, *, first: bool) -> tuple[Row | None, str | None]:
    if first:
        raw = raw.removeprefix(BOM)
    if not raw.strip():
        return None, None
    try:
        value = _DECODER.decode(raw.decode("utf-8").rstrip())  # an error at a line end would be in the line behind
    except UnicodeDecodeError as error:
        return None, f"is not UTF-8 at byte {error.start + 1} of the line"
    except json.JSONDecodeError as error:
        return None, f"is not valid JSON at column {error.colno}: {error.msg.removesuffix(' at')}"
    except _Twice as error:
        return None, str(error)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, brackets without end
        return None, f"is not valid JSON: {str(error).partition(';')[0]}"
    if not isinstance(value, dict):
        return None, f"is a JSON {type(value).__name__}, must be an object"
    return value, None


def _read_json(file: Path) -> Iterator[NumberedRow]:
    """A list of objects. Files named .json that hold one object per line are common and are read as JSONL."""
    refuse_utf16(file)
    with opened(file) as stream:
        raw = stream.read().removeprefix(BOM)
    if raw.lstrip().startswith(b"{") and len(raw.strip().splitlines()) > 1:
        first, _ = _parse_line(raw.lstrip().splitlines()[0], first=False)
        if first is not None:
            yield from _read_jsonl(file)
            return
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            "PL202", f"the file is not UTF-8 at byte {error.start + 1}", where=str(file), mend=to_utf8(file)
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(
            "PL202", f"the file is not valid JSON: {error.msg}", where=f"{file}:{error.lineno}",
            mend="mend the JSON, or use .jsonl with one object per line",
        ) from None  # fmt: skip
    except (ValueError, RecursionError) as error:
        what = f"an object {error}" if isinstance(error, _Twice) else f"the file is not valid JSON: {error}"
        raise DataError("PL202", what.partition(";")[0], where=str(file), mend="mend the JSON") from None
    if not isinstance(value, list):
        lists = [name for name, inner in value.items() if isinstance(inner, list)] if isinstance(value, dict) else []
        under = f"write the list that is under the key {lists[0]} alone: jq .{lists[0]} {file}; or " if lists else ""
        raise DataError(
            "PL202", f"the file holds {_in_words(value)}, must be a list of objects", where=str(file),
            mend=under + 'write the rows as [{"prompt": …}, …], or as .jsonl with one object per line',
        )  # fmt: skip
    yield from _rows_of_object(value, str(file))


def _in_words(value: Any) -> str:
    return "one JSON object" if isinstance(value, dict) else f"a JSON {type(value).__name__}"


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


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet, ".csv": read_csv}


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
        raise DataError(
            "PL201",
            f"the folder cannot be read: {error.strerror}",
            where=str(folder),
            mend=f"permit it: chmod u+rx {folder}",
        ) from error
    if not {"dataset_info.json", "dataset_dict.json"}.intersection(names):
        inside = [str(folder / n) for n in names if form_of(Path(n)) in _READERS]
        raise DataError(
            "PL209", "the folder was not written by datasets' save_to_disk", where=str(folder),
            mend=f"name the files as sources: {', '.join(inside[:5])}" if inside else "name a file",
        )  # fmt: skip
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise DataError(
            "PL201",
            f"the folder cannot be read: {error}",
            where=str(folder),
            mend="write it again with save_to_disk, or name a file",
        ) from error
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

    quieten()
    name, *rest = path.split(":")
    config = rest[0] if len(rest) == 2 else None
    split = rest[-1] if rest else None
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
        raise DataError(
            "PL210", f"there is no such file or folder, and the hub does not know it or cannot be asked: {error}",
            where=path, mend="check the name (name:split), the network, and for private data `hf auth login`; or use "
            "a local file",
        ) from error  # fmt: skip
    except ValueError as error:
        raise DataError(
            "PL201",
            f"the dataset cannot be loaded: {error}",
            where=path,
            mend="check the name (name:split, or name:config:split), or use a local file",
        ) from error
    except (ConnectionError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise DataError(
            "PL210", f"the hub cannot be reached: {type(error).__name__}: {error}", where=path,
            mend="check the spelling, go online once, or use a local file (a name without a known file ending is "
            "taken for a hub id)",
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
                "PL202",
                f"the row is {type(row).__name__}, must be an object with columns",
                where=f"{name}:{number}",
                mend='make every row an object: {"prompt": …}',
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
