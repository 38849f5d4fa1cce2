"""The sandbox `process`: limits and no isolation, for programs that are trusted."""

from __future__ import annotations

import os
import sys
import tempfile

from plaudit.rewards.sandbox.handles import Handles
from plaudit.rewards.sandbox.interpreter import Interpreter
from plaudit.rewards.sandbox.limits import Limits
from plaudit.rewards.sandbox.local import LocalSandbox, Place


class ProcessSandbox(LocalSandbox):
    """A bare process with limits, an empty environment and a folder of its own.

    A program can read and write whatever the user can, use the network, and leave processes behind that hide. It is
    there for machines without anything better, and is used only where it is asked for by name.

    Args:
        site_packages: whether programs may import the packages that are installed here.
    """

    name = "process"
    isolated = False

    def __init__(self, *, site_packages: bool = False) -> None:
        self._paths = Interpreter.here().packages if site_packages else ()

    def check(self) -> None:
        """See `Sandbox.check`."""

    def _place(self, limits: Limits, handles: Handles) -> Place:
        folder = handles.stack.enter_context(tempfile.TemporaryDirectory(prefix="plaudit-", ignore_cleanup_errors=True))
        return Place([os.path.realpath(sys.executable)], os.path.realpath(folder), paths=self._paths)
