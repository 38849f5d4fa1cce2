"""From a model's name to a port that answers."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from plaudit.config.packages import need_packages
from plaudit.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

    from plaudit.serving.app import Service

_GRACE = 3
"""Seconds that running requests have to end after Ctrl-C."""


def need_serving_packages() -> None:
    """Raise ConfigError PL103 where the packages of the endpoint are missing."""
    need_packages(("starlette", "uvicorn"), "the endpoint", "train,serve")


def bound(host: str, port: int) -> socket.socket:
    """A socket at the address, so that one that is taken is known before a model is loaded.

    Raises:
        ConfigError: PL102, the address cannot be used.
    """
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen()  # from now on nobody else can take it; who comes early waits for the model
        except OSError:
            found.close()
            raise
    except (OSError, OverflowError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            "PL102",
            f"the address cannot be used: {what}",
            where=f"{host}:{port}",
            mend="choose another --port or --host",
        ) from error
    return found


def url(at: socket.socket) -> str:
    """The base URL that clients are given."""
    host, port = at.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def open_to_others(at: socket.socket) -> bool:
    """Whether other machines can reach it."""
    return not ipaddress.ip_address(at.getsockname()[0]).is_loopback


def server(service: Service) -> uvicorn.Server:
    """Not started: `run(sockets=[…])` serves until a signal or `should_exit`."""
    import uvicorn

    class Stopping(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            service.stop()  # or it would wait for the answers, and then break off their connections
            await super().shutdown(sockets)

    config = uvicorn.Config(
        service.app(), log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=_GRACE, ws="none"
    )
    return Stopping(config)


def serve_until_stopped(service: Service, at: socket.socket, on_message: Callable[[str], None]) -> None:
    """Serve until Ctrl-C, or until the process is told to end."""
    on_message(f"serving at {url(at)} (Ctrl-C ends it)")
    with suppress(KeyboardInterrupt):  # uvicorn closes everything before it passes the signal on
        server(service).run(sockets=[at])
    on_message("stopped")
