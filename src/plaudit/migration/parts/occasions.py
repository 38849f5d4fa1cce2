"""When there is evaluation, a checkpoint and a log line, and where the numbers go."""

from __future__ import annotations

from plaudit.migration.draft import Draft, shown
from plaudit.migration.values import boolean, names, number, text, whole
from plaudit.runs.metrics import spec

_EVALUATION = (
    *("eval_strategy", "evaluation_strategy", "eval_steps", "eval_on_start", "evals_per_epoch"),
    *("metric_for_best_model", "early_stopping_patience", "early_stopping_steps", "num_generations_eval"),
)
_SINKS = ("tensorboard", "trackio", "wandb")


def evaluation(draft: Draft) -> None:
    """eval.*: only where there is held-out data; without it our keys are errors."""
    if not {"data.eval", "data.eval_fraction"} & set(draft.lines):
        draft.idle(*_EVALUATION, text="nothing is held out")
        return
    steps = draft.get("eval_steps", number)
    strategy = (
        (draft.get("eval_strategy", text) or draft.get("evaluation_strategy", text) or "").rpartition(".")[2].lower()
    )
    if steps is not None and steps >= 1 and strategy != "epoch":
        draft.write("eval.every", int(steps), "eval_steps")
    elif steps is not None and strategy != "epoch":
        draft.differ("eval_steps", text="a share of the run; here at the end of each epoch: eval.every says steps")
    if strategy == "no" and draft.dialect.tool != "axolotl":
        draft.differ("eval_strategy", "evaluation_strategy", text="held-out data is evaluated at the end of each epoch")
    every = shown(draft.lines["eval.every"].value) if "eval.every" in draft.lines else "at the end of each epoch"
    draft.take(*(n for n in _EVALUATION[:2] if n not in draft.outcomes), text=f"eval.every: {every}")
    per_epoch = draft.get("evals_per_epoch", number)
    if per_epoch == 1:
        draft.take("evals_per_epoch", text="eval.every: at the end of each epoch")
    elif per_epoch:
        draft.differ("evals_per_epoch", text="at the end of each epoch; eval.every says steps")
    draft.copy("eval.at_start", "eval_on_start", boolean)
    _best(draft)
    answers = draft.get("num_generations_eval", whole)
    if answers and draft.method.is_online():
        draft.write("rollout.eval_completions", answers, "num_generations_eval")
        if answers > 1 and "rollout.temperature" in draft.lines:
            draft.write("rollout.eval_temperature", draft.lines["rollout.temperature"].value, note="as in training")
        elif answers > 1:
            draft.write("rollout.eval_temperature", 1.0, note="as in training")


def _best(draft: Draft) -> None:
    metric = draft.get("metric_for_best_model", text)
    if metric is not None:
        ours = f"eval/{metric.removeprefix('eval_').removeprefix('eval/')}"
        if spec(ours).direction != "neutral":
            draft.write("eval.best_metric", ours, "metric_for_best_model")
        else:
            draft.differ(
                "metric_for_best_model", text=f"{ours} has no better direction: eval.best_metric is the default"
            )
    for name in ("early_stopping_patience", "early_stopping_steps"):
        patience = draft.get(name, whole)
        if patience:
            draft.write("eval.early_stopping_patience", patience, name)


def checkpoints(draft: Draft) -> None:
    """checkpoint.*: nothing of it changes what is trained."""
    strategy = (draft.get("save_strategy", text) or "steps").rpartition(".")[2].lower()
    steps = draft.get("save_steps", number)
    if strategy == "steps" and steps is not None and steps >= 1:
        draft.write("checkpoint.every", int(steps), "save_steps")
        draft.take("save_strategy", text=f"checkpoint.every: {int(steps)}")
    else:
        draft.differ("save_strategy", "save_steps", text="checkpoint.every: ten over the run, and one at the end")
    per_epoch = draft.get("saves_per_epoch", number)
    if per_epoch is not None:
        draft.differ("saves_per_epoch", text="checkpoint.every: ten over the run, and one at the end")
    keep = draft.get("save_total_limit", whole)
    if keep is not None and keep > 0:
        draft.write("checkpoint.keep", keep, "save_total_limit")
    else:
        draft.take("save_total_limit", text="checkpoint.keep: 2")


def log(draft: Draft) -> None:
    """log.*."""
    every = draft.get("logging_steps", number)
    strategy = (draft.get("logging_strategy", text) or "steps").rpartition(".")[2].lower()
    if every is not None and every >= 1 and strategy == "steps":
        draft.write("log.every", int(every), "logging_steps")
        draft.take("logging_strategy", text=f"log.every: {int(every)}")
    else:
        draft.differ("logging_steps", "logging_strategy", text="log.every: every step, or every rollout batch")
    _sinks(draft)


def _sinks(draft: Draft) -> None:
    wanted = [name.lower() for name in draft.get("report_to", names) or []]
    wanted = list(_SINKS) if wanted == ["all"] else wanted
    for switch, sink in (("use_wandb", "wandb"), ("use_tensorboard", "tensorboard"), ("use_trackio", "trackio")):
        if draft.get(switch, boolean):
            wanted.append(sink)
            draft.take(switch, text=f"log.sinks: {sink}")
    project = draft.get("wandb_project", text) or draft.get("trackio_project_name", text)
    if project is not None and draft.get("use_wandb", boolean) is None and draft.get("wandb_mode", text) != "disabled":
        wanted.append("wandb")  # axolotl takes a project for the wish
    ours = [sink for sink in dict.fromkeys(wanted) if sink in _SINKS]
    others = [sink for sink in wanted if sink not in (*_SINKS, "none")]
    if ours:
        switches = ("use_wandb", "use_tensorboard", "use_trackio", "wandb_project")
        draft.write("log.sinks", ours, "report_to", *switches)
        project = project or draft.get("project", text)
        if project is not None:
            draft.write("log.project", project, "wandb_project", "trackio_project_name", "project")
        draft.take("wandb_mode", text="log.sinks: wandb")
    else:
        draft.idle("report_to", "project", "wandb_project", "trackio_project_name", "wandb_mode", text="no tracker")
    if others:
        draft.miss(
            "report_to", text=f"{', '.join(others)} not offered; log.sinks has {', '.join(_SINKS)}", changes=False
        )
