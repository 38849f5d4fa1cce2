"""The command line, end to end on the tiny model: the commands, their output and their exit status."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plaudit.cli import main
from plaudit.cli.registry import method_titles
from plaudit.methods import available, dpo

SMALL = ["--reference-cache", "off", "--groups-per-step", "4", "--lora-r", "4", "--max-steps", "2", "--lr", "1e-3"]


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def plaudit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs a command in this process, in a temporary directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["plaudit", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return Ended(status, out, err)

    return run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A finished DPO run, made by the real command."""
    folder = tmp_path_factory.mktemp("cli")
    pairs = folder / "pairs.jsonl"
    rows = [{"prompt": f"Thing {i}?", "chosen": "It is blue.", "rejected": "No."} for i in range(8)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ["dpo", "--model", str(tiny_model_dir), "--data", str(pairs), *SMALL, "--output-dir", "run"]
    done = subprocess.run(
        [sys.executable, "-c", "from plaudit.cli import main; main()", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"run directory: {folder / 'run'}" in done.stdout
    assert "train.learning_rate" not in done.stdout  # it was given
    assert "lora.alpha is not given: 8.0 is used" in done.stdout
    return folder / "run"


def test_the_run_directory_is_complete(run_dir: Path) -> None:
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "ledger.jsonl", "report.html", "COMPLETE"):
        assert (run_dir / name).is_file(), name
    assert (run_dir / "model" / "adapter_config.json").is_file()


def test_the_written_configuration_reproduces_the_run(plaudit: Any, run_dir: Path) -> None:
    shown = plaudit("config", "show", "dpo", run_dir / "config.yaml")
    assert shown.out == (run_dir / "config.yaml").read_text(encoding="utf-8")


def test_generate_from_a_run_its_adapter_and_a_model(plaudit: Any, run_dir: Path, tiny_model_dir: Path) -> None:
    options = ["-p", "Which colour?", "-n", "2", "--max-new-tokens", "4", "--seed", "3"]
    by_run = plaudit("generate", run_dir, *options).rows
    assert [(r["row"], r["sample"], r["prompt"]) for r in by_run] == [(0, 0, "Which colour?"), (0, 1, "Which colour?")]
    assert all(r["tokens"] <= 4 and r["logprob"] < 0 and r["finish_reason"] in ("stop", "length") for r in by_run)
    assert plaudit("generate", run_dir / "model", *options).rows == by_run
    assert plaudit("generate", tiny_model_dir, *options).rows != by_run


def test_generate_reads_files_and_lines(plaudit: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"messages": [{"role": "user", "content": "two"}]}\n')
    few = ["--max-new-tokens", "2", "--temperature", "0"]
    (tmp_path / "texts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    done = plaudit("generate", tiny_model_dir, "texts.jsonl", "-o", "out.jsonl", *few)
    assert (done.status, done.out) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["prompt"] for r in rows] == ["one", "two"]
    assert all(r["logprob"] is None for r in rows)
    lines = plaudit("generate", tiny_model_dir, "-", "--raw", *few, stdin="one\n\ntwo\n").rows
    assert [r["completion"] for r in lines] == [r["completion"] for r in rows]


def test_chat_keeps_the_conversation(plaudit: Any, run_dir: Path) -> None:
    turns = "hello\n/system Be brief.\nhello\n/what\n/reset\nhello\n/exit\nnot reached\n"
    done = plaudit("chat", run_dir, "--max-new-tokens", "8", "--temperature", "1", stdin=turns)
    assert done.status == 0
    assert ">" not in done.out.splitlines()[0][:1]  # a pipe gets the answers and no prompt
    before, help_line, after = done.out.partition("/exit leaves, /reset forgets the conversation")
    assert help_line  # for /what, which is no command
    answer_again = after.partition("\n")[2]
    assert answer_again.strip()
    assert before.endswith(answer_again)  # /reset forgets the turns, not the system prompt


def test_help_of_a_users_own_method_lists_its_options(plaudit: Any, tmp_path: Path) -> None:
    own = (Path(dpo.__file__)).read_text(encoding="utf-8").replace("beta: Annotated", "strictness: Annotated")
    (tmp_path / "own.py").write_text(own, encoding="utf-8")
    assert "--strictness" in plaudit("train", "--method", "own.py", "--help").out
    assert "--strictness" in plaudit("methods", "own.py").out


def test_config_show_finds_the_method_in_the_file(plaudit: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: m\ndata: d:t\nmethod: {name: dpo, beta: 0.3}\n")
    assert plaudit("config", "show", "c.yaml").out == plaudit("config", "show", "dpo", "c.yaml").out
    assert "beta: 0.3" in plaudit("config", "show", "c.yaml").out


def test_an_output_that_cannot_be_written_is_found_before_the_model_is_loaded(plaudit: Any, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    done = plaudit("generate", "no-such-model", "-p", "hi", "-o", "nowhere/out.jsonl")
    assert (done.status, "[PL102] the file cannot be written: No such file or directory" in done.err) == (2, True)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "no-such-model"}')
    done = plaudit("merge", "adapter", "a-file/merged")
    assert (done.status, "[PL102] the output folder cannot be made: Not a directory" in done.err) == (2, True)


def test_a_directory_without_a_run_has_no_report(plaudit: Any, tmp_path: Path) -> None:
    for name, what in ((".", "the directory holds no run"), ("gone", "there is no such run directory")):
        done = plaudit("report", name)
        assert (done.status, f"[PL501] {what}" in done.err) == (2, True)


def test_merge_computes_the_same(plaudit: Any, run_dir: Path, tmp_path: Path) -> None:
    done = plaudit("merge", run_dir, "merged")
    assert done.status == 0
    assert "float32; logits differ by" in done.out
    options = ["-p", "Which colour?", "--max-new-tokens", "4", "--temperature", "0"]
    assert plaudit("generate", "merged", *options).rows == plaudit("generate", run_dir, *options).rows
    again = plaudit("merge", run_dir, "merged")
    assert (again.status, "[PL102] the output folder is not empty" in again.err) == (2, True)
    nothing = plaudit("merge", "merged", "other")
    assert (nothing.status, "[PL306] there is no adapter to merge" in nothing.err) == (2, True)


def test_report_is_written_again(plaudit: Any, run_dir: Path) -> None:
    (run_dir / "report.html").unlink()
    assert plaudit("report", run_dir).out.strip() == str(run_dir / "report.html")
    assert (run_dir / "report.html").is_file()


def test_methods_lists_and_explains(plaudit: Any) -> None:
    listed = plaudit("methods").out
    assert all(name in listed for name in available())
    explained = plaudit("methods", "dpo").out
    assert "arXiv 2305.18290" in explained
    assert "--beta = 0.1" in explained
    assert "--groups-per-step" not in explained
    unknown = plaudit("methods", "dpoo")
    assert (unknown.status, "did you mean 'dpo'?" in unknown.err) == (2, True)


def test_every_method_has_a_command_with_its_options(plaudit: Any) -> None:
    assert method_titles() == {name: method.title for name, method in available().items()}
    top = plaudit("--help").out
    for name, method in available().items():
        assert f"{method.title}." in top
        shown = plaudit(name, "--help").out
        assert "--groups-per-step = 32" in shown
        assert all(f"--{option.replace('_', '-')}" in shown for option in method.Config.model_fields)
    assert "--method NAME" in plaudit("train").out


def test_schema_describes_the_configuration(plaudit: Any) -> None:
    schema = json.loads(plaudit("config", "schema", "dpo").out)
    assert schema["$defs"]["Method"]["properties"]["beta"]["exclusiveMinimum"] == 0
    assert schema["$defs"]["TrainConfig"]["properties"]["epochs"]["description"].startswith("Passes")
    assert {"const": "dpo"} in schema["properties"]["method"]["anyOf"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dpo", "--model", "m", "--data", "d:t", "--bta", "1"], "did you mean --beta?"),
        (["train", "--model", "m", "--data", "d:t"], "method.name  is required"),
        (["generate", "m"], "[PL102] give prompts, or a file of prompts"),
        (["generate", "m", "-p", "x", "--precision", "fp8"], "[PL102] precision 'fp8' is not known"),
        (["generate", "m", "-p", "x", "--top-p", "2"], "top_p"),
        (["report", "nowhere"], "[PL5"),
        (["nonsense"], "No such command"),
    ],
)
def test_mistakes_end_with_2_and_no_traceback(plaudit: Any, arguments: list[str], said: str) -> None:
    done = plaudit(*arguments)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_debug_shows_the_traceback(plaudit: Any) -> None:
    from plaudit.errors import ConfigError

    with pytest.raises(ConfigError):
        plaudit("dpo", "--debug", "--bta", "1")


def test_version(plaudit: Any) -> None:
    assert plaudit("--version").out.strip() == "0.1.0"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_resume(
    number: signal.Signals, status: int, tiny_model_dir: Path, preference_file: Path, tmp_path: Path
) -> None:
    command = ["dpo", "--model", str(tiny_model_dir), "--data", str(preference_file), "--epochs", "100000", *SMALL[:-4]]
    code = "import sys; sys.argv[0] = 'plaudit'; from plaudit.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    metrics = tmp_path / "runs" / "dpo-tiny-llama" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "resume with:\n  plaudit dpo --model" in err
    assert list((metrics.parent / "checkpoints").glob("step-*"))


def test_ctrl_c_outside_training_ends_with_130(tiny_model_dir: Path, tmp_path: Path) -> None:
    code = "from plaudit.cli import main; main()"
    keyboard, terminal = pty.openpty()  # a person at a terminal is greeted; a pipe is not
    process = subprocess.Popen(
        [sys.executable, "-c", code, "chat", str(tiny_model_dir)],
        cwd=tmp_path,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("/exit")  # it now waits for a line
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    os.close(keyboard)
    os.close(terminal)
    assert process.returncode == 130
    assert "Traceback" not in err
