"""Worker: DPO by TRL's `DPOTrainer`, in TRL's own environment. Started by the harness with a job file."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import Recorder, read_job, write_result


def main() -> None:
    """Options: gradient_checkpointing, precompute_ref_log_probs, per_device_batch, logging_steps."""
    job = read_job()

    import datasets  # type: ignore[import-untyped]
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model
    from trl import DPOConfig, DPOTrainer  # type: ignore[import-not-found]

    class LossKeepingTrainer(DPOTrainer):  # type: ignore[misc]
        """Keeps the loss of every micro-batch (already divided by the accumulation count), without reading it."""

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            micro_losses.append(loss)
            return loss

    micro_losses: list[Any] = []
    recorder = Recorder()
    recorder.count_tokens(Qwen3Model)
    recorder.start()

    options, train = job["options"], job["train"]
    accumulation = train["pairs_per_step"] // options["per_device_batch"]
    trainer = LossKeepingTrainer(
        model=f"{job['workload']}/model",
        args=DPOConfig(
            output_dir=f"{job['scratch']}/trl",
            beta=train["beta"],
            learning_rate=train["learning_rate"],
            lr_scheduler_type="constant",
            max_grad_norm=train["max_grad_norm"],
            weight_decay=0.0,
            optim="adamw_torch_fused",
            max_steps=job["steps"] + 1,
            per_device_train_batch_size=options["per_device_batch"],
            gradient_accumulation_steps=accumulation,
            gradient_checkpointing=options["gradient_checkpointing"],
            precompute_ref_log_probs=options["precompute_ref_log_probs"],
            logging_steps=options["logging_steps"],
            bf16=train["precision"] == "bf16",
            use_cpu=True,
            dataloader_pin_memory=False,
            train_sampling_strategy="sequential",  # both sides see the rows in the same order
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=train["seed"],
        ),
        train_dataset=datasets.load_dataset(
            "json", data_files=f"{job['workload']}/rows.jsonl", split="train", cache_dir=f"{job['scratch']}/datasets"
        ),
    )
    if job["prime"]:  # TRL has computed its reference log-probs by now, and keyed them on all its arguments
        write_result(job, {})
        return
    trainer.train()
    losses = [
        float(sum(loss.item() for loss in micro_losses[i : i + accumulation]))
        for i in range(0, len(micro_losses), accumulation)
    ]
    write_result(job, recorder.result(losses))


if __name__ == "__main__":
    main()
