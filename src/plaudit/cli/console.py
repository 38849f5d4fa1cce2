"""Where commands print."""

from __future__ import annotations

from typing import NoReturn

import rich.console


class Console(rich.console.Console):
    """As rich's, but where a reader has gone (`plaudit methods | head`): rich would exit with 1, as after a failure."""

    def on_broken_pipe(self) -> NoReturn:
        """Leave it to the command line, which ends with 141 as other programs do.

        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError from None
