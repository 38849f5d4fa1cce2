"""`ForestModel`: the only call into a model, and the module that parallel wrappers wrap.

Going around it is how things went wrong elsewhere: calling the trunk and the head weight from outside skips DDP's
gradient sync, crashes FSDP2, ignores LoRA on the output head and loses hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from plaudit.errors import ModelError
from plaudit.forest import attention
from plaudit.forest.layout import Forest, Piece
from plaudit.forest.logprob import TokenStats, fused_token_stats, module_token_stats
from plaudit.methods.base import Role, Scores, Statistic
from plaudit.models.fused import use_fused
from plaudit.models.heads import CLASSIFIER_HEAD, ScalarHead, is_classifier
from plaudit.models.padded import padded_hidden
from plaudit.models.positions import PositionRegime

AttentionPath = Literal["forest", "padded"]


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """How one role uses the shared base."""

    adapter: str | None = None
    """The adapter that is active; None = no adapter (the base alone, or a model without adapters)."""
    head: Literal["lm", "scalar"] = "lm"
    """lm = the model's own output head; scalar = a linear head with one output (values, rewards): a reward model's own,
    or on a language model one of the role."""


def causal_lm(model: nn.Module) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    get_base: Any = getattr(model, "get_base_model", None)
    return model if get_base is None else get_base()


def decoder_of(model: nn.Module) -> nn.Module:
    """The trunk: everything below the output head."""
    inner = causal_lm(model)
    trunk = getattr(inner, inner.base_model_prefix, None)
    if not isinstance(trunk, nn.Module):
        raise ModelError(
            "PL303",
            f"{type(inner).__name__} does not expose its trunk",
            mend="open an issue with the model's name",
            where=type(inner).__name__,
        )
    return trunk


class _LmHead:
    """The output head with what the model's own forward does after it."""

    def __init__(self, model: nn.Module) -> None:
        inner = causal_lm(model)
        self.module: nn.Module = inner.get_output_embeddings()
        if self.module is None:
            raise ModelError(
                "PL303",
                f"{type(inner).__name__} has no output head",
                where=type(inner).__name__,
                mend="give a causal language model (…ForCausalLM)",
            )
        config = inner.config
        divide = getattr(config, "logits_scaling", None) or 1.0  # Granite
        multiply = getattr(config, "logit_scale", None) or 1.0  # Cohere
        self.scale = float(multiply) / float(divide)
        self.cap: float | None = getattr(config, "final_logit_softcapping", None)  # Gemma-2
        self.fused = (
            type(self.module) is nn.Linear and self.module.bias is None and self.scale == 1.0 and self.cap is None
        )
        self.vocabulary = int(config.vocab_size)

    def transform(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, D] → [n, V] fp32, as the model's own forward gives them."""
        return self.transform(self.module(hidden)).float()

    def __call__(self, hidden: Tensor, targets: Tensor, temperature: float, stats: frozenset[str]) -> TokenStats:
        if self.fused:
            weight = self.module.weight
            assert isinstance(weight, Tensor)
            return fused_token_stats(hidden, weight, targets, temperature=temperature, stats=stats)
        return module_token_stats(
            hidden, self.module, self.transform, targets, self.vocabulary, temperature=temperature, stats=stats
        )


class ForestModel(nn.Module):
    """A causal language model, or a reward model, that scores forests in one or several roles.

    Args:
        model: a transformers causal LM or a sequence classifier with one label, or a PeftModel around one.
        roles: how each role uses it; default is the policy alone, or the reward of a classifier (with the active
            adapter, if any).
        path: "forest" packs; "padded" runs one padded row per completion (state-space and hybrid models).
        bos_id: stands in for an empty prompt.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        roles: Mapping[Role, RoleSpec] | None = None,
        path: AttentionPath = "forest",
        bos_id: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.has_adapters = hasattr(model, "peft_config")
        self.is_reward = is_classifier(causal_lm(model))
        self.roles: dict[Role, RoleSpec] = dict(roles or self._only_role())
        self.path: AttentionPath = path
        self.bos_id = bos_id
        self.regime = PositionRegime.of(causal_lm(model).config)
        self.native_attention: str = native_implementation(causal_lm(model))
        self.heads = nn.ModuleDict(
            {
                role: ScalarHead(self.width, self.device)
                for role, spec in self.roles.items()
                if spec.head == "scalar" and not self.is_reward
            }
        )
        self.compute_dtype: torch.dtype | None = None
        """set when the weights are sharded over several processes (`plaudit.train.sharding`): what the model then
        computes in, where the shards of trained weights are fp32"""
        self._adapter: str | None = self._initial_adapter()
        self._role: Role | None = None
        self.set_path(path)
        if self.device.type == "cpu":
            use_fused(model)

    def _only_role(self) -> dict[Role, RoleSpec]:
        adapter = self._initial_adapter()
        return {"reward": RoleSpec(adapter, head="scalar")} if self.is_reward else {"policy": RoleSpec(adapter)}

    def _initial_adapter(self) -> str | None:
        return str(self.model.active_adapter) if self.has_adapters else None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Compute precision: the dtype of most parameters."""
        if self.compute_dtype is not None:
            return self.compute_dtype
        return next(p for p in self.model.parameters() if p.ndim > 1).dtype

    @property
    def sharded(self) -> bool:
        """Whether the weights are spread over several processes: then a forward is something that all make together."""
        return self.compute_dtype is not None

    @property
    def width(self) -> int:
        """Entries of a hidden state."""
        return int(causal_lm(self.model).config.get_text_config().hidden_size)

    @property
    def vocabulary(self) -> int:
        """Tokens that the model has."""
        # Of the configuration, which resizing keeps true: what PEFT puts around an embedding to train some rows of it
        # does not say how many there are.
        return int(causal_lm(self.model).config.get_text_config().vocab_size)

    def add_role(self, role: Role, spec: RoleSpec, head: ScalarHead | None = None) -> None:
        """Let this model play a further role, or the same one otherwise.

        Args:
            head: the role's own, for `spec.head` "scalar"; on a reward model it stands before the model's.
        """
        assert self._role is None, "a role is active"
        assert (spec.head == "scalar") or head is None, "the output head is the model's own"
        self.roles[role] = spec
        if head is not None:
            self.heads[role] = head.to(self.device)

    def remove_role(self, role: Role) -> None:
        """Undo `add_role`."""
        assert self._role is None, "a role is active"
        del self.roles[role]
        if role in self.heads:
            del self.heads[role]

    def set_path(self, path: AttentionPath) -> None:
        """Choose how forwards are computed; the attention implementation is set to match."""
        self.path = path
        _set_implementation(self.model, attention.NAME if path == "forest" else self.native_attention)

    @contextmanager
    def native(self) -> Iterator[nn.Module]:
        """The model with its own attention and in evaluation mode: for `generate` and for reference forwards."""
        training = self.model.training
        _set_implementation(self.model, self.native_attention)
        self.model.eval()
        try:
            yield self.model
        finally:
            self.model.train(training)
            self.set_path(self.path)

    @contextmanager
    def role(self, role: Role) -> Iterator[ForestModel]:
        """Everything inside, forward *and* backward, is done by this role.

        Leaving the context between a forward and its backward under gradient checkpointing would recompute with another
        adapter, which gives a silently wrong gradient.
        """
        previous_role, previous_adapter = self._role, self._adapter
        self._activate(self.roles[role].adapter)
        self._role = role
        try:
            yield self
        finally:
            if isinstance(self, FSDPModule):
                self.reshard()  # after a forward without a backward the root's weights are whole still, and would age
            self._role = previous_role
            self._activate(previous_adapter)

    def _activate(self, adapter: str | None) -> None:
        if not self.has_adapters or adapter == self._adapter:
            return
        # PEFT's switches also change requires_grad, of other roles' adapters too; ours must not.
        flags = {p: p.requires_grad for p in self.model.parameters()}
        tuner: Any = self.model.base_model
        if adapter is None:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            tuner.set_adapter(adapter)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        self._adapter = adapter

    def forward(
        self,
        forest: Forest,
        role: Role = "policy",
        stats: frozenset[Statistic] = frozenset({"logprob"}),
        temperature: float = 1.0,
    ) -> Scores:
        """Score a forest.

        Args:
            forest: the packed micro-batch.
            role: must be the role whose context is active.
            stats: what to compute: logprob, entropy, log_sum_p2 (language-model head), value, last (scalar head),
                latent (beside last: what the head reads).
            temperature: logits are divided by it.

        Returns:
            Scores in the order of `forest.targets_N`, fp32.
        """
        assert role == self._role, f"forward as {role!r} outside `with model.role({role!r})`"
        hidden_TD = self._hidden(forest)
        scores = Scores()
        if stats & {"logprob", "entropy", "log_sum_p2"}:
            positions = torch.cat([forest.target_positions_N, forest.prompt_target_positions_M])
            targets = torch.cat([forest.targets_N, forest.prompt_targets_M])
            found = _LmHead(self.model)(hidden_TD[positions], targets, temperature, frozenset(stats))
            n = len(forest.targets_N)
            # Copies, not views: FSDP2 hangs its backward hook on these, and an in-place operation on a view drops it.
            scores.logprobs_N, scores.prompt_logprobs_M = found.logprob[:n].clone(), found.logprob[n:].clone()
            scores.entropy_N = None if found.entropy is None else found.entropy[:n].clone()
            scores.log_sum_p2_N = None if found.log_sum_p2 is None else found.log_sum_p2[:n].clone()
        if "value" in stats:
            scores.values_N = self._scalar(role, hidden_TD[forest.target_positions_N])
        if "last" in stats:
            assert forest.last_positions_C is not None, "pack with score_last for a head that reads the last token"
            scores.last_C = self._scalar(role, hidden_TD[forest.last_positions_C])
            if "latent" in stats:
                scores.latents_CD = hidden_TD[forest.last_positions_C].detach().float()
        return scores

    @torch.no_grad()
    def hidden_states(self, layout: attention.Layout, role: Role = "policy") -> Tensor:
        """Hidden states of the last layer over a layout that attends by itself (generation): [T, D].

        Only on the path "forest"; `role` must be the role whose context is active.
        """
        assert role == self._role, f"forward as {role!r} outside `with model.role({role!r})`"
        assert self.path == "forest", "a model on the padded path has no attention that could be replaced"
        return self._hidden(layout)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits of hidden states, with what the model's own forward does after its head: [n, D] → [n, V]
        fp32."""
        return _LmHead(self.model).logits(hidden)

    def _scalar(self, role: Role, hidden: Tensor) -> Tensor:
        """The scalar head of a role, its own or a reward model's; through PEFT's wrapper the latter is the active
        adapter's. [n, D] → [n] fp32"""
        head: Any = self.heads[role] if role in self.heads else getattr(causal_lm(self.model), CLASSIFIER_HEAD)
        scores: Tensor = head(hidden.float()).squeeze(-1).clone()
        return scores

    def _hidden(self, forest: Forest | attention.Layout) -> Tensor:
        """Hidden states of the last layer, one row per packed position: [T, D]."""
        trunk = decoder_of(self.model)
        if self.path == "padded":
            assert isinstance(forest, Forest)
            return padded_hidden(trunk, forest)
        ids = forest.token_ids_T[None]
        output = trunk(
            input_ids=ids,
            # Says nothing, but without one transformers looks for packed rows in the positions, and waits for the
            # device to learn what it has found.
            attention_mask=torch.ones((1, 1), dtype=torch.bool, device=ids.device).expand(ids.shape),
            position_ids=forest.position_ids_T[None],
            use_cache=False,
            **{attention.LAYOUT_KEYWORD: forest},
        )
        hidden: Tensor = output[0][0]
        return hidden

    def position_regime(self, piece: Piece) -> int:
        """See `PositionRegime`: pieces of different regimes must not share a forest."""
        return self.regime(piece, self.bos_id)


def native_implementation(inner: Any) -> str:
    """The attention that this transformers model runs by itself: its present one, unless that leaves something out.

    PyTorch's `sdpa` has no argument for soft-capping and drops it in silence. transformers before 5.21 picks it for
    Gemma-2 all the same.
    """
    current: str | None = inner.config._attn_implementation
    if current is None or current == attention.NAME:
        current = "sdpa" if inner._supports_sdpa else "eager"
    capped = getattr(inner.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped and current == "sdpa" else current


def _set_implementation(model: nn.Module, name: str) -> None:
    inner = causal_lm(model)
    if inner.config._attn_implementation != name and inner._supports_attention_backend:
        inner.set_attn_implementation(name)
