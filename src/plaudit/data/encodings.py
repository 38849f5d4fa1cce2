"""Bytes at the beginning of text files, and what to do about encodings that are not UTF-8."""

from __future__ import annotations

import gzip
from io import BufferedReader
from pathlib import Path
from typing import TextIO

from plaudit.errors import DataError

BOM = b"\xef\xbb\xbf"
"""What some programs put in front of UTF-8."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def opened(file: Path) -> gzip.GzipFile | BufferedReader:
    """The bytes of a file; of one that gzip has packed, those inside."""
    return gzip.open(file) if is_packed(file) else file.open("rb")


def opened_text(file: Path) -> TextIO:
    """The text of a file in UTF-8, with its line ends as they are; a BOM is left out."""
    if is_packed(file):
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def is_packed(file: Path) -> bool:
    """Whether a file's name says that gzip has packed it."""
    return file.suffix.lower() == ".gz"


def form_of(file: Path) -> str:
    """The ending that says what a file holds: .jsonl of rows.jsonl and of rows.jsonl.gz."""
    return (file.with_suffix("") if is_packed(file) else file).suffix.lower()


def refuse_utf16(file: Path) -> bytes:
    """The beginning of a file, which must not be that of UTF-16 (what Windows calls Unicode)."""
    with opened(file) as stream:
        start = stream.read(256)
    if start.startswith(_UTF_16):
        raise DataError("PL202", "the file is UTF-16, not UTF-8", where=f"{file}:1", mend=to_utf8(file, "UTF-16"))
    return start.removeprefix(BOM).lstrip()


def to_utf8(file: Path, encoding: str = "WINDOWS-1252") -> str:
    name = f"{file.stem}-utf8{file.suffix}"
    return f"save it as UTF-8, for example: iconv -f {encoding} -t UTF-8 {file} > {file.with_name(name)}"


__all__ = ["BOM", "form_of", "is_packed", "opened", "opened_text", "refuse_utf16", "to_utf8"]
