"""The probe in a process of its own.

Some rewards run what answers say. The hacks that they fall for leave the process, and the probe would leave with it,
having said nothing: exit code 0. Others never come back. Here both are what they are: hacks that work.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from plaudit.errors import PlauditError, RewardError
from plaudit.rewards.probe.run import SET_UP, Check, Probed, probe_reward
from plaudit.rewards.probe.suite import FAMILIES
from plaudit.rewards.workers import environment

_START = 120.0
"""Seconds that the process may take to start and to set up the reward, at least."""


@dataclass(frozen=True, slots=True)
class _Said:
    """The last word of a probe.

    Attributes:
        next: what it was about to do; empty where it has done everything.
        found: what it had found before.
        why: how it ended, where it has not come to its end.
    """

    next: str = SET_UP
    found: Probed | None = None
    why: str = ""


def probe_apart(spec: str, *, against: str | None = None, column: str | None = None, seconds: float = 300.0) -> Probed:
    """`probe_reward`, where an answer that ends the process, or is not scored in time, is a hack that is rewarded.

    Args:
        spec, against, column: as there.
        seconds: time on the clock for one step: an answer, or the answers to a problem together.

    Raises:
        PlauditError: as there; RewardError: PL705, the reward ends the process before it is asked anything.
    """
    fatal: dict[str, str] = {}
    while True:
        said = _run({"spec": spec, "against": against, "column": column, "skip": sorted(fatal)}, seconds)
        if said.found is None or (said.why and said.next == SET_UP):
            mend = "let it be imported and set up without ending the process"
            raise RewardError("PL705", f"the reward cannot be probed: {said.why}", where=spec, mend=mend)
        answers = {n for p in FAMILIES[said.found.family] for n in (*p.right, *p.hacks)}
        if said.why and said.next in answers - set(fatal):  # the others are tried without it
            fatal[said.next] = said.why
            continue
        names = {**fatal, **({said.next: said.why} if said.why else {})}
        checks = [Check("hack", name, "bad", None, why) for name, why in names.items()]
        return replace(said.found, checks=[*checks, *said.found.checks])


def _run(given: dict[str, Any], seconds: float) -> _Said:
    """One probe, as far as it comes."""
    reading, writing = os.pipe()
    command = [sys.executable, "-P", "-m", __name__, str(writing), json.dumps(given | {"path": sys.path})]
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[writing], env=environment(), start_new_session=True
            )
        finally:
            os.close(writing)
        try:
            return _listen(pipe, process, seconds)
        finally:
            _end(process)


def _listen(pipe: Any, process: subprocess.Popen[bytes], seconds: float) -> _Said:
    said, rest, until = _Said(), b"", time.monotonic() + max(seconds, _START)
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return replace(said, why=f"was not scored within {seconds:g} s")
        part = pipe.read(1 << 16)
        if not part:
            return replace(said, why=f"ended the process that scores it ({_status(process)})")
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            until = time.monotonic() + seconds
            message = json.loads(line)
            if "error" in message:
                code, *what = message["error"]
                kind = next((k for k in PlauditError.__subclasses__() if code.startswith(k.family)), PlauditError)
                raise kind._of(code, *what)
            checks = [Check(**check) for check in message["checks"]]
            said = _Said(message["next"], Probed(message["reward"], message["family"], checks))
        if not said.next:
            return said


def _status(process: subprocess.Popen[bytes]) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    code = process.returncode
    return "it closed the pipe" if code is None else f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what answers have started too
    process.wait()


def main() -> None:
    """The process apart: a message before each step."""
    pipe, given = int(sys.argv[1]), json.loads(sys.argv[2])
    os.set_inheritable(pipe, False)
    sys.path[:] = given["path"]

    def tell(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(pipe, data) :]

    def on_next(what: str, found: Probed) -> None:
        tell({"next": what, **asdict(found)})

    try:
        found = probe_reward(
            given["spec"], against=given["against"], column=given["column"], skip=given["skip"], on_next=on_next
        )
    except PlauditError as error:
        tell({"error": [error.code, error.what, error.where, error.mend]})
    else:
        on_next("", found)
    os._exit(0)  # whatever threads answers have started


if __name__ == "__main__":
    main()
