"""A sandbox by its name."""

from __future__ import annotations

from plaudit.errors import ConfigError
from plaudit.rewards.sandbox.base import Sandbox


def open_sandbox(name: str, *, site_packages: bool = False, api_key: str | None = None) -> Sandbox:
    """The sandbox of a name; nothing is started before it is used.

    Args:
        name: bubblewrap, process, or the http(s) URL of a server.
        site_packages: whether programs may import the packages that are installed here.
        api_key: for a server; default is the environment variable PLAUDIT_SANDBOX_KEY.

    Raises:
        ConfigError: PL102, there is no such sandbox, or it cannot do what is asked.
    """
    if name == "bubblewrap":
        from plaudit.rewards.sandbox.bubblewrap import BubblewrapSandbox

        return BubblewrapSandbox(site_packages=site_packages)
    if name == "process":
        from plaudit.rewards.sandbox.process import ProcessSandbox

        return ProcessSandbox(site_packages=site_packages)
    if name.startswith(("http://", "https://")):
        from plaudit.rewards.sandbox.remote import RemoteSandbox

        if site_packages:
            what = "site_packages shows packages of this machine, and programs run on another"
            raise ConfigError("PL102", what, where=name, mend="set it where the server is started")
        return RemoteSandbox(name, api_key=api_key)
    raise ConfigError(
        "PL102",
        f"there is no sandbox {name!r}",
        where="sandbox",
        mend="name bubblewrap, the http(s) URL of a server, or process, which isolates nothing",
    )
