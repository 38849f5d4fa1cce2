"""One trained reward model: a transformers sequence classifier with one label, from `plaudit reward` or elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.errors import RewardError
from plaudit.rewards.models.card import CARD_FILE, NORMALISATION, READING, SYSTEM_PROMPT, write_card
from plaudit.rewards.models.conversations import (
    Item,
    Layout,
    TrainedLayout,
    WholeConversation,
    fit_positions,
    placed,
)
from plaudit.rewards.models.loading import Loaded, checkpoint_dtype, find, load, weights_fingerprint
from plaudit.rewards.models.model import Looked, RewardModel, ScoringOptions, check_finite, trained_range
from plaudit.rewards.models.normalisation import Measured, Normalisation
from plaudit.rewards.models.scorers import PackedScorer, choose_scorer
from plaudit.types import Floats

if TYPE_CHECKING:
    from torch import Tensor


class Classifier(RewardModel):
    """A reward model with its tokenizer and its way of reading a conversation.

    Args:
        loaded: model, tokenizer and where they come from.
        options: how answers are scored.

    Attributes:
        source, given_base: as they were given to `open`.
        card: what `plaudit.json` says of it.
    """

    def __init__(self, loaded: Loaded, *, source: str | Path, base: str | None, options: ScoringOptions) -> None:
        from plaudit.models.forest_model import causal_lm

        self.loaded, self.options = loaded, options
        self.source, self.given_base, self.name = str(source), base, str(source)
        self.card: dict[str, Any] = dict(loaded.found.card)
        self.folder = loaded.found.folder
        self.notes = list(loaded.notes)
        self.inner: Any = causal_lm(loaded.model)
        self.reading = options.reading(self.card.get(READING) or {}, self.name)
        self.layout: Layout = self._layout()
        kept = self.card.get(NORMALISATION)
        self.normalisation = (
            Normalisation() if kept is None else Normalisation.from_json(kept, str(self.folder or self.name))
        )
        self._measured = trained_range(self.card, str(self.folder or self.name))
        self._truncated = 0
        self._fingerprint: str | None = None
        self._choose()

    @classmethod
    def open(
        cls,
        source: str | Path,
        *,
        base: str | None = None,
        precision: str = "auto",
        options: ScoringOptions | None = None,
    ) -> Classifier:
        """Load a single reward model; arguments and errors as `RewardModel.load`."""
        loaded = load(find(source, base=base, precision=precision))
        return cls(loaded, source=source, base=base, options=options or ScoringOptions())

    def _choose(self) -> None:
        self.scorer = choose_scorer(
            self.loaded.model,
            bos_id=self.layout.bos_id,
            tokens=self.options.tokens,
            notes=self.notes,
        )

    def _layout(self) -> Layout:
        if self.loaded.found.trained_here:
            from plaudit.data.render import Renderer

            return TrainedLayout(Renderer(self.loaded.tokenizer, system_prompt=self.loaded.found.system_prompt))
        return WholeConversation(
            self.loaded.tokenizer,
            pad_id=self.inner.config.get_text_config().pad_token_id,
            plain_text=self.reading["plain_text"],
            append_eos=self.reading["append_eos"],
        )

    @property
    def has_template(self) -> bool:
        """Whether it reads chat messages."""
        return bool(self.loaded.tokenizer.chat_template)

    @property
    def truncated(self) -> int:
        """Answers scored so far whose conversation lost its oldest tokens."""
        return self._truncated

    @property
    def fingerprint(self) -> str:
        """A hash of the weights, equal in every compute precision."""
        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(self.loaded.model)
        return self._fingerprint

    @property
    def measured(self) -> Measured | None:
        """See `RewardModel`."""
        return self._measured

    def raw_score(self, items: Sequence[Item]) -> list[list[float]]:
        """See `RewardModel`."""
        return self._scored(items, latents=False)[0]

    def look(self, items: Sequence[Item], *, latents: bool = False) -> Looked:
        """See `RewardModel`; vectors only from the packed path."""
        raw, vectors = self._scored(items, latents=latents and isinstance(self.scorer, PackedScorer))
        return Looked([[self.normalisation(r) for r in answers] for answers in raw], latents=vectors)

    def _scored(self, items: Sequence[Item], *, latents: bool) -> tuple[list[list[float]], list[list[Floats]] | None]:
        tokenizer = self.loaded.tokenizer
        lead = frozenset(i for i in (tokenizer.bos_token_id, tokenizer.cls_token_id) if i is not None)
        limit = getattr(self.inner.config.get_text_config(), "max_position_embeddings", None)
        fitted = fit_positions(self.layout.groups(items), limit, self.options.overlong, lead)
        self._truncated += fitted.truncated
        if latents:
            assert isinstance(self.scorer, PackedScorer)
            found, vectors = self.scorer.with_latents(fitted.groups)
        else:
            found, vectors = self.scorer(fitted.groups), None
        scores = placed(fitted.keys, found, items)
        check_finite(scores, self.name)
        return scores, None if vectors is None else placed(fitted.keys, vectors, items)

    # -- keeping it

    def save_normalisation(self) -> Path:
        """See `RewardModel`."""
        if self.folder is None:
            raise RewardError(
                "PL702", "the model is not in a folder", where=self.name, mend="name a folder for a copy: --output"
            )
        self.card = self._normalised_card()
        write_card(self.folder / CARD_FILE, self.card)
        return self.folder / CARD_FILE

    def save(self, folder: Path) -> None:
        """See `RewardModel`. A local folder is copied as it is; a hub model is written by transformers."""
        if self.folder is not None:
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        else:
            self.write_model(folder)
        write_card(folder / CARD_FILE, self._normalised_card())

    def _normalised_card(self) -> dict[str, Any]:
        """The card with the normalisation, and with what its numbers depend on."""
        card = {**(self.card or self.new_card()), NORMALISATION: self.normalisation.to_json()}
        if not self.loaded.found.trained_here:
            card[READING] = self.reading
        elif self.loaded.found.system_prompt:
            card[SYSTEM_PROMPT] = self.loaded.found.system_prompt
        return card

    def write_model(self, folder: Path) -> None:
        """Weights and tokenizer in transformers' format, rounded to the checkpoint's own precision (in this object
        too)."""
        from plaudit.models.weights import cast

        folder.mkdir(parents=True, exist_ok=True)
        cast(self.inner, checkpoint_dtype(self.loaded.found))
        with self.scorer.native() as model:
            model.save_pretrained(str(folder))
        self.loaded.tokenizer.save_pretrained(str(folder))

    def new_card(self) -> dict[str, Any]:
        """The card of a model whose weights were derived from this one: it reads text the same way."""
        from plaudit.models.fingerprint import base_fingerprint

        kept: dict[str, Any] = {"kind": self.card.get("kind", "classifier")}
        if self.loaded.found.trained_here and self.loaded.found.system_prompt:
            kept[SYSTEM_PROMPT] = self.loaded.found.system_prompt
        return {**kept, "base_fingerprint": base_fingerprint(self.loaded.model)}

    # -- weights, for averaging

    def merge_adapter(self) -> None:
        """Add an adapter's product to its base; without one, nothing happens."""
        model: Any = self.loaded.model
        if hasattr(model, "peft_config"):
            self.loaded.model = model.merge_and_unload()
            self.inner = self.loaded.model
            self._fingerprint = None
            self._choose()

    def weights(self) -> dict[str, Tensor]:
        """A copy of all parameters and buffers by name."""
        return {name: tensor.detach().clone() for name, tensor in self.loaded.model.state_dict().items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take over what `weights` of another such model gave."""
        self.loaded.model.load_state_dict(weights)
        self._fingerprint = None

    def reads_like(self, other: Classifier) -> bool:
        """Whether both turn text into the same token ids, as far as vocabulary and template decide."""
        mine, theirs = self.loaded.tokenizer, other.loaded.tokenizer
        return bool(
            mine.get_vocab() == theirs.get_vocab()
            and mine.chat_template == theirs.chat_template
            and self.loaded.found.trained_here == other.loaded.found.trained_here
            and self.loaded.found.system_prompt == other.loaded.found.system_prompt
        )
