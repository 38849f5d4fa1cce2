"""Find a reward model, refuse what is none, and load it with its tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.errors import ModelError, RewardError
from plaudit.inference.locate import Located, locate
from plaudit.models.one_at_a_time import from_pretrained
from plaudit.rewards.models.card import ENSEMBLE_FILE, SYSTEM_PROMPT, read_card

if TYPE_CHECKING:
    import torch
    from torch import nn

KIND = "reward"
_CLASSIFIER = "ForSequenceClassification"


@dataclass(frozen=True, slots=True)
class Found:
    """Where a reward model is.

    Attributes:
        located: its base (or itself) and its adapter.
        folder: where its card is or would be; None for hub ids.
        card: the card's values; empty where there is none.
    """

    located: Located
    folder: Path | None
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained_here(self) -> bool:
        """Whether `plaudit reward` made it."""
        return self.card.get("kind") == KIND

    @property
    def system_prompt(self) -> str | None:
        """The one of training."""
        kept = self.card.get(SYSTEM_PROMPT)
        return str(kept) if kept else self.located.system_prompt


@dataclass(slots=True)
class Loaded:
    """A reward model in memory."""

    found: Found
    model: nn.Module
    tokenizer: Any
    notes: list[str]


def find(source: str | Path, *, base: str | None = None, precision: str = "auto") -> Found:
    """Find the parts of a reward model.

    Raises:
        RewardError: PL702, a damaged card; PL703, an ensemble; ConfigError: PL102; ModelError: PL301, PL306.
    """
    if (Path(source).expanduser() / ENSEMBLE_FILE).is_file():
        raise RewardError(
            "PL703",
            "it is an ensemble itself, where a single reward model is needed",
            where=str(source),
            mend="name its members instead",
        )
    located = locate(source, base=base, precision=precision)
    local = located.adapter or Path(located.config.path)
    folder = local if local.is_dir() else None
    return Found(located, folder, read_card(folder))


def load(found: Found) -> Loaded:
    """Load the model for scoring.

    Raises:
        RewardError: PL701, it is not a reward model; ModelError: PL301, PL303, PL306 from loading.
    """
    adapter = found.located.adapter
    if adapter is not None:
        return _with_adapter(found, adapter)
    config = _refuse_no_classifier(found)
    return _decoder(found) if _reads_last_token(config) else _other(found)


def _refuse_no_classifier(found: Found) -> Any:
    """Look at the configuration before any weight is read, and return it."""
    from transformers import AutoConfig

    from plaudit.models.hub import ask_for

    path, kept = found.located.config.path, found.located.config
    if path.endswith(".gguf"):
        raise RewardError(
            "PL701",
            "a .gguf file holds a language model, which gives no rewards",
            where=path,
            mend="train a reward model from it: plaudit reward",
        )
    ask_for(path, kept.revision, f"reward model {path}")
    try:
        config = AutoConfig.from_pretrained(path, revision=kept.revision, trust_remote_code=kept.trust_remote_code)
    except (OSError, ValueError) as error:
        raise _not_loaded(error, path) from error
    names = list(config.architectures or [])
    if not any(name.endswith(_CLASSIFIER) for name in names):
        what = names[0] if names else config.model_type
        raise RewardError(
            "PL701",
            f"{what} gives no rewards: it has no head with one score",
            where=path,
            mend="train one from it: plaudit reward; or give a …ForSequenceClassification with one label",
        )
    if config.num_labels != 1:
        raise RewardError(
            "PL701",
            f"{names[0]} has {config.num_labels} labels; a reward is one number (several belong to a classifier, or "
            "to a multi-objective or regression head, whose outputs somebody would have to weigh)",
            where=path,
            mend="use a model with one label (num_labels: 1)",
        )
    return config


def _not_loaded(error: Exception, path: str) -> ModelError:
    from plaudit.models.weights import first_line

    return ModelError(
        "PL301",
        f"the model cannot be loaded: {first_line(error)}",
        where=path,
        mend="give a folder with config.json, or a hub id that this machine can reach",
    )


def _reads_last_token(config: Any) -> bool:
    """Whether transformers' class for it is a decoder with a linear head on the last token."""
    import torch
    from torch import nn

    from plaudit.models.heads import CLASSIFIER_HEAD
    from plaudit.models.reward_head import classifier_class

    made = classifier_class(config)
    if made is None:
        return True
    with torch.device("meta"):
        head = getattr(made(config), CLASSIFIER_HEAD, None)
    return isinstance(head, nn.Linear) and head.bias is None


def _decoder(found: Found) -> Loaded:
    from plaudit.models.load import load_model

    loaded = load_model(found.located.config, None, train=False, task="reward")
    return Loaded(found, loaded.model.eval(), loaded.tokenizer, loaded.notes)


def _with_adapter(found: Found, adapter: Path) -> Loaded:
    from peft import PeftModel

    from plaudit.models.adapters import check_base, without_peft_noise
    from plaudit.models.heads import CLASSIFIER_HEAD
    from plaudit.models.load import load_model

    values = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if CLASSIFIER_HEAD not in (values.get("modules_to_save") or ()):
        raise RewardError(
            "PL701",
            "the adapter has no head with one score: it belongs to a language model",
            where=str(adapter),
            mend="train a reward model: plaudit reward",
        )
    beside = next((f for f in (adapter, adapter.parent) if (f / "tokenizer_config.json").is_file()), None)
    config = found.located.config
    if beside is not None:  # with the template of training, which the base's need not have
        config = config.model_copy(update={"tokenizer": str(beside)})
    loaded = load_model(config, None, train=False, task="reward")
    check_base(loaded.model, adapter)
    with without_peft_noise():
        model = PeftModel.from_pretrained(loaded.model, str(adapter), autocast_adapter_dtype=False)
    model.requires_grad_(False)
    return Loaded(found, model.eval(), loaded.tokenizer, [*loaded.notes, f"adapter {adapter}"])


def _other(found: Found) -> Loaded:
    """An encoder, or a head that is no single linear layer: loaded as it is, and run as it is."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    from plaudit.models.load import compute_dtype, load_tokenizer

    config = found.located.config
    tokenizer = load_tokenizer(config)
    auto: Any = AutoModelForSequenceClassification
    where: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    try:
        model, report = from_pretrained(
            auto, config.path, **where, dtype=compute_dtype(config.precision), output_loading_info=True
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise _not_loaded(error, config.path) from error
    missing = sorted(report["missing_keys"]) + sorted(str(k[0]) for k in report["mismatched_keys"])
    if missing:
        raise RewardError(
            "PL701",
            f"the checkpoint lacks {len(missing)} of the model's weights ({missing[0]}), and transformers would fill "
            "in random ones",
            where=config.path,
            mend="give the whole checkpoint of a trained reward model",
        )
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval().requires_grad_(False)
    return Loaded(found, model, tokenizer, [])


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of every parameter, equal in every compute precision."""
    import torch

    digest = hashlib.blake2b(digest_size=20)
    for name, tensor in sorted(model.named_parameters(), key=lambda pair: pair[0]):
        rounded = tensor.detach().to(torch.bfloat16).reshape(-1).contiguous().cpu()
        digest.update(f"{name}|{tuple(tensor.shape)}|".encode())
        digest.update(rounded.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checkpoint_dtype(found: Found) -> torch.dtype:
    """The precision in which the checkpoint (of the base, for an adapter) is written."""
    import torch
    from transformers import AutoConfig

    config = found.located.config
    written = AutoConfig.from_pretrained(
        config.path, revision=config.revision, trust_remote_code=config.trust_remote_code
    ).dtype
    return written if isinstance(written, torch.dtype) else torch.float32
