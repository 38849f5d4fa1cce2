"""Worker: GRPO and RLOO by TRL, in TRL's own environment. Started by the harness with a job file.

What is counted where: "generation" is `_generate` (tokenising, padding, `generate`, decoding), "reward" is
`_calculate_rewards`; the rest of a step is "update".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.measure import read_job, write_result
from benchmarks.phases import PhaseRecorder
from benchmarks.workload import even_words


def arguments(job: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `GRPOConfig` and `RLOOConfig`.

    Options: gradient_checkpointing, per_device_batch (answers), logging_steps, cache_implementation.
    """
    options, train, new = job["options"], job["train"], job["train"]["new_tokens"]
    answers = train["prompts_per_step"] * train["samples"]
    return {
        "output_dir": f"{job['scratch']}/trl",
        "beta": train["kl_weight"],
        "num_generations": train["samples"],
        "max_completion_length": new,
        # No answer ends before the last token, so both sides sample the same number of tokens.
        "generation_kwargs": {"min_new_tokens": new},
        "temperature": 1.0,
        "cache_implementation": options["cache_implementation"],
        "learning_rate": train["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_grad_norm": train["max_grad_norm"],
        "weight_decay": 0.0,
        "optim": "adamw_torch_fused",
        "max_steps": job["steps"] + 1,
        "per_device_train_batch_size": options["per_device_batch"],
        # steps_per_generation follows it: one generation for each optimiser step.
        "gradient_accumulation_steps": answers // options["per_device_batch"],
        "gradient_checkpointing": options["gradient_checkpointing"],
        "logging_steps": options["logging_steps"],
        "bf16": train["precision"] == "bf16",
        "use_cpu": train["device"] == "cpu",
        "dataloader_pin_memory": False,
        "shuffle_dataset": False,  # both sides see the prompts in the same order
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": train["seed"],
    }


def recorded(path: str) -> list[list[list[int]]]:
    """The answers of each rollout batch in a file of `rollout.save`: [batch][answer] → token ids, by prompt."""
    batches: dict[int, list[list[int]]] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines()[1:]:
        row = json.loads(line)
        batches.setdefault(row["rollout"], []).extend(c["token_ids"] for c in row["completions"])
    return [batches[number] for number in sorted(batches)]


def main() -> None:
    """Train. With the option `replay` the answers come from a file of ours, which shows whether the updates agree."""
    job = read_job()

    import datasets  # type: ignore[import-untyped]
    import trl  # type: ignore[import-not-found]
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

    train = job["train"]
    recorder = PhaseRecorder(device=train["device"])
    replayed = iter(recorded(job["options"]["replay"])) if "replay" in job["options"] else None
    micro_losses: list[Any] = []

    trainer_class: Any = getattr(trl, f"{train['method'].upper()}Trainer")
    config_class: Any = getattr(trl, f"{train['method'].upper()}Config")

    class TimedTrainer(trainer_class):  # type: ignore[misc]
        """TRL's trainer with its phases marked; the loss of every micro-batch is kept without being read."""

        def _generate(self, prompts: Any) -> Any:
            with recorder.phase("generation"):
                found = super()._generate(prompts)
            recorder.sampled([len(ids) for ids in found[1]])
            return found

        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
            if replayed is None:
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
            answers = next(replayed)
            return (answers, None) if train["method"] == "grpo" else answers

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            with recorder.phase("reward"):
                return super()._calculate_rewards(*args, **kwargs)

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(model, inputs, *args, **kwargs)
            micro_losses.append(loss)
            return loss

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            recorder.work.trained_tokens += int(inputs["completion_mask"].sum())
            return super()._compute_loss(model, inputs)

    recorder.count_tokens(Qwen3Model)
    recorder.start()
    trainer = TimedTrainer(
        model=f"{job['workload']}/model",
        args=config_class(**arguments(job)),
        reward_funcs=recorder.rewarding(even_words),
        train_dataset=datasets.load_dataset(
            "json", data_files=f"{job['workload']}/rows.jsonl", split="train", cache_dir=f"{job['scratch']}/datasets"
        ),
    )
    trainer.train()
    pieces = trainer.args.gradient_accumulation_steps
    losses = [
        float(sum(loss.item() for loss in micro_losses[i : i + pieces])) for i in range(0, len(micro_losses), pieces)
    ]
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    write_result(job, {**recorder.result(losses), "gradient_norms": norms})


if __name__ == "__main__":
    main()
