"""Worker: DPO and SFT by TRL on a model built in memory, in TRL's own environment. Started by `gpu_offline`."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from benchmarks.gpu_measure import DeviceRecorder, Measured
from benchmarks.gpu_shapes import build_model
from benchmarks.measure import read_job, write_result


def main() -> None:
    """Options: method, lora, weights, per_device_batch, gradient_checkpointing, liger."""
    job = read_job()
    options, train = job["options"], job["train"]
    device, half = train["device"], train["precision"] == "bf16"

    import datasets  # type: ignore[import-untyped]
    import torch
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

    trl: Any = import_module("trl")
    micro_losses: list[Any] = []

    def keeping(kind: type[Any]) -> type[Any]:
        class LossKeeping(kind):  # type: ignore[misc]
            """Keeps the loss of every micro-batch (divided by the accumulation count), without reading it."""

            def training_step(self, *args: Any, **kwargs: Any) -> Any:
                loss = super().training_step(*args, **kwargs)
                micro_losses.append(loss)
                return loss

        return LossKeeping

    steps = job["steps"]
    recorder = DeviceRecorder(device=device, steps=steps)
    recorder.count_tokens(Qwen3Model)
    recorder.start()
    flash = device == "cuda" and find_spec("flash_attn") is not None
    model = build_model(job["workload"], device, options["weights"], "flash_attention_2" if flash else "sdpa")
    batch = options["per_device_batch"]
    accumulation = train["rows_per_step"] // batch
    shared: dict[str, Any] = {
        "output_dir": f"{job['scratch']}/trl",
        "learning_rate": train["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "optim": "adamw_torch_fused",
        "max_steps": train["total_steps"],
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_checkpointing": options["gradient_checkpointing"],
        "logging_steps": 10**6,
        "bf16": half,
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device == "cuda",
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 42,
        "padding_free": flash,
        "use_liger_kernel": options["liger"],
    }
    data = datasets.load_dataset(
        "json",
        data_files=f"{job['workload']}/{options['method']}.jsonl",
        split="train",
        cache_dir=f"{job['scratch']}/datasets",
    )
    common = {
        "model": model,
        "train_dataset": data,
        "processing_class": AutoTokenizer.from_pretrained(f"{job['workload']}/tokenizer"),
        "peft_config": LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if options["lora"] else None,
    }
    if options["method"] == "dpo":
        arguments = trl.DPOConfig(precompute_ref_log_probs=True, max_length=None, beta=0.1, **shared)
        trainer = keeping(trl.DPOTrainer)(args=arguments, **common)
    else:
        trainer = keeping(trl.SFTTrainer)(
            args=trl.SFTConfig(max_length=None, completion_only_loss=True, **shared), **common
        )
    with suppress(Measured):
        trainer.train()
    losses = [
        float(torch.stack([x.detach().float() for x in micro_losses[i : i + accumulation]]).sum())
        for i in range(0, (recorder.warm_up + steps) * accumulation, accumulation)
    ]
    found = recorder.device_result(losses)
    write_result(job, {**found, "attention": "flash_attention_2, padding-free" if flash else "sdpa, padded"})


if __name__ == "__main__":
    main()
