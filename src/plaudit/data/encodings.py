"""Bytes at the beginning of text files, and what to do about encodings that are not UTF-8."""

from __future__ import annotations

from pathlib import Path

from plaudit.errors import DataError

BOM = b"\xef\xbb\xbf"
"""What some programs put in front of UTF-8."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def refuse_utf16(file: Path) -> bytes:
    """The beginning of a file, which must not be that of UTF-16 (what Windows calls Unicode)."""
    with file.open("rb") as stream:
        start = stream.read(256)
    if start.startswith(_UTF_16):
        raise DataError("PL202", "the file is UTF-16, not UTF-8", where=f"{file}:1", mend=to_utf8(file, "UTF-16"))
    return start.removeprefix(BOM).lstrip()


def to_utf8(file: Path, encoding: str = "WINDOWS-1252") -> str:
    name = f"{file.stem}-utf8{file.suffix}"
    return f"save it as UTF-8, for example: iconv -f {encoding} -t UTF-8 {file} > {file.with_name(name)}"


__all__ = ["BOM", "refuse_utf16", "to_utf8"]
