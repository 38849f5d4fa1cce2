"""Resolving a configuration: what is accepted, what it becomes, and that everything wrong is said at once."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import plaudit
from plaudit.config.docs import shown_type
from plaudit.config.keys import all_keys
from plaudit.config.load import MEMORY, Resolved, model_name, resolve
from plaudit.errors import ConfigError
from plaudit.methods import find

BASE = ["--model", "some/model", "--data", "some/data:train"]
EVEN = "(it is a whole number or null, ≥ 2, a multiple of 2)"


def problems(*args: Any, **kwargs: Any) -> list[str]:
    """The lines of a PL100."""
    with pytest.raises(ConfigError) as caught:
        resolve(*args, **kwargs)
    assert caught.value.code == "PL100"
    return [line.strip() for line in caught.value.what.splitlines()[1:]]


def dpo(*arguments: str) -> Resolved:
    return resolve("dpo", overrides=[*BASE, *arguments])


def test_the_one_liner() -> None:
    resolved = dpo("--beta", "0.2", "--lora-r", "16", "--bf16", "--lr", "1e-5", "--epochs", "2", "--output-dir", "out")
    run = resolved.run
    assert (run.model.path, run.model.precision) == ("some/model", "bf16")
    assert [s.path for s in run.data.train] == ["some/data:train"]
    assert run.lora is not None
    assert (run.lora.r, run.lora.alpha) == (16, 32.0)
    assert (run.train.learning_rate, run.train.epochs, run.run.dir) == (1e-5, 2.0, "out")
    assert resolved.method_config == find("dpo").Config(beta=0.2)
    assert resolved.defaulted == {"lora.alpha": 32.0}


def test_yaml_flags_and_keywords_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "model: some/model\ndata: some/data:train\nmethod:\n  beta: 0.3\nlora: true\ntrain:\n  learning_rate: 1e-5\n"
        "  betas: [0.8, 0.9]\nrun:\n  reference_cache: off\n"
    )
    by_file = resolve("dpo", [file])
    by_flags = dpo(
        "--beta=0.3", "lora=true", "train.learning_rate=1e-5", "--betas", "[0.8, 0.9]", "--reference-cache", "off"
    )
    by_keywords = resolve(
        "dpo",
        overrides={
            "model": "some/model",
            "data": "some/data:train",
            "beta": 0.3,
            "lora": True,
            "train": {"learning_rate": 1e-5, "betas": (0.8, 0.9)},
            "reference_cache": "off",
        },
    )
    assert by_file.as_dict() == by_flags.as_dict() == by_keywords.as_dict()
    assert by_file.run.train.learning_rate == 1e-5
    assert by_file.run.run.reference_cache == "off"  # YAML 1.1 would read it as false


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--lora", "--warmup-steps", "3", "--lora-target-modules", "q_proj,v_proj", "--eval-fraction", "0.1"),
        ("--lora.path", "adapter", "--no-shuffle", "data.system_prompt=42", "--max-grad-norm", "null"),
    ],
)
def test_the_written_configuration_resolves_to_itself(arguments: tuple[str, ...], tmp_path: Path) -> None:
    first = dpo(*arguments)
    (tmp_path / "config.yaml").write_text(first.as_yaml())
    for method in ("dpo", None):
        again = resolve(method, [tmp_path / "config.yaml"])
        assert again.as_dict() == first.as_dict()
        assert again.run == first.run
        assert not again.defaulted


def test_later_files_and_the_command_line_win(tmp_path: Path) -> None:
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text("model: {path: one, attention: padded}\ndata: x:train\ntrain: {epochs: 2, seed: 1}\n")
    b.write_text("model: two\ntrain: {epochs: 3}\n")
    run = resolve("dpo", overrides=[str(a), "train.epochs=4", str(b)]).run
    assert (run.model.path, run.model.attention) == ("two", "padded")
    assert (run.train.epochs, run.train.seed) == (4.0, 1)


def test_learning_rate_depends_on_method_and_adapter() -> None:
    assert dpo().defaulted["train.learning_rate"] == 1e-6
    assert dpo("--lora").defaulted["train.learning_rate"] == 5e-5
    assert resolve("sft", overrides=[*BASE, "--lora"]).run.train.learning_rate == 2e-4


def test_everything_wrong_at_once(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "model: some/model\n"  # 1
        "method:\n"
        "  bta: 0.2\n"  # 3
        "data:\n"
        "  train:\n"
        "    - a:train\n"
        "    - {path: b:train, wieght: 2}\n"  # 7
        "  overlong: dorp\n"  # 8
        "train:\n"
        "  learnin_rate: 1e-5\n"  # 10
        '  epochs: "3"\n'  # 11
        "  groups_per_step: true\n"  # 12
        "  betas: [0.9]\n"  # 13
        "  weight_decay: -1\n"  # 14
        "  weight_decay: 0\n"  # 15
        "  eps: .inf\n"  # 16
        "beta: 0.3\n"  # 17
        "eval:\n"
        "  every: 10\n"  # 19
        "per_device_train_batch_size: 4\n"  # 20
        "checkpoint: 5\n"  # 21
    )
    found = problems("dpo", overrides=[str(file), "--lora.rank", "3", "train.seed=x"])
    expected = [
        (3, "method.bta  unknown key  (did you mean method.beta?)"),
        (7, "data.train.1.wieght  unknown key  (did you mean weight?)"),
        (8, "data.overlong  expected one of error, drop, truncate_prompt, truncate_completion, got the text 'dorp'"),
        (10, "train.learnin_rate  unknown key  (did you mean train.learning_rate?)"),
        (11, "train.epochs  expected a number or null, got the text '3'"),
        (12, "train.groups_per_step  expected a whole number, got true"),
        (13, "train.betas  expected a list of 2 numbers, got [0.9]"),
        (14, "train.weight_decay  must be greater than or equal to 0, got -1"),
        (15, f"train.weight_decay  duplicate key; first given at {file}:14"),
        (16, "train.eps  must be a finite number"),
        (17, "beta  unknown key  (did you mean method.beta?)"),
        (19, "eval.every  has no effect without held-out data"),
        (20, "per_device_train_batch_size  there is no such key here  (say how many prompts make a step with"),
        (21, "checkpoint  expected a section of `key: value` lines, got 5"),
    ]
    assert len(found) == len(expected) + 2
    for line, (number, text) in zip(found, expected, strict=False):
        assert line.startswith(f"{file}:{number}  {text}")
    assert found[-2].startswith("command line: --lora.rank  unknown option  (did you mean --lora.")
    assert found[-1] == "command line: train.seed=x  train.seed  expected a whole number, got the text 'x'"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epoch", "3"], "unknown option  (did you mean --epochs?)"),
        (["--path", "x"], "the name is not unique  (write --model.path or --lora.path)"),
        (["--every", "5"], "write --eval.every or --checkpoint.every or --log.every"),
        (["--gradient-accumulation-steps", "8"], "train.groups_per_step"),
        (["--fp16"], "use model.precision=bf16"),
        (["--beta"], "method.beta  the flag needs a value"),
        (["--beta", "0.1", "--beta", "0.2"], "given twice; first as --beta 0.1"),
        (["stray"], "neither a configuration file, nor key=value, nor a --flag"),
        (["--no-beta"], "only switches can be negated"),
        (["--gradient-checkpointing=maybe"], "expected true or false, got the text 'maybe'"),
        (["lr=3"], "lr  unknown key  (did you mean train.learning_rate?)"),
        (["num_train_epochs=3"], "unknown key  (did you mean train.epochs?)"),
        (["use_peft=true"], "unknown key  (did you mean lora: true?)"),
        (["--loss-type", "sigmiod"], "did you mean sigmoid? a loss is a method of its own here"),
        (["--config", "c.yaml"], "give the file without a flag"),
        (["--no-lora", "--lora-r", "4"], "lora.r  has no effect beside --no-lora"),
        (["--lora-r", "4", "--lora", "false"], "lora.r  has no effect beside --lora false"),
        (["rows.jsonl"], "did you mean --data rows.jsonl?"),
        (["."], "did you mean --model .?"),
        (["-lr", "1e-5"], "did you mean --lr? options have two dashes"),
        (["--lora-r", "0"], "lora.r  must be greater than 0, got 0"),
        (["missing.yaml"], "the configuration cannot be read: No such file or directory"),
        (["--early-stopping-patience", "2"], "has no effect without held-out data"),
        (["--eval-fraction", "0.1", "--best-metric", "grad_norm"], "grad_norm has no better direction"),
        (["--eval-fraction", "0.1", "--eval-data", "x:test"], "give either eval or eval_fraction, not both"),
        (["--warmup-steps", "3", "--warmup-ratio", "0.5"], "has no effect beside warmup_steps"),
        (["--schedule", "constant", "--min-lr-ratio", "0.1"], "has no effect with a constant schedule"),
        (["--lora.path", "adapter", "--lora-r", "4"], "lora.r  has no effect beside lora.path"),
        (["--project", "mine"], "has no effect without log.sinks"),
        (["--added-tokens", "[<a>, <a>]"], "an entry is given twice"),
        (["--model.revision", "main", "model=."], "given twice"),
        (["method=sft"], "is 'sft', but the command asks for 'dpo'"),
        (["--lora.path", "./no/such/adapter"], "there is no file or folder './no/such/adapter'"),
        (["--data", "no-such-file.jsonl"], "data.train.1.path  there is no file or folder 'no-such-file.jsonl'"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], said: str) -> None:
    assert said in "\n".join(problems("dpo", overrides=[*BASE, *arguments]))


def test_a_wrong_entry_of_a_list_is_one_mistake() -> None:
    found = problems("dpo", overrides=["--model", "m", "data.train=[{path: a:t, wieght: 2}]"])
    assert [line.split("  ")[1:] for line in found] == [
        ["data.train.0.wieght", "unknown key", "(did you mean weight?)"]
    ]


def test_no_source_is_one_mistake() -> None:
    found = problems("dpo", overrides={"model": "m", "data": {"train": []}})
    assert found == ["argument data  data.train  is empty  (name at least one source)"]


def test_what_may_be_in_a_file_that_cannot_be_read_is_not_missed() -> None:
    why = "relative paths count from the working directory"
    said = f"the configuration cannot be read: No such file or directory  ({why})"
    assert problems("dpo", overrides=["gone.yaml"]) == [f"gone.yaml  {said}"]
    assert problems("dpo", [Path("gone.yaml")]) == [f"gone.yaml  {said}"]
    assert problems(None, overrides=["gone.yaml"]) == [f"gone.yaml  {said}"], "the method may be in it, too"


def test_revision_of_a_local_folder_has_no_effect(tmp_path: Path) -> None:
    found = problems("dpo", overrides=["--model", str(tmp_path), "--data", "x:train", "--revision", "main"])
    assert found == ["command line: --revision main  model.revision  has no effect for a model on disk  "
                     "(only hub models have revisions)"]  # fmt: skip


def test_what_is_required_is_named() -> None:
    assert problems("dpo") == [
        "command line  model  is required  (for example --model PATH)",
        "command line  data  is required  (for example --data FILE)",
    ]
    assert problems(None) == ["command line  method.name  is required  (for example --method dpo)"]


def test_keyword_mistakes_name_the_argument() -> None:
    assert problems("dpo", overrides={"model": "m", "data": "d:t", "learning_rat": 1.0, "epochs": "x"}) == [
        "argument learning_rat  unknown option  (did you mean learning_rate?)",
        "argument epochs  train.epochs  expected a number or null, got the text 'x'",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: [unclosed", "not valid YAML"),
        ("just text", "a configuration is made of `key: value` lines"),
        ("train:\n  ? [a]\n  : b\n", "a key must be a plain word"),
        ("model: !foo bar\n", "the tag !foo is not supported"),
    ],
)
def test_broken_yaml(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert said in "\n".join(problems("dpo", [tmp_path / "c.yaml"]))


def test_flags_of_every_form() -> None:
    run = dpo(
        "--gradient-checkpointing", "--no-shuffle", "--data", "b:train", "--train.learning-rate=2e-5",
        "--lora_target_modules", "q_proj", "--model.attention", "padded", "--sinks", "wandb,trackio",
        "--system-prompt", "Be brief, please.", "--max-length", "512",
    ).run  # fmt: skip
    assert run.model.gradient_checkpointing
    assert not run.data.shuffle
    assert [s.path for s in run.data.train] == ["some/data:train", "b:train"]
    assert run.train.learning_rate == 2e-5
    assert run.lora is not None
    assert run.lora.target_modules in ("q_proj", ("q_proj",))
    assert run.log.sinks == ("wandb", "trackio")
    assert run.data.system_prompt == "Be brief, please."
    assert run.data.max_length == 512


def test_objects_in_memory_are_not_read_again(tmp_path: Path) -> None:
    resolved = resolve("dpo", overrides={"model": MEMORY, "data": MEMORY}, objects=True)
    assert resolved.run.run.dir == "runs/dpo-memory"
    (tmp_path / "config.yaml").write_text(resolved.as_yaml())
    assert [p.split("  ")[1] for p in problems("dpo", [tmp_path / "config.yaml"])] == ["model.path", "data.train"]


def test_a_users_own_method(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from plaudit.methods.base import Method, MethodConfig\n\n\n"
        "class MineConfig(MethodConfig):\n    strength: float = 1.5\n    '''How much.'''\n\n\n"
        "class Mine(Method):\n    name = 'mine'\n    title = 'Mine'\n    paper = 'none'\n"
        "    data_kind = 'preference'\n    Config = MineConfig\n"
    )
    resolved = resolve(None, overrides=[*BASE, "--method", str(mine), "--strength", "2"])
    assert resolved.method.name == "mine"
    assert resolved.run.method == {"name": str(mine), "strength": 2.0}
    assert resolved.run.run.dir == "runs/mine-model"
    (tmp_path / "config.yaml").write_text(resolved.as_yaml())
    assert resolve(None, [tmp_path / "config.yaml"]).as_dict() == resolved.as_dict()


def test_a_built_in_methods_file_works_as_a_users_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    text = (Path(plaudit.__file__).parent / "methods" / "dpo.py").read_text(encoding="utf-8")
    mine.write_text(text, encoding="utf-8")
    resolved = resolve(str(mine), overrides=[*BASE, "--beta", "0.3"])
    assert resolved.method_config.model_dump() == find("dpo").Config(beta=0.3).model_dump()


def test_an_unknown_method_names_the_closest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'dpo'") as caught:
        resolve("dpoo", overrides=BASE)
    assert caught.value.code == "PL101"


@pytest.mark.parametrize(
    ("path", "name"),
    [("org/Model-1B", "Model-1B"), ("/a/b/m.gguf", "m"), ("folder/", "folder"), (MEMORY, "memory"), ("..", "..")],
)
def test_model_name(path: str, name: str) -> None:
    assert model_name(path) == name


def test_a_typo_is_reported_at_once_and_without_torch(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: m\ndata: d:train\ntrain: {epoch: 3}\n")
    code = (
        "import sys\nfrom plaudit.cli import main\nsys.argv = ['plaudit', 'dpo', 'c.yaml']\n"
        "try:\n    main()\nfinally:\n    assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    seconds = []
    for _ in range(3):
        start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime  # processor time: other work does not count
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start)
        assert done.returncode == 2, done.stderr
        assert "c.yaml:3  train.epoch  unknown key  (did you mean train.epochs?)" in done.stderr
        assert "Traceback" not in done.stderr
    assert min(seconds) < 1.0


def test_written_yaml_is_plain() -> None:
    assert yaml.safe_load(dpo().as_yaml())["train"]["betas"] == [0.9, 0.999]


def test_columns_of_all_sources() -> None:
    own = "data.eval={path: some/data:test, columns: {prompt: ask}}"
    said = dpo("--column", "prompt=question", "--column", "chosen=best", own).run
    assert [s.columns for s in said.data.train] == [{"prompt": "question", "chosen": "best"}]
    assert [s.columns for s in said.data.eval] == [{"prompt": "ask"}]
    assert dpo("data.columns={prompt: question, chosen: best}", own).run == said
    assert dpo("--column", "prompt=question,chosen=best", own).run == said


def test_columns_that_no_source_takes() -> None:
    [problem] = problems(
        "dpo", overrides=[*BASE[:2], "data.train={path: a/b, columns: {prompt: q}}", "--column", "chosen=x"]
    )
    assert "columns has no effect" in problem
    [problem] = problems("dpo", overrides=[*BASE, "--column", "question"])
    assert "data.columns  expected a map" in problem


@pytest.mark.parametrize(
    ("method", "option", "value", "said"),
    [
        (
            "rso",
            "accepted",
            "3",
            "must be a multiple of 2, got 3  (it is a whole number or null, ≥ 2, a multiple of 2)",
        ),
        (
            "rso",
            "accepted",
            "1",
            "must be a multiple of 2, got 1  (it is a whole number or null, ≥ 2, a multiple of 2)",
        ),
        (
            "rso",
            "accepted",
            "0",
            "must be greater than or equal to 2, got 0  (it is a whole number or null, ≥ 2, a multiple of 2)",
        ),
        ("rso", "refresh_every", "0", "must be greater than 0, got 0"),
        ("fdpo", "alpha", "1", "must be less than 1, got 1  (it is a number or null, > 0, < 1)"),
    ],
)
def test_limits_of_a_number_that_may_be_null_are_said(method: str, option: str, value: str, said: str) -> None:
    given = ["--reward", "math"] if method == "rso" else []
    found = problems(method, overrides=[*BASE, *given, f"method.{option}={value}"])
    assert any(f"method.{option}  {said}" in line for line in found), found


def test_limits_are_part_of_the_type_in_words() -> None:
    assert shown_type(all_keys(find("rso").Config)["method.accepted"]) == "a whole number or null, ≥ 2, a multiple of 2"
    assert shown_type(all_keys(find("fdpo").Config)["method.alpha"]) == "a number or null, > 0, < 1"
    assert shown_type(all_keys(find("kto").Config)["train.tokens_per_microbatch"]).endswith("the word auto, > 0")
