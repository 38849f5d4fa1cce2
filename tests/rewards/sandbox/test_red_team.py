"""Programs that want out, and programs that want a reward for nothing: none gets either, and the next one runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plaudit.rewards.contract import Sample
from plaudit.rewards.sandbox.base import Sandbox
from plaudit.rewards.sandbox.process import ProcessSandbox
from plaudit.rewards.verifiers.code import CodeReward
from tests.rewards.sandbox import attacks

ROOT = Path(__file__).parents[3]
NOBODY = 65534
BOUNDARY = (
    *("network", "reading", "writing", "system calls", "signals to everybody", "fork bomb", "memory in many processes"),
    *(
        "shared memory",
        "many empty files",
        "daemons",
        "kills itself",
        "the frames of the driver",
        "its own memory",
        "every file",
        "forged messages",
    ),
    *("forged messages when called", "forged messages from a child"),
)
"""Attacks to which it may matter who runs the sandbox."""


@pytest.fixture(scope="module")
def reward(bubblewrap: Sandbox) -> Iterator[CodeReward]:
    made = attacks.reward()
    yield made
    made.close()


@pytest.mark.parametrize("name", attacks.ESCAPES)
def test_nothing_gets_out(bubblewrap: Sandbox, name: str) -> None:
    assert attacks.escape_problems(bubblewrap, name) == []


@pytest.mark.parametrize("name", attacks.CHEATS)
def test_nothing_is_rewarded_for_nothing(reward: CodeReward, name: str) -> None:
    assert attacks.cheat_problems(reward, name) == []


def test_the_tests_can_be_passed(reward: CodeReward) -> None:
    for form in ("check", "stdin"):
        (result,) = reward.score([Sample("q", f"```python\n{attacks.HONEST}\n```", attacks.FORMS[form])])
        assert result.value == 1, (form, result)


def test_the_attacks_see_a_machine_that_is_not_hidden() -> None:
    # Only those that do no harm. This is also what `process` says of itself.
    for name in ("network", "reading"):
        assert any("ESCAPED" in problem for problem in attacks.escape_problems(ProcessSandbox(), name)), name


def test_an_ordinary_user_is_as_safe(bubblewrap: Sandbox) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests are run by an ordinary user already")
    interpreter = Path("/usr/bin/python3")
    version = ["-c", "import sys; print(sys.version_info[:2])"]
    if not interpreter.exists() or subprocess.check_output([interpreter, *version]).decode().strip() != str(
        tuple(sys.version_info[:2])
    ):
        pytest.skip("there is no interpreter of this version that an ordinary user can read")
    paths = [str(ROOT / "src"), str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))]
    if not all(os.stat(p).st_mode & 0o005 == 0o005 for path in paths for p in (path, *map(str, Path(path).parents))):
        pytest.skip("an ordinary user cannot read the packages")
    done = subprocess.run(
        [interpreter, "-m", "tests.rewards.sandbox.attacks", *BOUNDARY],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env={"PYTHONPATH": ":".join(paths), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == {}


def test_a_server_in_the_sandbox_cannot_be_reached(bubblewrap: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    source = f"""
import socket
s = socket.create_server(("0.0.0.0", {port}))
s.settimeout(0.6)
try:
    s.accept()
    print("reached")
except TimeoutError:
    print("alone")
"""
    found = []
    running = threading.Thread(target=lambda: found.append(bubblewrap.run(source, limits=attacks.LIMITS)))
    running.start()
    while running.is_alive():
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection(("127.0.0.1", port), 0.05).close()
        running.join(0.05)
    assert found[0].stdout == b"alone\n", found


def test_two_sandboxes_do_not_see_each_other(bubblewrap: Sandbox) -> None:
    source = """
import os, time
open("/tmp/mine", "w").write("x"); open("/dev/shm/mine", "w").write("x")
time.sleep(0.3)
print(sorted(os.listdir("/tmp")), os.listdir("/dev/shm"), sorted(int(p) for p in os.listdir("/proc") if p.isdigit()))
"""
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(bubblewrap.run(source, limits=attacks.LIMITS))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {o.stdout for o in found} == {b"['main.py', 'mine'] ['mine'] [1, 2]\n"}
