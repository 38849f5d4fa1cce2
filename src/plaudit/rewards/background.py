"""Work in threads that nobody has to wait for.

The threads of `concurrent.futures` are joined when the interpreter ends, so that one call that hangs keeps the program
alive for ever, and Ctrl-C too. These are daemons.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
OF_SOMEBODY_ELSE = (Exception, SystemExit, GeneratorExit, asyncio.CancelledError)
"""What other people's code may raise without ending the run: everything but Ctrl-C."""


def in_background(name: str, function: Callable[..., T], *arguments: Any, **named: Any) -> Future[T]:
    """Call a function in a daemon thread of its own; the future has what it returned or raised."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            found = function(*arguments, **named)
        except BaseException as error:  # somebody waits for it
            future.set_exception(error)
        else:
            future.set_result(found)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future
