"""Where this interpreter lies on the disk, and what a sandbox must show of the machine for it to run."""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Interpreter:
    """An interpreter and its files.

    Attributes:
        executable: without symbolic links.
        shown: files and folders that it needs.
        hidden: folders in these that it does not: installed packages.
        packages: folders of the packages that are installed for it.
    """

    executable: str
    shown: tuple[str, ...]
    hidden: tuple[str, ...]
    packages: tuple[str, ...]

    @classmethod
    @cache
    def here(cls) -> Interpreter:
        """The one that runs this."""
        executable = os.path.realpath(sys.executable)
        base = Path(sys.base_prefix).resolve()
        shown = [executable]
        if str(base) != "/usr":  # the whole folder may be somebody's home
            shown += [str(base / lib) for lib in ("lib", "lib64") if (base / lib).is_dir()]
        if executable.startswith("/nix/"):
            shown.append("/nix/store")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        lib = Path(sysconfig.get_path("stdlib")).resolve()
        places = [lib / "site-packages", lib / "dist-packages", Path("/usr/lib/python3/dist-packages")]
        places.append(Path("/usr/lib") / version / "site-packages")
        hidden = tuple(dict.fromkeys(str(p) for p in places if p.is_dir() and not p.is_symlink()))
        found = dict.fromkeys(os.path.realpath(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
        return cls(executable, tuple(shown), hidden, tuple(p for p in found if os.path.isdir(p)))
