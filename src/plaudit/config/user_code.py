"""Where an error is in a Python file that the user has written."""

from __future__ import annotations

import traceback
from pathlib import Path


def line_in(error: BaseException, file: str | Path) -> str:
    """`file:line` of the last line of the file that led to the error; the file alone where none did."""
    there = Path(file).resolve()
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve() == there:
        return f"{file}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == there]
    return f"{file}:{lines[-1]}" if lines else str(file)
