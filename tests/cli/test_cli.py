"""The command line, end to end on the tiny model: the commands, their output and their exit status."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plaudit.cli.registry import families, listed
from plaudit.config.about import SECTIONS, about
from plaudit.methods import available, dpo
from plaudit.runs.ledger import last_event
from plaudit.runs.rundir import RunDir
from tests.conftest import Ended

SMALL = ["--reference-cache", "off", "--groups-per-step", "4", "--lora-r", "4", "--max-steps", "2", "--lr", "1e-3"]


@pytest.fixture
def plaudit(
    call_plaudit: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ended]:
    """`call_plaudit` in a temporary directory."""
    monkeypatch.chdir(tmp_path)
    return call_plaudit


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
    lines = plaudit("generate", tiny_model_dir, "-", "-o", "-", "--raw", *few, stdin="one\n\ntwo\n").rows
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


def test_chat_answers_again_and_side_by_side(plaudit: Any, run_dir: Path, tiny_model_dir: Path) -> None:
    few = ["--max-new-tokens", "8", "--temperature", "1"]
    alone = plaudit("chat", run_dir, *few, stdin="/regenerate\nhello\n/regenerate\nmore\n")
    assert alone.status == 0
    nothing, first, second, more = alone.out.splitlines()
    assert nothing == "(nothing was said yet)"
    assert first != second
    # The conversation goes on from the second answer, as if it had been the first.
    again = plaudit("chat", run_dir, *few, stdin="hello\n/regenerate\nmore\n").out.splitlines()
    assert again == [first, second, more]
    both = plaudit("chat", run_dir, "--against", tiny_model_dir, *few, stdin="hello\n").out.splitlines()
    assert both[0] == f"[{run_dir}]"
    assert both[1] == first
    assert both[2] == f"[{tiny_model_dir}]"
    assert both[3] == plaudit("chat", tiny_model_dir, *few, stdin="hello\n").out.splitlines()[0] != first


def test_chat_with_the_same_model_twice(plaudit: Any, tiny_model_dir: Path) -> None:
    few = ["--max-new-tokens", "8", "--temperature", "1"]
    found = plaudit("chat", tiny_model_dir, "--against", tiny_model_dir, *few, stdin="hello\n").out.splitlines()
    assert found[:2] == found[2:] == [f"[{tiny_model_dir}]", found[1]]


def test_a_conversation_may_grow_to_the_models_positions_and_goes_on_after_that(plaudit: Any, run_dir: Path) -> None:
    """256 positions: an answer gets what is left, a turn that does not fit is taken back, and nobody is thrown out."""
    turns = f"hello\n{'long ' * 300}\n/regenerate\n/reset\nhello\n"
    done = plaudit("chat", run_dir, "--max-new-tokens", "9999", "--temperature", "1", stdin=turns)
    assert done.status == 0
    assert done.err.count("[PL602] the conversation has") == 1
    assert done.err.count("(the turn is taken back)") == 1
    short = plaudit("chat", run_dir, "--max-new-tokens", "9999", "--temperature", "1", stdin="hello\n")
    assert done.out.startswith(short.out)
    assert done.out.rstrip().endswith(short.out.rstrip())


def test_what_stops_one_answer_takes_the_turn_back_from_both(capsys: pytest.CaptureFixture[str]) -> None:
    from plaudit.cli.chat import _tell

    class Talk:
        cut = False

        def __init__(self) -> None:
            self.messages = ["before"]

    def turn(talk: Talk, emit: Any) -> str:
        emit(" some")
        if talk is second:
            raise KeyboardInterrupt
        talk.messages = [*talk.messages, "new"]
        return "some"

    first, second = Talk(), Talk()
    _tell(["a", "b"], [first, second], turn)  # type: ignore[arg-type, list-item]
    assert first.messages == second.messages == ["before"]
    out, err = capsys.readouterr()
    assert out.splitlines() == ["[a]", "some", "[b]", "some"]
    assert err.split("\n")[1:3] == ["stopped", "(the turn is taken back)"]


def test_options_that_contradict_each_other_are_named(plaudit: Any) -> None:
    done = plaudit("generate", "m", "-p", "x", "--min-new-tokens", "9", "--max-new-tokens", "3")
    assert (done.status, "[PL102]" in done.err, "min_new_tokens 9 exceeds max_new_tokens 3" in done.err) == (
        2,
        True,
        True,
    )
    done = plaudit("chat", "m", "--min-p", "2")
    assert (done.status, "min_p" in done.err) == (2, True)


def test_help_of_a_users_own_method_lists_its_options(plaudit: Any, tmp_path: Path) -> None:
    own = (
        (Path(dpo.__file__)).read_text(encoding="utf-8").replace("label_smoothing: Annotated", "strictness: Annotated")
    )
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
    (tmp_path / "runs" / "dpo").mkdir(parents=True)
    assert "did you mean runs/dpo?" in plaudit("runs", "show", "dpo").err


def test_a_path_without_a_command_is_told_which(plaudit: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    assert "a command comes before the path: plaudit init rows.jsonl; " in plaudit("rows.jsonl").err
    assert "plaudit evaluate reward rows.jsonl, " in plaudit("evaluate", "rows.jsonl").err
    assert "a command comes before" not in plaudit("evaluate", "gone.jsonl").err


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("reward", "plaudit evaluate reward run HELD_OUT"),
        ("ppo", "plaudit evaluate frontier run --data PROMPTS.jsonl --gold REWARD`, or --from-log"),
        ("sft", "`plaudit runs show run`; its answers are scored with `plaudit evaluate frontier run "),
        ("own.py", "`plaudit runs show run`"),
    ],
)
def test_a_run_is_told_which_evaluation_suits_it(plaudit: Any, tmp_path: Path, method: str, told: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(f"method: {{name: {method}}}\n")
    done = plaudit("evaluate", "run")
    assert done.status == 2
    assert f"[PL102] a {method} run trains a " in done.err
    assert told in done.err


def test_ctrl_c_says_a_line(plaudit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("plaudit.api.list_runs", stop)
    assert plaudit("runs", "list") == (130, "", "interrupted\n")


def test_ctrl_c_before_the_first_step_says_how_to_go_on(
    plaudit: Any, tiny_model_dir: Path, preference_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("plaudit.preflight.run.before_training", stop)
    given = ("dpo", "--model", tiny_model_dir, "--data", preference_file, "run.dir=r")
    done = plaudit(*given)
    assert done.status == 130
    assert done.err.splitlines()[-2:] == ["interrupted; resume with:", f"  plaudit {' '.join(map(str, given))}"]
    assert last_event(Path("r") / "ledger.jsonl")["event"] == "interrupted"


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


def test_a_report_knows_the_metrics_of_the_methods(tmp_path: Path) -> None:
    """In a process of its own, in which nothing has been trained; a method's file of the user's own is not run."""
    (tmp_path / "own.py").write_text("raise SystemExit('was run')\n", encoding="utf-8")
    with RunDir.open(tmp_path / "run", "resume", {"method": {"name": str(tmp_path / "own.py")}}) as run:
        run.log_metrics(1, {"value/return": 1.0, "labels/desirable": 0.5, "reward": 1.0})
    command = [sys.executable, "-m", "plaudit", "report", str(run.path)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Mean return that the critic learns" in page
    assert "Share of desirable answers in a step" in page
    assert "defined by the method" not in page


def test_report_is_written_again(plaudit: Any, run_dir: Path) -> None:
    (run_dir / "report.html").unlink()
    assert plaudit("report", run_dir).out.strip() == str(run_dir / "report.html")
    assert (run_dir / "report.html").is_file()


def test_methods_lists_all_by_family(plaudit: Any) -> None:
    rows = [line for line in plaudit("methods").out.splitlines() if line[:2].strip() or line[2:3].strip()]
    place = {row.split()[0]: i for i, row in enumerate(rows)}
    for name, method in available().items():
        row = rows[place[name]]
        assert method.data_kind in row
        assert "policy" in row or "reward" in row
        assert row.startswith("  ") == (method.variant_of is not None)
        if method.variant_of is not None:
            between = rows[place[method.variant_of] + 1 : place[name]]
            assert all(r.startswith("  ") for r in between), f"{name} is not listed below {method.variant_of}"


def has_flag(text: str, option: str) -> bool:
    """An option is shown by its last name, or with its section where another section has the name too."""
    kebab = option.replace("_", "-")
    return f"--{kebab} = " in text or f"--method.{kebab} = " in text


@pytest.mark.parametrize("name", list(available()))
def test_methods_explains_one(plaudit: Any, name: str) -> None:
    explained = " ".join(plaudit("methods", name).out.split())
    method = available()[name]
    assert method.paper in explained
    for section in SECTIONS:
        assert all(" ".join(p.split()) in explained for p in about(method).sections[section])
    assert all(" ".join(ours.split()) in explained for ours in method.elsewhere.values())
    assert all(has_flag(explained, option) for option in method.Config.model_fields)
    assert "--groups-per-step" not in explained


def test_an_unknown_method_is_not_explained(plaudit: Any) -> None:
    unknown = plaudit("methods", "dpoo")
    assert (unknown.status, "did you mean 'dpo'?" in unknown.err) == (2, True)
    tried = plaudit("methods", "wpo")
    assert (tried.status, "use `plaudit dpo --weighting wpo`" in tried.err) == (2, True)


def test_the_names_read_from_the_files_are_those_of_the_registry() -> None:
    methods = available()
    assert {n: (m.title, m.variant_of) for n, m in listed().items()} == {
        n: (m.title, m.variant_of) for n, m in methods.items()
    }
    heads = {name for name, method in methods.items() if method.variant_of is None}
    assert set(families()) == heads, "variant_of names a method that is no variant itself"
    assert sorted([*families(), *(v for variants in families().values() for v in variants)]) == list(methods)


def test_the_help_is_short_and_names_every_family(plaudit: Any) -> None:
    top = plaudit("--help").out
    methods, commands = top.split("\nMethods:\n")[1].split("\nCommands:\n")
    for name, variants in families().items():
        assert f"  {name} " in methods
        assert f"{available()[name].title}" in " ".join(methods.split())
        assert all(f"  {variant} " not in top for variant in variants)
    assert f"lists all {len(available())};" in methods
    assert {"train", "generate", "methods", "config"} <= {line.split()[0] for line in commands.splitlines() if line}
    assert "  More: completion convert harden merge migrate report reward-model sandbox\n" in top
    assert len(top.splitlines()) <= 45
    assert "..." not in methods + commands, "no description is cut"


def test_every_method_has_a_command_with_its_options(plaudit: Any) -> None:
    for name, method in available().items():
        shown = plaudit(name, "--help").out
        assert "--groups-per-step = 32" in shown
        assert all(has_flag(shown, option) for option in method.Config.model_fields)
    assert "--method NAME" in plaudit("train").out


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("wpo", "use `plaudit dpo --weighting wpo`"),
        ("ld_dpo", "use `plaudit dpo --ld-alpha 0.5`"),
        ("cdpo", "use `plaudit dpo --label-smoothing 0.1`"),
        ("rm", "use `plaudit reward`"),
        ("reward_modeling", "use `plaudit reward`"),
        ("orpo-trainer", "use `plaudit orpo`"),
        ("kto_pair", "use `plaudit kto`"),
        ("xpo", "it is not offered"),
    ],
)
def test_names_of_other_tools_as_commands(plaudit: Any, name: str, instead: str) -> None:
    done = plaudit(name, "--model", "m", "--data", "d:t")
    assert done.status == 2
    assert f"[PL101] there is no method {name!r}" in done.err
    assert instead in done.err


def test_a_command_imports_its_own_method_only() -> None:
    code = (
        "import sys\nfrom plaudit.cli import main\nsys.argv = ['plaudit', 'ipo', '--help']\n"
        "try:\n    main()\nfinally:\n    print(*(m for m in sys.modules if m.startswith('plaudit.methods.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert "plaudit.methods.ipo" in imported
    assert not {f"plaudit.methods.{name}" for name in available() if name != "ipo"} & imported


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dpo", "--model", "m", "--data", "d:t", "--bta", "1"], "did you mean --beta?"),
        (["dpo", "--model", "m", "--data", "d:t", "--loss-type", "hinge"], "use `plaudit hinge`"),
        (["dpo", "--model", "m", "--data", "d:t", "--loss_type", "sigmoid", "sft"], "use `plaudit dpo --nll-weight 1"),
        (["ipo", "--model", "m", "--data", "d:t", "--beta", "0.1"], "method.tau"),
        (["orpo", "--model", "m", "--data", "d:t", "--beta", "0.1"], "λ"),
        (["ipoo"], "did you mean 'ipo'"),
        (["train", "--model", "m", "--data", "d:t"], "method.name  is required"),
        (["generate", "m"], "[PL102] give prompts, or a file of prompts"),
        (["generate", "m", "-p", "x", "--precision", "fp8"], "[PL102] precision 'fp8' is not known"),
        (["generate", "m", "-p", "x", "--top-p", "2"], "top_p"),
        (["generate", __file__, "-p", "x"], "[PL301] this is a file, and not a model"),
        (["serve", __file__, "--port", "0"], "[PL301] this is a file, and not a model"),
        (["serve", "m", "--host", "no.such.host.invalid"], "[PL102] the address cannot be used"),
        (["serve", "m", "--prot", "1"], "No such option: --prot"),
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
    script = Path(sys.executable).with_name("plaudit")  # as it is installed
    assert subprocess.check_output([script, "--version"], text=True).strip() == "0.1.0"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_resume(
    number: signal.Signals,
    status: int,
    tiny_model_dir: Path,
    preference_file: Path,
    tmp_path: Path,
    warm_plaudit: Path,
) -> None:
    command = ["dpo", "--model", str(tiny_model_dir), "--data", str(preference_file), "--epochs", "100000", *SMALL[:-4]]
    process = subprocess.Popen(
        [warm_plaudit, *command],
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


def test_ctrl_c_outside_training_ends_with_130(tiny_model_dir: Path, tmp_path: Path, warm_plaudit: Path) -> None:
    keyboard, terminal = pty.openpty()  # a person at a terminal is greeted; a pipe is not
    process = subprocess.Popen(
        [warm_plaudit, "chat", str(tiny_model_dir)],
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


@pytest.mark.parametrize("command", ["methods", "methods ppo", "rewards", "config schema", "dpo --help"])
def test_a_reader_that_has_gone_is_no_failure(command: str, tmp_path: Path, warm_plaudit: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does, sooner or later
    try:
        ended = subprocess.run(
            [warm_plaudit, *command.split()], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")
