"""A reward head on a model's trunk: transformers' sequence classifier with one label."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from plaudit.errors import ModelError
from plaudit.models.heads import CLASSIFIER_HEAD, ScalarHead, is_classifier, starting_head


def classifier_class(config: Any) -> type[nn.Module] | None:
    """The sequence classifier of an architecture; None for one that comes with the checkpoint.

    Raises:
        ModelError: PL303 when transformers has none.
    """
    known: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if type(config) in known:
        found: type[nn.Module] = known[type(config)]
        return found
    if "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {}):
        return None
    raise ModelError(
        "PL303",
        f"transformers has no sequence classifier for {config.model_type}, so a reward model of it could not be saved",
        mend="train the reward model on another architecture; it need not be the policy's",
        where=config.model_type,
    )


def check_one_label(config: Any, where: str | None = None) -> None:
    """Raise ModelError PL303 for a classifier with several outputs: which one is the reward is not known here."""
    if config.num_labels != 1:
        raise ModelError(
            "PL303",
            f"the classifier has {config.num_labels} labels; a reward model has one",
            where=where,
            mend="start from the language model, or from a checkpoint with num_labels=1",
        )


def put_head(model: nn.Module, weight: Tensor | None, *, keep: bool = False) -> None:
    """Replace a classifier's head by one that computes in fp32.

    Args:
        weight: [1, D] its weight; None makes a new head, or keeps the present values where `keep` says so.

    Raises:
        ModelError: PL303 when the head is no plain linear layer with one output.
    """
    present = getattr(model, CLASSIFIER_HEAD, None)
    if not isinstance(present, nn.Linear) or present.bias is not None or present.out_features != 1:
        raise ModelError(
            "PL303",
            f"the head of {type(model).__name__} is {present!r}; a linear layer with one output and no bias is needed",
            where=type(model).__name__,
            mend="start from the causal language model, which gets a new head",
        )
    head = starting_head(present.in_features)
    if weight is None and keep:
        weight = present.weight.detach()
    if weight is not None:
        with torch.no_grad():
            head.weight.copy_(weight)
    setattr(model, CLASSIFIER_HEAD, head.to(present.weight.device))
    config: Any = model.config
    if config.id2label == {0: "LABEL_0"}:
        config.id2label, config.label2id = {0: "reward"}, {"reward": 0}


def as_classifier(model: Any, notes: list[str]) -> nn.Module:
    """A reward model of a model in memory.

    A classifier keeps its head. A causal language model gives its trunk, which is not copied, and gets a new head; its
    output head is not used any more.

    Raises:
        ModelError: PL303 when there is no classifier for it, or it has several labels.
    """
    if is_classifier(model):
        check_one_label(model.config)
        if not isinstance(getattr(model, CLASSIFIER_HEAD), ScalarHead):
            put_head(model, None, keep=True)
        notes.append("reward head: the model's own")
        return model  # type: ignore[no-any-return]
    config = model.config
    made = classifier_class(config)
    config.num_labels = 1
    prefix = model.base_model_prefix
    shell: Any = None
    if made is not None:
        with torch.device("meta"):
            shell = made(config)
    trunk = getattr(model, prefix, None)
    fits = shell is not None and shell.base_model_prefix == prefix and type(getattr(shell, prefix)) is type(trunk)
    if not fits or {n for n, _ in shell.named_children()} != {prefix, CLASSIFIER_HEAD}:
        raise ModelError(
            "PL303",
            f"the trunk of this {type(model).__name__} does not fit into a sequence classifier",
            mend="save it, and give the folder instead of the model in memory",
            where=type(model).__name__,
        )
    setattr(shell, prefix, trunk)
    setattr(shell, CLASSIFIER_HEAD, nn.Linear(getattr(shell, CLASSIFIER_HEAD).in_features, 1, bias=False))
    put_head(shell, None)
    shell.train(model.training)
    notes.append("reward head: new, on the given model's own trunk; its output head is not used")
    return shell  # type: ignore[no-any-return]
