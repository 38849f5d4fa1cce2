"""Worker: an offline method by TRL's trainer, in TRL's own environment. Started by the harness with a job file."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.measure import Recorder, read_job, trunk_of, write_result


def main() -> None:
    """Options: per_device_batch, accumulation (default: what makes a step), and any of the trainer's configuration in
    `arguments`."""
    job = read_job()
    options, train = job["options"], job["train"]

    import datasets  # type: ignore[import-untyped]

    module, trainer_name, config_name = train["trainer"]
    trainer_class: Any = getattr(import_module(module), trainer_name)
    config_class: Any = getattr(import_module(module), config_name)

    class LossKeepingTrainer(trainer_class):  # type: ignore[misc]
        """Keeps the loss of every micro-batch (already divided by the accumulation count), without reading it."""

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            micro_losses.append(loss)
            return loss

    micro_losses: list[Any] = []
    recorder = Recorder()
    recorder.count_tokens(trunk_of(train["model"]))
    recorder.start()

    accumulation = options.get("accumulation") or train["rows_per_step"] // options["per_device_batch"]
    trainer = LossKeepingTrainer(
        model=train["model"],
        args=config_class(
            output_dir=f"{job['scratch']}/trl",
            learning_rate=train["learning_rate"],
            lr_scheduler_type="constant",
            max_grad_norm=train["max_grad_norm"],
            weight_decay=0.0,
            optim="adamw_torch_fused",
            max_steps=job["steps"] + 1,
            per_device_train_batch_size=options["per_device_batch"],
            gradient_accumulation_steps=accumulation,
            bf16=train["precision"] == "bf16",
            use_cpu=True,
            dataloader_pin_memory=False,
            train_sampling_strategy="sequential",  # both sides see the rows in the same order
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=train["seed"],
            **{"max_length": train["longest"], **train["rival"], **options["arguments"]},
        ),
        train_dataset=datasets.load_dataset(
            "json", data_files=train["rows"], split="train", cache_dir=f"{job['scratch']}/datasets"
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
