"""Files that survive kill -9: line-wise appends, repair of a half-written last line, atomic replacement.

Not-a-number and the infinities have no JSON form; they are written as {"$float": "nan" | "inf" | "-inf"} and read back
as floats, so that the files stay valid JSON for every reader.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from plaudit.errors import ConfigError, RunError

Line = dict[str, Any]
_OTHERS = frozenset(
    (
        *(".csv", ".tsv", ".json", ".parquet", ".arrow", ".feather", ".xls", ".xlsx", ".ods", ".yaml", ".yml", ".toml"),
        *(".npy", ".npz", ".pkl", ".pickle", ".pt", ".safetensors", ".db", ".sqlite", ".html", ".md"),
        *(".gz", ".bz2", ".xz", ".zst", ".zip", ".tar"),
    )
)
"""Endings that promise something else than lines of JSON."""


def refuse_other_forms(path: Path) -> None:
    """Before rows are written: whoever opens a file by its ending would find something else in it.

    Raises:
        ConfigError: PL102, the file's name promises another form than JSONL.
    """
    stem = path
    while stem.suffix.lower() in _OTHERS:
        stem = stem.with_suffix("")
    if stem != path:
        raise not_jsonl(path, stem.with_suffix(".jsonl").name)


def not_jsonl(path: Path, name: str) -> ConfigError:
    """The error for a file of rows that is not called as what it would be."""
    return ConfigError("PL102", "the rows are written as JSONL", where=str(path), mend=f"name it {name}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a RunError (PL505) that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            mend = "free some space (checkpoints are the large files), then give the same command: the run goes on"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            mend = "make the directory writable, or choose another one with run.dir=…"
        else:
            mend = "choose another directory with run.dir=…"
        raise RunError("PL505", f"cannot write: {error.strerror or error}", where=str(path), mend=mend) from error


def _encodable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, Mapping):
        return {str(k): _encodable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(v) for v in value]
    return value


def _decode(mapping: dict[str, Any]) -> Any:
    return float(mapping["$float"]) if mapping.keys() == {"$float"} else mapping


_DECODER = json.JSONDecoder(object_hook=_decode)  # once: json.loads would make one for each of many lines


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON, non-finite numbers tagged.

    Raises:
        TypeError: a value is not a plain Python one (convert arrays and tensors first).
    """
    return json.dumps(_encodable(value), ensure_ascii=False, allow_nan=False, indent=indent)


def loads(text: str | bytes) -> Any:
    """Inverse of `dumps`."""
    return _DECODER.decode(text if isinstance(text, str) else text.decode("utf-8", "surrogatepass"))


def append_line(path: Path, text: str, *, durable: bool = False) -> None:
    """Append one line in one write; `durable` waits until it is on the disk.

    A write that only partly succeeds (disk full) is taken back, so the file stays whole.

    Raises:
        RunError: PL505, the file cannot be written.
    """
    assert "\n" not in text, "one line, as JSON escapes line ends"
    data = text.encode("utf-8", errors="backslashreplace") + b"\n"  # a lone surrogate becomes its JSON escape
    with writing(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(handle).st_size
            try:
                written = os.write(handle, data)
                if written < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle, before)
                raise
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader, or a kill at any moment, sees the old one or the new one.

    Raises:
        RunError: PL505, the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise


def read_lines(path: Path) -> list[Line]:
    """All complete lines of a file; a last line without its newline is still being written and is left out.

    Returns an empty list when there is no file.

    Raises:
        RunError: PL504, a complete line is not a JSON object (the file was changed or the disk is damaged).
    """
    if not path.exists():
        return []
    lines: list[Line] = []
    with open(path, "rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if raw.endswith(b"\n"):
                lines.append(parse(path, number, raw))
    return lines


def parse(path: Path, number: int | None, raw: bytes) -> Line:
    """One line of a file; its number is for the message.

    Raises:
        RunError: PL504, it is not a JSON object.
    """
    try:
        line = loads(raw)
    except ValueError:
        line = None
    if not isinstance(line, dict):
        raise RunError(
            "PL504",
            "a line is not a JSON object; every line of this file was written whole, so something else changed it",
            where=str(path) if number is None else f"{path}:{number}",
            mend="restore the file from a copy, or delete this line",
        )
    return line


def repair(path: Path) -> str | None:
    """Mend the end of a file whose writer was killed: drop a half-written last line, end a whole one.

    Returns what was done, or None.
    """
    if not path.exists():
        return None
    data = path.read_bytes()
    if not data or data.endswith(b"\n"):
        return None
    start = data.rfind(b"\n") + 1
    try:
        whole = isinstance(loads(data[start:]), dict)
    except ValueError:
        whole = False
    with writing(path):
        if whole:
            with open(path, "ab") as stream:
                stream.write(b"\n")
        else:
            os.truncate(path, start)
    return f"{path.name}: " + ("ended the last line" if whole else "dropped a half-written last line")


def keep_lines(path: Path, keep: Callable[[Line], bool]) -> int:
    """Rewrite a file with the lines for which `keep` holds; returns how many were removed."""
    if not path.exists():
        return 0
    with open(path, "rb") as stream:
        raw = stream.read().splitlines(keepends=True)
    kept = [r for number, r in enumerate(raw, start=1) if keep(parse(path, number, r))]
    if len(kept) < len(raw):
        write_atomically(path, b"".join(kept).decode("utf-8"))
    return len(raw) - len(kept)
