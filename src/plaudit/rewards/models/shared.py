"""A reward model on the policy's base: an adapter and a head instead of a model; and what a critic starts as.

A run of `plaudit reward` with LoRA keeps its adapter beside the merged model. Where the policy is trained with LoRA on
the same base, that adapter is put beside the policy's, and answers are scored through the policy's own weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.errors import RewardError, TrainingError
from plaudit.rewards.models.card import CARD_FILE, ENSEMBLE_FILE, NORMALISATION, SYSTEM_PROMPT, write_card
from plaudit.rewards.models.classifier import Classifier
from plaudit.rewards.models.conversations import Item, TrainedLayout, fit_positions, placed
from plaudit.rewards.models.loading import Found, find
from plaudit.rewards.models.model import Looked, RewardModel, ScoringOptions, check_finite, trained_range
from plaudit.rewards.models.normalisation import Measured, Normalisation
from plaudit.rewards.models.scorers import PackedScorer
from plaudit.runs.rundir import MODEL_FOLDER
from plaudit.types import Floats

if TYPE_CHECKING:
    from torch import Tensor

    from plaudit.config.schema import CriticSection
    from plaudit.models.forest_model import ForestModel
    from plaudit.train.critic_role import ValueStart

_ADAPTER = "adapter_config.json"
_START = ("base_fingerprint", "start_fingerprint", "head_fingerprint")


class SharedReward(RewardModel):
    """A reward model that is an adapter and a head on the policy's base; made by `share_reward`.

    It scores with the policy's own weights, with its own tokenizer and template. The role's context is entered for each
    call and left behind, so the policy finds its adapter active as before. For the same reason it must never be asked
    from another thread while the policy samples or is trained: there is one set of switches.

    Args:
        model: the policy, which plays the role "reward" besides.
        found: where the reward model is.
        tokenizer: the reward model's own.
        options: how answers are scored.
    """

    def __init__(self, model: ForestModel, found: Found, tokenizer: Any, options: ScoringOptions, source: str) -> None:
        from plaudit.data.render import Renderer
        from plaudit.models.forest_model import causal_lm

        assert found.folder is not None
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.name, self.folder, self.system_prompt = source, found.folder, found.system_prompt
        self.card: dict[str, Any] = dict(found.card)
        self.notes = [f"{source} is an adapter on the policy's base"]
        kept = self.card.get(NORMALISATION)
        self.normalisation = Normalisation() if kept is None else Normalisation.from_json(kept, str(self.folder))
        self._measured = trained_range(self.card, str(self.folder))
        self.layout = TrainedLayout(Renderer(tokenizer, system_prompt=found.system_prompt))
        self._scorer = PackedScorer(model, options.tokens)
        text = causal_lm(model.model).config.get_text_config()
        self._positions: int | None = getattr(text, "max_position_embeddings", None)
        self._truncated = 0

    @property
    def measured(self) -> Measured | None:
        """See `RewardModel`."""
        return self._measured

    def raw_score(self, items: Sequence[Item]) -> list[list[float]]:
        """See `RewardModel`."""
        return self._scored(items, latents=False)[0]

    def look(self, items: Sequence[Item], *, latents: bool = False) -> Looked:
        """See `RewardModel`."""
        raw, vectors = self._scored(items, latents=latents)
        return Looked([[self.normalisation(r) for r in answers] for answers in raw], latents=vectors)

    def _scored(self, items: Sequence[Item], *, latents: bool) -> tuple[list[list[float]], list[list[Floats]] | None]:
        lead = frozenset(i for i in (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id) if i is not None)
        fitted = fit_positions(self.layout.groups(items), self._positions, self.options.overlong, lead)
        self._truncated += fitted.truncated
        found, vectors = self._scorer.with_latents(fitted.groups) if latents else (self._scorer(fitted.groups), None)
        scores = placed(fitted.keys, found, items)
        check_finite(scores, self.name)
        return scores, None if vectors is None else placed(fitted.keys, vectors, items)

    @property
    def has_template(self) -> bool:
        """See `RewardModel`."""
        return bool(self.tokenizer.chat_template)

    @property
    def truncated(self) -> int:
        """See `RewardModel`."""
        return self._truncated

    def save_normalisation(self) -> Path:
        """See `RewardModel`."""
        self.card |= {NORMALISATION: self.normalisation.to_json()}
        if self.system_prompt:
            self.card[SYSTEM_PROMPT] = self.system_prompt
        write_card(self.folder / CARD_FILE, self.card)
        return self.folder / CARD_FILE

    def save(self, folder: Path) -> None:
        """See `RewardModel`: the folder that it came from is copied."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        kept, self.folder = self.folder, folder
        try:
            self.save_normalisation()
        finally:
            self.folder = kept


def share_reward(
    model: ForestModel,
    source: str | Path,
    *,
    base: str | None = None,
    precision: str = "auto",
    options: ScoringOptions | None = None,
) -> SharedReward | str:
    """Put a reward model's adapter and head on the policy's base.

    Args:
        model: the policy. It is given the role "reward", frozen; what it computes in its other roles stays the same.
        source, base, precision, options: as for `RewardModel.load`.

    Returns:
        The reward model; or the reason why it cannot share this base, as the end of a sentence ("… cannot share the
        policy's base: it was trained in full"). The policy is then as it was, and `RewardModel.load` loads it apart.

    Raises:
        PlauditError: from finding the model; what is wrong there is wrong for `RewardModel.load` too.
    """
    where = Path(source).expanduser()
    if not model.has_adapters or model.roles["policy"].adapter is None:
        return "the policy is trained in full, so its weights do not stay those of the base"
    if "reward" in model.roles:
        return "another reward model has this place already"
    if any((folder / ENSEMBLE_FILE).is_file() for folder in (where, where / MODEL_FOLDER)):
        return "it is an ensemble, whose members are models of their own"
    found = find(source, base=base, precision=precision)
    adapter = _adapter_folder(found)
    if found.folder is None or not found.trained_here:
        return "it was not trained by `plaudit reward`"
    if adapter is None:
        return "it was trained in full, so it has no adapter"
    if reason := _other_base(model, found, adapter, precision):
        return reason
    tokenizer = _tokenizer(found, adapter)
    if tokenizer.bos_token_id != model.bos_id:
        return "its tokenizer has another beginning of sequence than the policy's"
    if reason := _add(model, adapter):
        return reason
    return SharedReward(model, found, tokenizer, options or ScoringOptions(), str(source))


def critic_start(
    section: CriticSection, reward: RewardModel | None, tokenizer: Any, *, precision: str = "auto"
) -> ValueStart | None:
    """What the critic starts as, where that is a reward model: the one that gives the rewards (`start: reward`), or the
    one that `path` names.

    Args:
        reward: the reward model in use, shared or loaded apart; None where no reward is one.
        tokenizer: the policy's.
        precision: for a model that `path` names.

    Returns:
        None for a head of zeros: the critic starts as the policy, or as the language model that `path` names.

    Raises:
        TrainingError: PL405, the reward model has no single linear head on a decoder (an ensemble, an encoder).
        ModelError: PL306, its tokenizer gives other token ids than the policy's; PL3xx from loading.
    """
    if section.start == "reward":
        return None if reward is None else value_start(reward, tokenizer)
    if section.path is None:
        return None
    try:
        named = RewardModel.load(section.path, precision=precision)
    except RewardError as error:
        if error.code != "PL701":
            raise
        return None  # a language model
    return value_start(named, tokenizer)


def value_start(reward: RewardModel, tokenizer: Any) -> ValueStart:
    """The trunk of a reward model, and its head with the normalisation folded in: V(h) = gain · (w · h) + bias.

    Raises:
        TrainingError: PL405; ModelError: PL306; see `critic_start`.
    """
    from plaudit.models.forest_model import causal_lm
    from plaudit.models.heads import CLASSIFIER_HEAD, folded_head
    from plaudit.train.critic_role import ValueStart, check_vocabulary

    normal = reward.normalisation
    if isinstance(reward, SharedReward):
        check_vocabulary(reward.tokenizer, tokenizer, reward.name)
        weight: Any = reward.model.heads["reward"].weight
        head = folded_head(weight.detach(), normal.gain, normal.bias)
        return ValueStart(reward.model, reward.model.roles["reward"].adapter, head)
    if not isinstance(reward, Classifier) or not isinstance(reward.scorer, PackedScorer):
        raise TrainingError(
            "PL405",
            f"{reward.name} has no single linear head on a decoder, so a critic cannot start as it",
            where="critic",
            mend="use critic.start=policy without critic.path, or one reward model",
        )
    check_vocabulary(reward.loaded.tokenizer, tokenizer, reward.name)
    trunk = reward.scorer.model
    weight = getattr(causal_lm(trunk.model), CLASSIFIER_HEAD).weight
    head = folded_head(weight.detach(), normal.gain, normal.bias)
    return ValueStart(trunk, trunk.roles["reward"].adapter, head)


def _adapter_folder(found: Found) -> Path | None:
    from plaudit.train.export import ADAPTER_FOLDER

    if found.located.adapter is not None:
        return found.located.adapter
    beside = None if found.folder is None else found.folder / ADAPTER_FOLDER
    return beside if beside is not None and (beside / _ADAPTER).is_file() else None


def _other_base(model: ForestModel, found: Found, adapter: Path, precision: str) -> str | None:
    from plaudit.models.fingerprint import trunk_base_fingerprint
    from plaudit.models.load import compute_dtype
    from plaudit.rewards.models.card import read_card

    beside = read_card(adapter)
    if any(beside.get(name) != found.card.get(name) for name in _START):
        return "its model and the adapter beside it did not start from the same weights"
    if beside.get("base_fingerprint") != trunk_base_fingerprint(model.model):
        return "it was trained on another base"
    if precision != "auto" and compute_dtype(precision) != model.dtype:
        return f"it is to compute in {precision}, and the policy does not"
    return None


def _tokenizer(found: Found, adapter: Path) -> Any:
    from plaudit.models.load import load_tokenizer

    beside = next((f for f in (adapter, adapter.parent) if (f / "tokenizer_config.json").is_file()), None)
    config = found.located.config
    return load_tokenizer(config if beside is None else config.model_copy(update={"tokenizer": str(beside)}))


def _add(model: ForestModel, folder: Path) -> str | None:
    """Put the adapter in a folder and its head on the model; or say why not."""
    from peft import LoraConfig
    from safetensors.torch import load_file

    from plaudit.models.heads import CLASSIFIER_HEAD, ScalarHead
    from plaudit.models.role_adapters import add_reward_adapter

    values: Mapping[str, Any] = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))
    if values.get("peft_type") != "LORA":
        return f"its adapter is {values.get('peft_type')}, not LoRA"
    if values.get("trainable_token_indices"):
        return "its adapter brings tokens of its own"
    weights: dict[str, Tensor] = load_file(folder / "adapter_model.safetensors")
    names = [name for name in weights if name.endswith(f".{CLASSIFIER_HEAD}.weight")]
    if len(names) != 1:
        return "its adapter has no head with one score"
    weight = weights.pop(names[0])
    head = ScalarHead(weight.shape[1])
    head.weight.data.copy_(weight)
    return add_reward_adapter(model, LoraConfig.from_pretrained(str(folder)), weights, head)
