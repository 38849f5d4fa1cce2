"""Worker: PPO by TRL 1.12.0, the last release with a PPO trainer, in an environment of its own.

What is counted where: "generation" is `batch_generation`; everything else (reference, values, reward, advantages, the
epochs) is "update", because one function does it all. TRL's PPO clips no gradient and takes rewards from models only:
the reward is a module that computes on token ids what `even_words` computes on words.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.measure import read_job, write_result
from benchmarks.phases import PhaseRecorder
from benchmarks.workload import SPECIAL_TOKENS


class EvenWords(torch.nn.Module):
    """At each position the share of words with an even number among the last `window` tokens, as a reward model."""

    base_model_prefix = "share"

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def share(self, input_ids: torch.Tensor, **_: Any) -> Any:
        """[B, T] token ids → hidden states [B, T, 1]."""
        even = ((input_ids - len(SPECIAL_TOKENS)) % 2 == 0).float()
        total = torch.nn.functional.pad(even.cumsum(1), (self.window, 0))
        return SimpleNamespace(
            hidden_states=[((total[:, self.window :] - total[:, : -self.window]) / self.window)[..., None]]
        )

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head: nothing to do."""
        return hidden


def prompts(job: dict[str, Any], tokenizer: Any) -> list[dict[str, Any]]:
    """Every prompt as token ids, as often as it is answered; the first batch once more at the end.

    In the last batch of a pass over the data this trainer takes an optimiser step for every micro-batch (accelerate
    ends accumulation with the data), so nobody is to reach it.
    """
    lines = Path(job["workload"], "rows.jsonl").read_text(encoding="utf-8").splitlines()
    ids = [tokenizer(json.loads(line)["prompt"])["input_ids"] for line in lines]
    ids += ids[: job["train"]["prompts_per_step"]]
    return [{"input_ids": row} for row in ids for _ in range(job["train"]["samples"])]


def main() -> None:
    """Options: per_device_batch, rollout_batch (answers of a micro-batch, and generated at once), logging_steps."""
    job = read_job()

    import datasets  # type: ignore[import-untyped]
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model
    from trl.experimental.ppo import PPOConfig, ppo_trainer  # type: ignore[import-not-found]

    options, train = job["options"], job["train"]
    recorder = PhaseRecorder(updates=train["updates"], device=train["device"])
    losses: list[float] = []
    generate, forward = ppo_trainer.batch_generation, ppo_trainer.forward

    def timed_generation(*args: Any, **kwargs: Any) -> Any:
        with recorder.phase("generation"):
            found = generate(*args, **kwargs)
        recorder.sampled([train["new_tokens"]] * found[0].shape[0])
        if found[1].shape[1] != train["new_tokens"]:
            raise RuntimeError(f"answers of {found[1].shape[1]} tokens")
        return found

    def counted_forward(model: Any, answers: Any, pad: int) -> Any:
        if torch.is_grad_enabled():
            recorder.work.trained_tokens += answers.shape[0] * train["new_tokens"]
        return forward(model, answers, pad)

    class LossKeepingTrainer(ppo_trainer.PPOTrainer):  # type: ignore[misc]
        """Keeps the mean loss of each rollout batch."""

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            losses.append(logs["loss/policy_avg"] + self.args.vf_coef * logs["loss/value_avg"])

    class Counted(EvenWords):
        """Counts what is scored."""

        def share(self, input_ids: torch.Tensor, **rest: Any) -> Any:
            with recorder.phase("reward"):
                recorder.work.rewarded += input_ids.shape[0]
                return super().share(input_ids, **rest)

    ppo_trainer.batch_generation, ppo_trainer.forward = timed_generation, counted_forward
    # The prompts of each batch are ours.
    ppo_trainer.DataLoader = functools.partial(_in_order, ppo_trainer.DataLoader)
    recorder.count_tokens(Qwen3Model)
    recorder.start()

    folder = f"{job['workload']}/model"
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    rows = datasets.Dataset.from_list(prompts(job, tokenizer))
    answers = train["prompts_per_step"] * train["samples"]
    trainer = LossKeepingTrainer(
        args=PPOConfig(
            output_dir=f"{job['scratch']}/trl",
            kl_coef=train["kl_weight"],
            num_ppo_epochs=train["updates"],
            num_mini_batches=1,
            response_length=train["new_tokens"],
            temperature=1.0,
            total_episodes=answers * (job["steps"] + 1),
            per_device_train_batch_size=options["per_device_batch"],
            gradient_accumulation_steps=answers // options["per_device_batch"],
            local_rollout_forward_batch_size=options["rollout_batch"],
            num_sample_generations=0,
            learning_rate=train["learning_rate"],
            lr_scheduler_type="constant",
            weight_decay=0.0,
            optim="adamw_torch_fused",
            logging_steps=options["logging_steps"],
            bf16=train["precision"] == "bf16",
            use_cpu=train["device"] == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=train["seed"],
        ),
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(folder),
        ref_model=AutoModelForCausalLM.from_pretrained(folder),
        reward_model=Counted(train["new_tokens"]),
        value_model=AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1),
        train_dataset=rows,
        eval_dataset=rows,
    )
    trainer.train()
    write_result(job, {**recorder.result(losses), "gradient_norms": []})


def _in_order(loader: Any, *args: Any, **kwargs: Any) -> Any:
    return loader(*args, **{**kwargs, "shuffle": False})


if __name__ == "__main__":
    main()
