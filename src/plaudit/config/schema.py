"""The configuration tree. Unknown keys are errors, values are frozen, and every field is read by something (tested).

A method's own options live beside its loss (`methods/<name>.py`, class `Config`) and appear here as the section
``method``. Nothing in this module imports torch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from plaudit.config.objects import MEMORY

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Above0 = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, instances cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


ConversionName = Literal[
    "pairs_to_feedback", "feedback_to_pairs", "feedback_to_ranking", "ranking_to_pairs", "ranking_to_feedback"
]


class ModelConfig(Section):
    """Which model, and how it computes."""

    path: str
    """A folder, a hub id, a `.gguf` file, or the directory of a run that trained a whole model."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer, when it is not the model's own."""
    chat_template: str | None = None
    """A Jinja file that replaces the tokenizer's chat template."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Compute precision; trained weights are always kept in fp32. auto = bf16 on a GPU that has it, else fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more time, much less memory."""
    attention: Literal["auto", "forest", "padded"] = "auto"
    """auto = packed forest where the parity probe passes, else padded; forest and padded insist."""
    added_tokens: tuple[str, ...] = ()
    """Special tokens to add; the embedding is resized and the new rows start at the mean of the old."""
    trust_remote_code: bool = False
    """Run model code that ships with the checkpoint."""


class LoraSection(Section):
    """LoRA adapter (Hu et al. 2021, arXiv 2106.09685) through PEFT. Leave the section out for full fine-tuning."""

    r: Positive = 16
    """Rank."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale; the update is multiplied by alpha/r (alpha/sqrt(r) with rslora). Default 2 r."""
    dropout: Fraction = 0.0
    """Dropout on the adapter's input."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Module names to adapt, or "all-linear" (every linear layer but the output head)."""
    modules_to_save: tuple[str, ...] = ()
    """Modules that are trained in full and saved with the adapter."""
    rslora: bool = False
    """Scale by alpha/sqrt(r) (arXiv 2312.03732)."""
    dora: bool = False
    """Weight-decomposed LoRA (arXiv 2402.09353)."""
    path: str | None = None
    """Continue this adapter instead of starting a fresh one; the options above then come from it."""


class SourceConfig(Section):
    """One data source."""

    path: str
    """A .jsonl, .json, .parquet or .csv file, a folder of datasets' save_to_disk, or a hub id (`name:split`)."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often the source is seen relative to its size: 0.5 = half of its rows each epoch, 2 = every row twice."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Map from our field names to the file's column names, e.g. {prompt: question, chosen: best}; else data.columns."""
    limit: Positive | None = None
    """Read only the first rows."""


def _sources(value: Any) -> Any:
    if isinstance(value, (str, dict)):
        value = [value]
    if isinstance(value, (list, tuple)):
        return tuple({"path": v} if isinstance(v, str) else v for v in value)
    return value


class DataConfig(Section):
    """What is trained on, and what happens to rows that do not fit."""

    train: tuple[SourceConfig, ...] = Field(min_length=1)
    """One or more sources: a path, or {path, weight, columns, limit}."""
    eval: tuple[SourceConfig, ...] = ()
    """Held-out sources."""
    columns: dict[str, str] = Field(default_factory=dict)
    """For all sources that have no map of their own: our field names to the files' column names."""
    eval_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Hold out this share of the prompts of `train` (whole prompts, by hash: stable when rows are added)."""
    system_prompt: str | None = None
    """System message put before conversations that have none."""
    max_length: Positive | None = None
    """Longest prompt + completion in tokens; default is what the model's positions allow."""
    overlong: Literal["error", "drop", "truncate_prompt", "truncate_completion"] = "error"
    """What to do with a row over max_length. truncate_prompt cuts the oldest prompt tokens."""
    invalid: Literal["error", "drop"] = "error"
    """What to do with rows without signal or content: an empty completion, an identical pair, a missing value."""
    max_drop_fraction: Fraction = 0.05
    """Stop when more than this share of the rows would be dropped."""
    convert: ConversionName | None = None
    """Turn rows of another kind into what the method takes; sources that are of its kind already stay as they are."""
    pairs_per_prompt: Positive | None = None
    """Most pairs that feedback_to_pairs and ranking_to_pairs make of one prompt; 1 = best against worst. Default 36."""
    feedback_threshold: float | None = None
    """ranking_to_feedback: an answer with at least this score is liked. Default: the best is, the worst is not."""
    shuffle: bool = True
    """A new order each epoch."""

    _normalise = field_validator("train", "eval", mode="before")(_sources)

    @model_validator(mode="before")
    @classmethod
    def _hand_out_columns(cls, values: Any) -> Any:
        """`columns` goes to the sources, so that who reads them needs to look in one place."""
        if not isinstance(values, dict) or not (isinstance(columns := values.get("columns"), dict) and columns):
            return values
        handed = {name: _sources(values[name]) for name in ("train", "eval") if name in values}
        takers = 0
        for name, sources in handed.items():
            if not isinstance(sources, tuple) or not all(isinstance(s, dict) for s in sources):
                continue  # the field says what is wrong with it
            free = [not s.get("columns") and s.get("path") != MEMORY for s in sources]
            takers += sum(free)
            handed[name] = tuple(s | {"columns": columns} if f else s for s, f in zip(sources, free, strict=True))
        if not takers:
            raise ValueError("columns has no effect: the sources have their own columns, or are rows in memory")
        return {**values, **handed, "columns": {}}

    @model_validator(mode="after")
    def _one_eval(self) -> DataConfig:
        if self.eval and self.eval_fraction:
            raise ValueError("give either eval or eval_fraction, not both")
        return self


class TrainConfig(Section):
    """The optimiser and the size of a step."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate; the default depends on the method and on LoRA or full fine-tuning, and is printed."""
    groups_per_step: Positive = 32
    """Prompts (with all their completions) per optimiser step, over all processes. A DPO pair is one group."""
    tokens_per_microbatch: Annotated[int, Field(gt=0, strict=True)] | Literal["auto"] = 4096
    """Unique tokens per forward pass: the memory dial. Results do not depend on it. auto = the most that fits, measured
    before the first step (docs/performance.md)."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training data. Default 1, or as many as max_steps takes."""
    max_steps: Positive | None = None
    """Stop after this many optimiser steps; the schedule ends there too."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate after the warm-up: to min_lr_ratio by a line or half a cosine, or constant."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps over which the rate rises from 0."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Overrides warmup_fraction."""
    min_lr_ratio: Fraction = 0.0
    """Where the schedule would end, one step after the last, as a share of the peak."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """The 8-bit ones need bitsandbytes and a GPU."""
    sharding: Literal["replicated", "fsdp"] = "replicated"
    """Where the weights are when several processes train: replicated = whole in each of them, gradients are summed once
    a step; fsdp = weights, gradients and optimiser state are spread over them (docs/performance.md)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay; not applied to biases and norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's moment decays."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Adam's epsilon."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip the global gradient norm; null switches clipping off."""
    seed: int = 42
    """Seeds weights, order, dropout and sampling."""


class EvalConfig(Section):
    """Evaluation while training (needs data.eval or data.eval_fraction)."""

    every: Positive | None = None
    """Steps between evaluations; default is at the end of each epoch."""
    at_start: bool = True
    """Evaluate before the first step too."""
    best_metric: str | None = None
    """The checkpoint with the best value is kept; the direction comes from the metrics table. Default eval/loss, and
    eval/reward where answers are sampled."""
    early_stopping_patience: Positive | None = None
    """Stop after this many evaluations without a better best_metric."""


class CheckpointConfig(Section):
    """When the state is written; it can always be resumed by the same command."""

    every: Positive | None = None
    """Steps between checkpoints; default ten over the run. One is always written at the end and on Ctrl-C."""
    keep: Positive = 2
    """How many recent checkpoints to keep (the best one is kept besides)."""
    kl_grid: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Where answers are sampled: nats per answer, rising. When the KL to the reference first passes one of them, the
    model is kept for good in kl-<value>/ (docs/reward-hacking.md), and evaluated where there is held-out data."""

    @field_validator("kl_grid")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(b <= a for a, b in pairwise(value)):
            raise ValueError("kl_grid must rise: each value once, in order")
        return value


class LogConfig(Section):
    """What is shown and recorded."""

    every: Positive | None = None
    """Steps between log lines; metrics stay on the device in between. Default 1, and the steps on one rollout batch
    where answers are sampled."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Sample rows shown and kept in samples.jsonl at each evaluation."""
    sinks: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Trackers that receive the metrics besides the run directory."""
    project: str = "plaudit"
    """Project name for the trackers."""
    alert_after: Positive = 20
    """Steps after which flat margins or a falling chosen log-prob raise an alert."""


class RunSection(Section):
    """Where results go."""

    dir: str | None = None
    """Run directory; default runs/<method>-<model name>."""
    if_exists: Literal["resume", "fail", "new"] = "resume"
    """resume = go on where it stopped (the same command); fail = refuse; new = use <dir>-2, -3, …"""
    check: Literal["full", "quick", "off"] = "full"
    """What is looked at before the first step: environment, rows, template, disk; with full also memory and time, by
    passes over the longest groups. What would keep the run from its end stops it there."""
    reference_cache: str | None = None
    """Folder of cached reference log-probs; default is the user cache folder. "off" disables it."""


class RewardSection(Section):
    """What sampled answers are scored with, as in a file for `plaudit score` (docs/rewards.md)."""

    rewards: tuple[Any, ...] = ()
    """Each a line (`math`, `math:extract=boxed,weight=2`, `my_rewards.py:polite`, a reward model's folder), a mapping,
    or a .yaml file that names several."""
    shaping: tuple[Any, ...] = ()
    """What is done to their sum, in order, for example [{clip: {low: -1, high: 1}}]."""
    retries: Annotated[int, Field(ge=0)] | None = None
    """How often an answer is scored again after a failure that may pass; default 2."""
    max_error_fraction: Fraction | None = None
    """Stop when a larger share of the latest 1000 answers has no reward; default 0.05."""
    cache: Annotated[int, Field(ge=0)] | None = None
    """Results of each pure reward that are kept and used again; default 100000, 0 keeps none. Those of models that run
    here are not: their last digits depend on what is scored beside them."""

    @field_validator("rewards", "shaping", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, dict)) else value


class RolloutSection(Section):
    """How a policy's own answers are sampled, and how often each batch of them is trained on."""

    prompts_per_batch: Positive | None = None
    """Prompts of one rollout batch, over all processes; default train.groups_per_step, which makes one optimiser step
    of it."""
    completions_per_prompt: Positive | None = None
    """Answers sampled to each prompt; the default is the method's."""
    ppo_epochs: Positive | None = None
    """Passes of training over each rollout batch; the default is the method's."""
    max_new_tokens: Positive = 256
    """Longest answer in tokens. One that reaches it without ending is truncated (method.truncated)."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """No answer ends before this many tokens."""
    temperature: Annotated[float, Field(ge=1e-3)] = 1.0
    """Logits are divided by it, in sampling and in every log-prob of the loss."""
    top_k: Positive | None = None
    """Keep only the k most likely tokens. The scored distribution is then not the sampled one: see correction."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keep the smallest set of tokens with this much probability. See correction."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Drop tokens with less than this share of the most likely token's probability. See correction."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    old_logprobs: Literal["auto", "engine", "recompute"] = "auto"
    """Where the log-probs of the sampling policy come from: the engine, or a forward pass of the trainer. auto takes
    the engine's where they are exact (the local engine in fp32)."""
    correction: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_truncate",
        "geometric_mask",
    ] = "none"  # fmt: skip
    """Importance weight for the gap between sampled and scored distribution: per token, of the whole answer (product),
    or its geometric mean per token; truncated at correction_cap, or what lies outside of
    [correction_floor, correction_cap] left out. For filtered (top_k, top_p, min_p) sampling and for older weights."""
    correction_cap: Annotated[float, Field(gt=0)] = 2.0
    """Largest weight."""
    correction_floor: Annotated[float, Field(ge=0)] = 0.5
    """Smallest weight that is kept by the masking corrections."""
    ahead: Annotated[int, Field(ge=0, le=1)] = 0
    """1 = the next batch is sampled while this one is trained on, from weights that are one batch old, by a second copy
    of the model."""
    engine: Literal["auto", "generate"] = "auto"
    """auto = the local engine where the model allows it; generate = transformers' generate."""
    max_rows: Positive | None = None
    """Answers sampled at the same time; default is what the engine likes."""
    cache_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory for keys and values while sampling; default a quarter of what is free, at most 4 GiB (half on a GPU)."""
    dynamic_sampling: bool | None = None
    """Prompts whose answers teach nothing (all with the same reward, or with none) are replaced by others, drawn from
    all prompts of the run, until the batch is full (DAPO, arXiv 2503.14476). Default: as the method does."""
    dynamic_rounds: Positive = 8
    """Further rounds of sampling for one batch; then it is trained on as it is, and rollout/unfilled says so."""
    curriculum: Literal["none", "learnability"] = "none"
    """learnability = prompts are drawn with a probability of p (1 − p), p being how often they are answered well so
    far, instead of each once in an epoch (arXiv 2502.12272)."""
    curriculum_uniform: Fraction = 0.25
    """Share of the draws of a curriculum that falls on every prompt alike, so that none is forgotten."""
    pass_threshold: float | None = None
    """An answer is right from this reward on: for avg@n and pass@k, and for the curriculum. Default: 1 where all
    rewards are 0 or 1."""
    task_column: str | None = None
    """Column that names a row's task: rewards, passes and lengths are logged for each task apart."""
    save: str | None = None
    """A .jsonl file that every rollout is written to."""
    replay: str | None = None
    """A file that `save` wrote: its answers are trained on instead of sampled ones. Rewards are given anew, or taken
    from the file where no reward is configured. prompts_per_batch, completions_per_prompt and max_new_tokens are those
    that the file was sampled with, where it says so."""
    samples_every: Positive | None = None
    """Rollout batches between sample rows (log.samples of them); default twenty times in a run."""
    eval_completions: Positive = 1
    """Answers to each held-out prompt at an evaluation."""
    eval_temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 = the most likely answer."""

    @property
    def reserve(self) -> int:
        """Tokens of a sequence that a prompt must leave to an answer; none where the answers are there already."""
        return 0 if self.replay else self.max_new_tokens


class CriticSection(Section):
    """The value function of PPO."""

    path: str | None = None
    """A model of its own for the critic. Default: an adapter and a head on the policy's base (LoRA), or a copy of the
    policy (full fine-tuning)."""
    separate: bool = False
    """With LoRA: a copy of the base for the critic alone, trained in full, instead of an adapter on the shared one."""
    start: Literal["policy", "reward"] = "policy"
    """policy = the policy's trunk with a head of zeros, so that all values are 0 at first; reward = the reward model's
    adapter (or weights) and head, as InstructGPT did."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of the critic; default train.learning_rate."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip the critic's own gradient norm; null switches clipping off."""


class PtxSection(Section):
    """A second stream of demonstrations or plain text beside the sampled answers (PPO-ptx, InstructGPT)."""

    data: tuple[SourceConfig, ...] = Field(min_length=1)
    """Sources, in the forms of data.train for `plaudit sft`."""
    coefficient: Annotated[float, Field(gt=0)] = 27.8
    """Factor of the mean log-likelihood per token (γ_ptx)."""
    rows_per_step: Positive | None = None
    """Rows beside each optimiser step; default 8 × the answers of the step, as InstructGPT."""
    train_on: Literal["completion", "assistant", "sequence"] = "sequence"
    """Which tokens of a row are learned."""

    _normalise = field_validator("data", mode="before")(_sources)


class WatchSection(Section):
    """What the alerts hold a run against, which of them end it, and a gold reward that is never trained on
    (docs/reward-hacking.md). null switches a rule off."""

    stop: tuple[str, ...] = ()
    """Codes of alerts that end the run after a checkpoint, for example [kl_over_budget, proxy_up_gold_down]."""
    gold: RewardSection | None = None
    """A better judge than reward, in the same form: it scores the held-out answers of each evaluation (eval/gold)."""
    kl_budget: Above0 | None = 20.0
    """kl_over_budget: KL to the reference in nats per answer. Best of n costs log n − (n − 1)/n (arXiv 2210.10760): 20
    nats are far beyond any n that anybody samples. A reward that verifies stands more than one that was learned."""
    kl_jump: Annotated[float, Field(gt=1)] | None = 4.0
    """kl_jump: times the mean of the logged steps before (and at least 5 nats above it)."""
    entropy_share: Share | None = 0.25
    """entropy_collapse: share of the entropy at the first logged step below which it has collapsed."""
    shorter: Share | None = 0.5
    """length_drift: share of the first window's mean length below which answers have become too short."""
    longer: Annotated[float, Field(gt=1)] | None = 1.5
    """length_drift: the same above which they have become too long."""
    clip_fraction: Fraction | None = 0.3
    """policy_step_large: share of the ratios that clipping may hold back."""
    approx_kl: Above0 | None = 0.1
    """policy_step_large: KL to the policy that sampled, in nats per token."""
    explained_variance: Annotated[float, Field(le=1)] | None = 0.0
    """critic_explains_nothing: what the critic has to explain more than."""
    zero_std_share: Fraction | None = 0.8
    """groups_without_signal: share of the prompts whose answers may all have the same reward."""
    unfilled_share: Fraction | None = 0.1
    """batch_not_filled: share of a batch that may be missing after all rounds of dynamic sampling."""
    capped_share: Fraction | None = 0.5
    """completions_capped: share of the answers that may be cut off."""
    error_share: Fraction | None = 0.01
    """reward_errors: share of the answers whose scoring may fail; at reward.max_error_fraction the run stops anyway."""
    repeated_share: Fraction | None = 0.5
    """repeated_text: share of an answer's 4-grams that may repeat earlier ones."""
    repeated_rise: Annotated[float, Field(gt=0, le=1)] | None = 0.1
    """repeated_text: rise of that share above the first window, where it doubles at the same time."""
    flat_errors: Annotated[float, Field(ge=0)] | None = 1.0
    """reward_flat: standard errors that the reward has to be above the first window's."""
    held_out_errors: Above0 | None = 3.0
    """held_out_reward_falls: standard errors by which eval/reward falls and the reward in training rises."""
    gap_mean: Above0 | None = 0.05
    """sampling_gap: mean difference of log-probs as sampled and as scored, in nats per token."""
    gap_k3: Above0 | None = 0.01
    """sampling_gap: their KL in nats per token."""
    gap_ess: Share | None = 0.5
    """sampling_gap: effective sample size of the answers, as a share, below which weights would cost too much."""
    reward_above: float | None = None
    """reward_above: mean reward that is too good to be true; 0.9 for rewards shaped with `par`."""
    gold_errors: Above0 | None = 3.0
    """proxy_up_gold_down: standard errors by which eval/reward rises and eval/gold falls, paired by prompt."""
    gold_correlation: Annotated[float, Field(ge=-1, le=1)] | None = 0.1
    """gold_correlation: correlation of reward and gold over the answers of an evaluation that is too low."""
    above_range: Fraction | None = 0.05
    """score_above_range: share of the answers that a reward model scores higher than anything it was measured on."""
    disagreement: Annotated[float, Field(gt=1)] | None = 2.0
    """members_disagree: times the disagreement of an ensemble's members at the start of the run."""
    outliers: Share | None = 0.1
    """reward_outliers: share of the answers that are strange to a reward model (1 % is expected); null does not even
    measure it."""
    outlier_answers: Annotated[int, Field(ge=200)] = 512
    """reward_outliers: answers of the first rollout batches that say what is not strange; the metric begins behind
    them."""
    chosen_reward_floor: float | None = -1.0
    """chosen_logp_falling, of methods that learn from pairs: mean rewards/chosen below which a fall is worth a
    warning."""
    chosen_logp_drop: Above0 | None = 20.0
    """chosen_logp_falling: the same for logps/chosen where there are no rewards, as a fall in nats."""

    @field_validator("stop", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("gold", mode="before")
    @classmethod
    def _rewards(cls, value: Any) -> Any:
        return {"rewards": value} if isinstance(value, (str, list, tuple)) else value


class RunConfig(Section):
    """A whole run. `method` holds {name, and the method's own options}; the method's Config class validates it."""

    model: ModelConfig
    method: dict[str, Any]
    data: DataConfig
    lora: LoraSection | None = None
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    run: RunSection = RunSection()
    reward: RewardSection | None = None
    rollout: RolloutSection | None = None
    critic: CriticSection | None = None
    ptx: PtxSection | None = None
    watch: WatchSection = WatchSection()
