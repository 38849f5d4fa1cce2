"""The command `plaudit` as a program that starts at once: its work is done by a copy of a warm process (warm.py).

`install` writes a program into a folder. It hands its arguments, directory, variables and open files over to a server,
whose copy becomes the command; signals are passed on, and the exit status, or the signal that ended the command, comes
back. What reads variables while it is imported (the hub's cache) sees those of the server.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from plaudit.cli import main
from tests import warm

_POLL = 0.01
"""Seconds between looks at whether a command has ended."""

# A program of its own, which imports nothing of ours: the interpreter alone starts in a few hundredths of a second.
_CLIENT = """\
import json, os, signal, socket, struct, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
told = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda signum, frame: server.sendall(bytes([signum])))
socket.send_fds(server, [struct.pack("!I", len(told))], [0, 1, 2])
server.sendall(told)
(status,) = struct.unpack("!i", server.recv(4, socket.MSG_WAITALL))
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def install(folder: Path, name: str = "plaudit") -> tuple[Path, BaseProcess]:
    """Start the server, and write the program; whoever does ends the server again.

    Returns:
        The program and the server.
    """
    address, client, program = folder / "server", folder / "client.py", folder / name
    client.write_text(_CLIENT, encoding="utf-8")
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{client}" "{address}" "$0" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    # Listening begins here, so that the first command does not come too early.
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(address))
    listening.listen()
    server = warm.start(_serve, listening, os.getpid(), daemon=False)
    listening.close()
    return program, server


def _serve(listening: socket.socket, owner: int) -> None:
    """Fork for every command, until the process that asked for the server is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a handler
    while _exists(owner):
        if select.select([listening], [], [], 1)[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _handle(connection)
            connection.close()


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _handle(client: socket.socket) -> None:
    """Fork once more, and stand between the command and its client: signals one way, the status the other."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, files, _, _ = socket.recv_fds(client, 4, 3)
    arguments, directory, variables = json.loads(client.recv(struct.unpack("!I", size)[0], socket.MSG_WAITALL))
    command = os.fork()
    if command == 0:
        client.close()
        _become(arguments, directory, variables, files)
    for file in files:
        os.close(file)
    while True:
        ended, how = os.waitpid(command, os.WNOHANG)
        if ended:
            client.sendall(struct.pack("!i", os.waitstatus_to_exitcode(how)))
            os._exit(0)
        if select.select([client], [], [], _POLL)[0]:
            signals = client.recv(16)
            for number in signals or [signal.SIGKILL]:  # a client that is gone was killed
                os.kill(command, number)
            if not signals:
                os._exit(0)


def _become(arguments: list[str], directory: str, variables: dict[str, str], files: list[int]) -> None:
    """Run the command as its console script would."""
    for stream, file in enumerate(files):
        os.dup2(file, stream)
        os.close(file)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).parent))
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    sys.stdout = _writer(1, line_buffering=os.isatty(1))
    sys.stderr = _writer(2, line_buffering=True, errors="backslashreplace")
    status: int | str | None = 1
    try:
        main()
        status = 0
    except SystemExit as stop:
        status = stop.code  # type: ignore[assignment]
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    # What an interpreter does at its end.
    if isinstance(status, str):
        sys.stderr.write(status + "\n")
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def _writer(stream: int, **options: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(stream, "w", closefd=False)), "utf-8", **options)
