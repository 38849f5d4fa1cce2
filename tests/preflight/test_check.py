"""`plaudit check`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import plaudit as package
from plaudit.config import packages
from plaudit.errors import PlauditError, TrainingError
from plaudit.inference.sampling import PolicyAnswers
from plaudit.preflight import environment, resources, rows, settings
from plaudit.preflight.findings import TOPICS, Checked, Finding
from plaudit.runs import checkpoints, sinks
from plaudit.train import rehearsal, session, token_budget
from plaudit.train.token_choice import MARGIN, Bounds, DoesNotFit, Measurement, fits
from plaudit.train.work import Amount
from tests.conftest import CHATML, Ended, write_jsonl, write_tiny_model
from tests.preflight.checks import HELD_OUT, MIB, PAIRS, RUN, check, one, verdicts


class TestAll:
    def test_a_run_that_is_well(self, place: Path) -> None:
        before = {p.name for p in place.iterdir()}
        found = check(epochs=2, **HELD_OUT)
        assert verdicts(found) == {topic: "OK" for topic in TOPICS if topic != "reward"}
        assert [f.topic for f in found.findings] == sorted((f.topic for f in found.findings), key=TOPICS.index)
        assert found.skipped == ()
        assert found.exit_status(strict=True) == 0
        assert {p.name for p in place.iterdir()} == before, "nothing is written"
        assert found.plan["run directory"] == str(place / "runs" / "dpo-tiny-model")
        assert one(found, "end of answers", "OK").text == "the end is trained in all of 38 answers looked at"
        assert one(found, "held-out data", "OK").text == "5 groups, none of them trained on"

    def test_for_people(self, place: Path, call_plaudit: Callable[..., Ended]) -> None:
        ended = call_plaudit(
            "check", "dpo", "--model", "tiny-model", "--data", "pairs.jsonl", "--groups-per-step", 2, "--lr", "1e-6"
        )
        assert (ended.status, ended.err) == (0, "")
        assert ended.out.endswith("\n13 OK, 1 WARN, 0 FAIL\n")
        lines = ended.out.splitlines()
        assert any(line.startswith("WARN  held-out data         there is none") for line in lines)
        assert any(line.strip().startswith("→ data.eval=FILE, or data.eval_fraction=") for line in lines)
        (packed,) = [line for line in lines if line.startswith("  completions (sequences)")]
        assert packed.split()[2:] == ["4", "a", "step", "48", "an", "epoch", "48", "in", "all"]

    def test_for_programs(self, place: Path, call_plaudit: Callable[..., Ended]) -> None:
        arguments = ["check", "dpo", "--model", "tiny-model", "--data", "pairs.jsonl", "--groups-per-step", 2, "--json"]
        ended = call_plaudit(*arguments, "--strict")
        told = json.loads(ended.out)
        assert ended.status == 1
        assert told["verdict"] == "WARN"
        assert told["counts"]["WARN"] == 1
        assert {f["topic"] for f in told["findings"] if f["verdict"] == "WARN"} == {"held-out data"}
        assert call_plaudit(*arguments).status == 0

    def test_what_a_reward_prints_is_not_in_the_report(self, place: Path, call_plaudit: Callable[..., Ended]) -> None:
        write_jsonl(place / "prompts.jsonl", [{"prompt": row["prompt"]} for row in PAIRS])
        (place / "own.py").write_text(
            "def loud(completions, **columns):\n    print('NOISE')\n    return [0.0 for _ in completions]\n"
        )
        options = ["--reward", "own.py:loud", "--max-new-tokens", "4", "--max-steps", "1", "--detach"]
        given = ["grpo", "--model", "tiny-model", "--data", "prompts.jsonl", "data.eval_fraction=0.2", *options]
        ended = call_plaudit("check", *given, "--json")
        told = json.loads(ended.out)
        assert "NOISE" in ended.err
        assert told["skipped"] == []
        assert told["plan"]["rewards"] == "loud"
        assert told["plan"]["optimiser steps"].endswith("1 in all")
        assert "rollout batch" in told["plan"]

    def test_rewards_are_tried(self, place: Path) -> None:
        write_jsonl(place / "prompts.jsonl", [{"prompt": row["prompt"], "answer": "7"} for row in PAIRS])
        (place / "own_of_test_check.py").write_text("def down(completion):\n    raise OSError('no network')\n")

        def tried(*rewards: Any) -> Checked:
            return check("grpo", data="prompts.jsonl", rewards=list(rewards), max_new_tokens=4, max_steps=1)

        assert one(tried("math"), "reward", "OK").text == "it works on the first 2 rows"
        missing = one(tried({"kind": "model", "path": "no/such"}), "reward", "FAIL")
        assert missing.code == "PL301"
        bad = one(tried("code"), "reward", "FAIL")
        assert (bad.code, bad.text.startswith("it fails on each of the first 2 rows")) == ("PL706", True)
        assert "no network" in one(tried("own_of_test_check.py:down"), "reward", "WARN").text

    def test_the_cache_of_reference_scores_is_left_alone(self, place: Path) -> None:
        assert check(run={"reference_cache": "cache"}, **HELD_OUT).exit_status() == 0
        assert not (place / "cache").exists()

    def test_a_file_of_the_configuration_is_enough(self, place: Path, call_plaudit: Callable[..., Ended]) -> None:
        (place / "c.yaml").write_text(
            "method: {name: sft}\nmodel: {path: tiny-model}\ndata: {train: pairs.jsonl}\n", encoding="utf-8"
        )
        ended = call_plaudit("check", "c.yaml")
        assert ended.status == 2
        assert "FAIL  data" in ended.out
        assert "[PL203]" in ended.out, "pairs are no demonstrations"

    def test_without_arguments_there_is_help(self, call_plaudit: Callable[..., Ended]) -> None:
        ended = call_plaudit("check")
        assert ended.status == 2
        assert "Look at a run before it is started" in ended.out


class TestWhatFails:
    """Each is what training raises, and says what could not be looked at."""

    def test_a_typo(self, place: Path) -> None:
        found = check(epoch=2)
        finding = one(found, "configuration", "FAIL")
        assert finding.code == "PL100"
        assert "epoch" in finding.text
        assert set(found.skipped) == set(TOPICS) - {"configuration"}

    def test_rows_are_refused_before_weights_are_read(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "load_model", lambda *a, **k: pytest.fail("the weights were loaded"))
        write_jsonl(place / "bad.jsonl", [*PAIRS, {"prompt": "Which?", "chosen": "A", "rejected": "A"}])
        found = check(data="bad.jsonl")
        finding = one(found, "data", "FAIL")
        assert finding.code == "PL204"
        assert "1 of 25 rows cannot be used" in finding.text
        assert {"memory", "evaluation", "model"} <= set(found.skipped)
        assert found.exit_status() == 2
        with pytest.raises(PlauditError, match="PL204"):
            package.train("dpo", model="tiny-model", data="bad.jsonl", observers=())

    def test_the_run_directory(self, place: Path) -> None:
        run = {"model": "tiny-model", "data": "pairs.jsonl", **RUN, "max_steps": 2, "epochs": None}
        package.train("dpo", **run, run={"dir": "r"}, observers=())
        found = check(run={"dir": "r"}, max_steps=2, epochs=None)
        assert "the same command computes nothing" in one(found, "run directory", "WARN").text
        (place / "r" / "COMPLETE").unlink()
        found = check(run={"dir": "r"}, max_steps=2, epochs=None)
        assert "goes on with" in one(found, "run directory", "OK").text
        other = one(check(run={"dir": "r"}, max_steps=2, epochs=None, beta=0.3), "run directory", "FAIL")
        assert other.code == "PL502"
        assert one(check(run={"dir": "r", "if_exists": "fail"}), "run directory", "FAIL").code == "PL501"
        assert "is new" in one(check(run={"dir": "r", "if_exists": "new"}), "run directory", "OK").text
        assert one(check(run={"dir": str(place)}), "run directory", "FAIL").code == "PL501"

    def test_only_what_a_failure_hides_is_skipped(self, place: Path) -> None:
        (place / "full").mkdir()
        (place / "full" / "notes.txt").write_text("mine")
        found = check(run={"dir": "full"})
        assert one(found, "run directory", "FAIL").code == "PL501"
        assert found.skipped == (), "an evaluation that nobody asked for is not skipped because of that"

    def test_a_file_of_rollouts_of_another_run(self, place: Path) -> None:
        write_jsonl(place / "prompts.jsonl", [{"prompt": row["prompt"]} for row in PAIRS])
        (place / "rollouts.jsonl").write_text('{"format": 1, "run": "another"}\n')
        rollout = {"max_new_tokens": 4, "save": "rollouts.jsonl"}
        found = check("grpo", data="prompts.jsonl", reward={"rewards": ["length"]}, rollout=rollout, max_steps=1)
        assert one(found, "run directory", "FAIL").code == "PL102"

    def test_a_tracker_that_is_not_installed(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None)
        assert one(check(log={"sinks": ["wandb"]}), "environment", "FAIL").code == "PL506"

    def test_a_tokenizer_of_another_model(self, place: Path) -> None:
        from transformers import AutoTokenizer

        model = place / "small"
        shutil.copytree(place / "tiny-model", model)
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.add_tokens(["colour"])
        tokenizer.save_pretrained(model)
        finding = one(check(model="small"), "model", "FAIL")
        assert finding.code == "PL309"
        assert finding.where == "pairs.jsonl:1"
        with pytest.raises(PlauditError, match="PL309"):
            package.train("dpo", model="small", data="pairs.jsonl", run={"check": "off"}, observers=())

    def test_an_evaluation_without_its_metric(self, place: Path) -> None:
        finding = one(check(eval={"best_metric": "eval/perplexity"}, **HELD_OUT), "evaluation", "FAIL")
        assert finding.code == "PL405"
        assert "eval/loss" in finding.mend

    def test_a_model_that_computes_no_numbers(self, place: Path) -> None:
        from transformers import AutoModelForCausalLM

        shutil.copytree(place / "tiny-model", place / "broken")
        model = AutoModelForCausalLM.from_pretrained(place / "broken")
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
        model.save_pretrained(place / "broken")
        found = check(model="broken", **HELD_OUT)
        assert found.exit_status() == 2
        assert {f.code for f in found.findings if f.verdict == "FAIL"} <= {"PL302", "PL402"}

    def test_sample_answers_are_tried(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        real = PolicyAnswers.__call__

        def counted(self: PolicyAnswers, policy: Any, tokenizer: Any, groups: Any) -> Any:
            asked.append(len(groups))
            return real(self, policy, tokenizer, groups)

        monkeypatch.setattr(PolicyAnswers, "__call__", counted)
        check(**HELD_OUT)
        assert len(asked) == 1


class TestEnvironment:
    def test_a_package_that_is_too_old(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = packages.version
        monkeypatch.setattr(packages, "version", lambda name: "0.9.1" if name == "peft" else real(name))
        finding = one(check(), "environment", "FAIL")
        assert finding.code == "PL103"
        assert finding.text == "peft 0.9.1 is too old"
        assert finding.mend == f"pip install -U 'peft>={packages.OLDEST['peft']}'"

    @pytest.mark.parametrize(("cuda", "words"), [(None, "a build for CPUs"), ("13.0", "cannot use it")])
    def test_a_gpu_that_is_not_used(
        self, cuda: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environment, "_GPU", (tmp_path,))
        monkeypatch.setattr(torch.version, "cuda", cuda)
        (found,) = [f for f in environment.environment() if f.verdict == "WARN"]
        assert words in found.text

    @pytest.mark.parametrize(("threads", "cores", "words"), [(4, 2, "share"), (1, 8, "unused"), (2, 2, ""), (1, 2, "")])
    def test_threads(self, threads: int, cores: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(environment, "_GPU", ())
        monkeypatch.setattr(environment.os, "sched_getaffinity", lambda pid: set(range(cores)))
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        said = [f.text for f in environment.environment() if f.verdict == "WARN"]
        assert [words in text for text in said] == [True] * bool(words)


class TestRows:
    def test_held_out_rows_that_are_trained_on(self, place: Path) -> None:
        write_jsonl(place / "same.jsonl", [*PAIRS[:3], {**PAIRS[4], "chosen": "Other."}])
        found = one(check(data="plain.jsonl", eval_data="same.jsonl"), "held-out data", "WARN")
        assert found.text.startswith("3 of 4 groups are trained on too")
        write_jsonl(place / "prompts.jsonl", [{**row, "chosen": "Other."} for row in PAIRS[:2]])
        found = one(check(data="plain.jsonl", eval_data="prompts.jsonl"), "held-out data", "WARN")
        assert found.text.startswith("2 of 2 have a prompt that is trained on with other answers")

    def test_repeats_and_contradictions(self, place: Path) -> None:
        turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in PAIRS[:2]]
        write_jsonl(place / "twice.jsonl", [*PAIRS, *PAIRS[:4], *turned])
        said = [f.text for f in check(data="twice.jsonl").findings if f.topic == "data" and f.verdict == "WARN"]
        assert said == [
            "4 of 30 rows repeat an earlier row",
            "2 of 30 rows say the opposite of an earlier row about the same answers",
        ]

    def test_rows_that_are_left_out(self, place: Path) -> None:
        bad = {"prompt": "Which?", "chosen": "A", "rejected": "A"}
        write_jsonl(place / "few.jsonl", [*PAIRS, bad])
        write_jsonl(place / "many.jsonl", [*PAIRS, bad, bad])
        allowed = {"invalid": "drop", "max_drop_fraction": 0.5}
        few = check(data={"train": "few.jsonl", **allowed})
        text = "1 of 25 rows are left out: chosen and rejected are the same: 1 (row 25)"
        assert text in [f.text for f in few.findings if f.verdict == "OK"]
        many = one(check(data={"train": "many.jsonl", **allowed}), "data", "WARN")
        assert many.text.startswith("2 of 26 rows are left out")

    def test_rows_that_are_cut(self, place: Path) -> None:
        looked = check(max_length=30, data={"train": "pairs.jsonl", "overlong": "truncate_prompt"})
        found = one(looked, "lengths", "WARN")
        assert found.mend.startswith("raise data.max_length, or")
        assert " of 30 tokens; " in found.text

    @pytest.mark.parametrize("limit", [None, 30])
    def test_rows_that_are_cut_to_what_the_model_can_hold(self, place: Path, limit: int | None) -> None:
        write_tiny_model(place / "short", positions=30)
        looked = check(model="short", max_length=limit, data={"train": "pairs.jsonl", "overlong": "truncate_prompt"})
        assert one(looked, "lengths", "WARN").mend.startswith("take a model with more positions, or")

    def test_plain_text_for_a_chat_model(self, place: Path) -> None:
        found = one(check(data="plain.jsonl"), "template", "WARN")
        assert found.text.startswith("the model has a chat template, and 24 rows are plain text")

    def test_a_template_without_a_generation_prompt(self, place: Path) -> None:
        (place / "turns.jinja").write_text(CHATML.partition("{% if add_generation_prompt %}")[0], encoding="utf-8")
        found = one(check(chat_template="turns.jinja"), "template", "WARN")
        assert "writes nothing for add_generation_prompt" in found.text
        assert "24 rows (row" in found.text

    def test_answers_are_looked_at_in_all_files(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rows, "_LOOKED", 12)
        cut = [{**row, "prompt": "?", "chosen": row["chosen"] * 40, "rejected": row["rejected"] * 40} for row in PAIRS]
        write_jsonl(place / "cut.jsonl", cut)
        data = {"train": ["pairs.jsonl", "cut.jsonl"], "overlong": "truncate_completion"}
        found = one(check(max_length=60, data=data), "end of answers", "WARN")
        assert found.text.startswith("12 of 24 answers looked at end with no")

    def test_answers_without_an_end(self, place: Path) -> None:
        model = write_tiny_model(place / "endless")
        settings = json.loads((model / "tokenizer_config.json").read_text())
        settings["eos_token"] = None
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
        found = check(model="endless", data="plain.jsonl")
        assert one(found, "end of answers", "WARN").text.startswith("48 of 48 answers looked at end with no")
        said = [f.text for f in found.findings if f.topic == "template"]
        assert any("cannot learn where an answer ends" in text for text in said)


class TestSettings:
    def test_learning_rate(self, place: Path) -> None:
        assert one(check(learning_rate=0.1), "learning rate", "WARN").text.startswith("learning rate 0.1 is above")

    def test_few_steps(self, place: Path) -> None:
        found = one(check(groups_per_step=8), "steps", "WARN")
        assert found.text == "3 of 8 prompts each; epochs: 1. Few for anything to be learned"

    def test_few_steps_that_were_asked_for(self, place: Path) -> None:
        assert one(check(epochs=None, max_steps=3), "steps", "OK").text.startswith("3 of 2 prompts each")

    def test_processes_without_work(self, place: Path) -> None:
        def looked(processes: int, micro_batches: float) -> list[Finding]:
            amounts = {"micro_batches": Amount(micro_batches, 0, 0), "tokens": Amount(200.5, 0, 0)}
            prepared = SimpleNamespace(work=SimpleNamespace(**amounts), world=SimpleNamespace(size=processes))
            return list(settings._idle(prepared))  # type: ignore[arg-type]

        (found,) = looked(4, 1.2)
        assert found.text.startswith("a step has 1.2 micro-batches for 4 processes")
        assert found.mend.startswith("train.tokens_per_microbatch=51 or auto")
        assert looked(1, 1.0) == looked(2, 2.0) == looked(2, 7.5) == []

    def test_a_warmup_that_never_ends(self, place: Path) -> None:
        found = one(check(epochs=2, warmup_steps=40), "steps", "WARN")
        assert found.text == "the learning rate rises for 40 steps, and the run has only 24"


class Memory:
    """Memory that is a line over the tokens of the last forest."""

    careful = True

    def __init__(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size, self.tokens, self.measured = size, 0, []
        real = rehearsal.materialise

        def counted(*arguments: Any) -> Any:
            forest = real(*arguments)
            self.tokens = forest.num_tokens
            self.measured.append(self.tokens)
            return forest

        monkeypatch.setattr(rehearsal, "materialise", counted)
        monkeypatch.setattr(token_budget, "meter_for", lambda device: self)

    def used(self) -> int:
        return 10 * MIB

    def limit(self) -> int:
        return self.size

    def reset(self) -> None:
        self.tokens = 0

    def peak(self) -> int:
        return self.used() + MIB * self.tokens

    def close(self) -> None:
        pass


LONG = [{**row, "prompt": row["prompt"] * 3} for row in PAIRS]


class TestMemory:
    """A MiB a token. A pair has some 40 tokens, or some 80, and a step of 24 has all of them."""

    def run(self, place: Path, **options: Any) -> dict[str, Any]:
        write_jsonl(place / "long.jsonl", LONG)
        return {"data": "long.jsonl", "groups_per_step": 24, **options}

    def test_low_expected_and_high(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = Memory(10_000 * MIB, monkeypatch)
        found = check(**self.run(place, tokens_per_microbatch=512))
        text = one(found, "memory", "OK").text
        assert text == found.plan["memory"]
        low, expected, high, limit = [float(w.replace(",", "")) for w in text.split() if w[0].isdigit()]
        assert limit == pytest.approx(10_000 / 1024, abs=0.1)
        assert "GiB" in text.rpartition(" of ")[2]
        held = 3 * 4 * 82_000 / MIB  # gradients and moments of some 82,000 weights
        assert low == round(10 + held) == 11
        assert high == pytest.approx(10 + held + 512, rel=0.02)
        assert low < expected <= high
        assert max(memory.measured) == 512

    def test_what_leaves_no_doubt_is_not_run(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = Memory(10**6 * MIB, monkeypatch)
        found = check(**self.run(place, tokens_per_microbatch=1800))
        assert max(memory.measured) == 1024
        high = float(found.plan["memory"].partition("at most ")[2].split()[0].replace(",", ""))
        assert high * 1024 == pytest.approx(10 + 1800, rel=0.05)

    def test_too_little(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Memory(400 * MIB, monkeypatch)
        options = self.run(place, tokens_per_microbatch=512)
        finding = one(check(**options), "memory", "FAIL")
        assert finding.code == "PL406"
        assert finding.text.startswith("micro-batches have up to 512 tokens; ")
        given = {"model": "tiny-model", **RUN, **options, "observers": ()}
        with pytest.raises(TrainingError, match="PL406"):
            package.train("dpo", **given)
        # A number that the advice names fits.
        (fitting,) = [int(word) for word in finding.mend.split() if word.isdigit()]
        assert 256 <= fitting < 400
        assert "FAIL" not in verdicts(check(**{**options, "tokens_per_microbatch": fitting})).values()

    def test_not_even_one_pair(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Memory(60 * MIB, monkeypatch)
        finding = one(check(**self.run(place)), "memory", "FAIL")
        assert "the longest pair has" in finding.text
        assert "--lora" in finding.mend

    def test_nothing_tells(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(token_budget, "meter_for", lambda device: None)
        assert one(check(), "memory", "WARN").mend == "pip install psutil"

    @pytest.mark.parametrize("careful", [True, False])
    @pytest.mark.parametrize("free", [200, 500, 1100, 5000])
    @pytest.mark.parametrize("share", [200, 512, 900, 4000])
    def test_fits_says_what_a_line_says(self, careful: bool, free: int, share: int) -> None:
        bounds = Bounds(free=free, fixed=20, share=share, longest=180, careful=careful, margin=0.05, rated=False)
        try:
            tokens = fits(lambda n: Measurement(n, 20 + n if careful or 20 + n <= free else None), bounds).tokens
        except DoesNotFit:
            assert bounds.usable < 20 + 180
            return
        assert (tokens == share) == (20 + share <= bounds.usable)
        assert 20 + tokens <= (bounds.usable if tokens > 180 else free)
        assert MARGIN[True] > 0.05


class TestDisk:
    @pytest.mark.parametrize("options", [{}, {"lora": {"r": 4}}, {"method": "tr_dpo"}], ids=["full", "lora", "moving"])
    def test_the_sizes_are_those_of_the_files(self, place: Path, options: dict[str, Any]) -> None:
        method = options.pop("method", "dpo")
        given = {"model": "tiny-model", "data": "pairs.jsonl", **RUN, "max_steps": 2, "epochs": None, **options}
        said = one(package.check(method, **given), "disk", "OK").text
        result = package.train(method, **given, run={"dir": "r"}, observers=())
        real = checkpoints.size_of(checkpoints.complete(result.run_dir / "checkpoints")[-1])
        words = said.replace(",", "").split()
        told = float(words[2]) * MIB
        assert words[3] == "MiB"
        adapters = checkpoints.size_of(checkpoints.complete(result.run_dir / "checkpoints")[-1] / "adapter")
        assert told == pytest.approx(real - adapters, rel=0.1, abs=0.1 * MIB)

    def test_no_room(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: SimpleNamespace(free=MIB))
        finding = one(check(), "disk", "FAIL")
        assert finding.code == "PL505"
        assert finding.text.startswith("the disk has 1.0 MiB free; two checkpoints and the model take ")
        with pytest.raises(PlauditError, match="PL505"):
            package.train("dpo", model="tiny-model", data="pairs.jsonl", observers=())

    def test_hardly_room(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * MIB))
        assert "up to" in one(check(), "disk", "WARN").text

    def test_a_folder_that_cannot_be_written(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resources.os, "access", lambda path, mode: False)
        assert one(check(), "disk", "FAIL").code == "PL505"
