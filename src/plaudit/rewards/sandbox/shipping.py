"""Our own modules, compiled for the launcher."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import CodeType

_PACKAGE = "plaudit.rewards.sandbox.inside"


@cache
def code(name: str) -> CodeType:
    """The code of a module of `inside`, which runs under the interpreter that compiles it here."""
    path = Path(__file__).with_name("inside") / f"{name}.py"
    return compile(path.read_text(encoding="utf-8"), f"{name}.py", "exec", dont_inherit=True)


@cache
def shipped() -> dict[str, CodeType | None]:
    """Full names → what the drivers import; None for a package."""
    parts = _PACKAGE.split(".")
    packages: dict[str, CodeType | None] = {".".join(parts[: i + 1]): None for i in range(len(parts))}
    return {**packages, **{f"{_PACKAGE}.{name}": code(name) for name in ("plain", "statements", "stand_ins")}}
