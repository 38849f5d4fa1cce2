"""The variable-length path, run on a CPU through a kernel in plain operations.

Packing, launches, merging and backward are held against the definition and against whole models; then which kernel is
admitted, and that a wrong one is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from plaudit.forest.attention import choose, varlen
from plaudit.forest.attention.kernels import AtenEfficient, AtenFlash, FlashPackage
from plaudit.forest.attention.packing import Launch, Packing
from plaudit.forest.attention.plan import Rule
from plaudit.models.forest_model import ForestModel
from plaudit.models.probe import probe
from tests.forest import cases
from tests.forest.matrix import TOLERANCE
from tests.forest.test_attention import HEADS, KEY_HEADS, SHAPES, WIDTH, _compare, _forest, _inputs, dense, visible
from tests.forest.varlen_reference import FakeAten, FakePackage, Reference
from tests.zoo import build

MODELS = ["llama", "qwen3", "mistral", "gemma2", "gemma3", "gpt_oss", "gpt2", "phi3_longrope"]
GPU = (9, 0)


@pytest.fixture(autouse=True)
def _own_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_verdicts", {})
    monkeypatch.setattr(choose, "_notes", {})


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """use(kernel, …): these are the candidates on a CPU."""
    return lambda *kernels: monkeypatch.setitem(choose.CANDIDATES, "cpu", kernels)


def ask(**changes: Any) -> choose.Ask:
    """A request as a GPU of today would make it, on the CPU."""
    plain = choose.Ask(torch.device("cpu"), GPU, torch.float32, HEADS // KEY_HEADS, 16, 16, False, None, None)
    return replace(plain, **changes)


# -- the whole row ----------------------------------------------------------------------------------------------------

MANY = [*SHAPES, ((9, [5]), (7, [4])), ((5, [3, 3]), (4, [2]), (6, [1, 8, 2]), (1, [3, 3, 3])), ((0, [4, 7, 2]),)]


def attended(kernel: varlen.Kernel, forest: Any, window: int | None, cap: float | None = None) -> Callable[..., Tensor]:
    def call(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
        rule = Rule(WIDTH**-0.5, window, cap, sinks)
        return varlen.attend(kernel, q, k, v, Packing.of(forest, window), rule)

    return call


@pytest.mark.parametrize("shape", MANY)
@pytest.mark.parametrize("window", [None, 1, 2, 3, 5, 7, 12, 18, 64])
def test_equals_the_definition(shape: Any, window: int | None) -> None:
    forest = _forest(*shape)
    allowed = visible(forest, window)
    _compare(forest, _inputs(forest), attended(Reference(), forest, window), lambda q, k, v: dense(q, k, v, allowed))


@pytest.mark.parametrize("window", [None, 6])
def test_soft_cap_and_sinks(window: int | None) -> None:
    forest = _forest(*MANY[3])
    allowed = visible(forest, window)
    sinks = torch.tensor([-2.0, 0.0, 1.0, 4.0], requires_grad=True)
    _compare(
        forest,
        [*_inputs(forest), sinks],
        attended(Reference(), forest, window, 0.7),
        lambda q, k, v, s: dense(q, k, v, allowed, cap=0.7, sinks=s),
    )


def test_no_launch_depends_on_the_number_of_segments() -> None:
    for branches in (2, 40):
        for window, launches in ((None, 2), (40, 3)):
            forest, kernel = _forest((30, [14, 15] * branches), (20, [30] * branches)), Reference()
            out = attended(kernel, forest, window)(*_inputs(forest))
            assert kernel.launches == launches
            out.sum().backward()
            assert kernel.launches == 2 * launches
    # One completion for each prompt: nothing is merged at all.
    forest, kernel = _forest(*[(9, [5])] * 7), Reference()
    attended(kernel, forest, None)(*_inputs(forest))
    assert kernel.launches == 1


def test_no_key_of_a_prompt_is_copied() -> None:
    """128 branches on one prompt: the kernels read each token once for itself and each prompt once for all branches;
    under a window a branch reads at most as many further keys as the longest one has tokens."""
    forest, kernel = _forest((300, [8] * 128)), Reference()
    with torch.no_grad():
        attended(kernel, forest, None)(*_inputs(forest))
    packing = Packing.of(forest, None)
    assert packing.corner is None
    assert kernel.keys == forest.num_tokens + 299
    kernel.keys = 0
    with torch.no_grad():
        attended(kernel, forest, 200)(*_inputs(forest))
    assert kernel.keys <= forest.num_tokens + 299 + 127 * 8


def test_a_window_that_nothing_reaches_is_none() -> None:
    forest = _forest((12, [5, 9]))
    longest = 11 + 9
    assert Packing.of(forest, longest) is Packing.of(forest, None)
    assert Packing.of(forest, longest - 1) is not Packing.of(forest, None)
    assert Packing.of(forest, longest - 1) is Packing.of(forest, longest - 1)


# -- whole models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["ragged K", "prompt targets", "split, prompts repeated", "score_last"])
@pytest.mark.parametrize("name", MODELS)
def test_models_equal_the_padded_forward(name: str, shape: str, use: Callable[..., None]) -> None:
    """Log-probs, entropies and every parameter's gradient, to the tolerance of the exactness matrix."""
    kernel = Reference()
    use(kernel)
    found = cases.full(name, shape)
    assert kernel.launches
    assert found.logprob <= TOLERANCE, found
    assert found.entropy <= TOLERANCE, found
    assert found.gradient <= TOLERANCE, found


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gpt_oss"])
def test_checkpointed_activations(name: str, use: Callable[..., None]) -> None:
    """The kernel is chosen inside the first checkpointed layer, which counts what a forward saves."""
    use(Reference())
    found = cases.checkpointed(name, "ragged K", "LoRA all-linear")
    assert found.logprob <= TOLERANCE, found
    assert found.gradient <= TOLERANCE, found


def test_the_local_engine_reads_prompts_with_it(use: Callable[..., None]) -> None:
    import numpy as np

    from plaudit.engines import Sampling
    from plaudit.engines.local import LocalEngine

    class NoText:
        eos_token_id, pad_token_id = 2, 0

        def decode(self, ids: Any, **_: Any) -> str:
            return ""

    model = build("mistral").eval()
    model.generation_config.eos_token_id = 2
    prompts = [np.arange(3, 3 + n, dtype=np.int32) for n in (12, 3, 20)]
    greedy = Sampling(temperature=0, max_new_tokens=12)

    def texts() -> list[list[int]]:
        groups = LocalEngine(ForestModel(model), NoText()).generate(prompts, 1, greedy)
        return [c.token_ids.tolist() for group in groups for c in group.completions]

    without = texts()
    kernel = Reference()
    use(kernel)
    assert texts() == without
    assert kernel.launches


# -- the real kernels' interfaces -------------------------------------------------------------------------------------

ADAPTED: list[tuple[Any, dict[str, Any]]] = [
    (AtenFlash(FakeAten), {"dtype": torch.bfloat16}),
    (AtenFlash(FakeAten), {"dtype": torch.bfloat16, "windowed": True}),
    (AtenFlash(FakeAten), {"dtype": torch.float16, "group": 4, "width": 64, "value_width": 64}),
    (FlashPackage(FakePackage), {"dtype": torch.bfloat16, "windowed": True, "cap": 50.0}),
    (FlashPackage(FakePackage), {"dtype": torch.float16, "group": 1}),
    (AtenEfficient(FakeAten), {}),
    (AtenEfficient(FakeAten), {"group": 4, "value_width": 8}),
    (AtenEfficient(FakeAten), {"dtype": torch.bfloat16, "width": 80, "value_width": 80}),
]


@pytest.mark.parametrize(("kernel", "changes"), ADAPTED)
def test_the_adapters_follow_the_interfaces(kernel: Any, changes: dict[str, Any]) -> None:
    wanted = ask(**changes)
    assert kernel.refuses(wanted) is None
    assert choose.fault(kernel, wanted) is None


@pytest.mark.parametrize("kernel", [AtenFlash(FakeAten), FlashPackage(FakePackage)], ids=["aten", "package"])
@pytest.mark.parametrize("shape", [((5, [1, 1]),), ((5, [1, 1]), (2, [1]), (1, [1]), (4, [1, 1]))], ids=["one", "more"])
def test_segments_of_single_tokens(kernel: Any, shape: Any) -> None:
    """Branches of one token, some segments of none: FlashAttention's short cut for single queries must not be taken."""
    forest = _forest(*shape)
    q, k, v = (x.detach() for x in _inputs(forest))
    assert Packing.of(forest, None).crossing is not None
    want = attended(Reference(), forest, None)(q, k, v)
    torch.testing.assert_close(attended(kernel, forest, None)(q, k, v), want)


@pytest.mark.parametrize(
    ("kernel", "changes", "why"),
    [
        (AtenFlash(FakeAten), {}, "no fp32"),
        (AtenFlash(FakeAten), {"dtype": torch.bfloat16, "cap": 1.0}, "soft-capping"),
        (AtenFlash(FakeAten), {"dtype": torch.bfloat16, "value_width": 8}, "differ in width"),
        (AtenFlash(FakeAten), {"dtype": torch.bfloat16, "width": 12, "value_width": 12}, "not of 12"),
        (AtenFlash(FakeAten), {"dtype": torch.bfloat16, "width": 288, "value_width": 288}, "not of 288"),
        (AtenFlash(FakeAten), {"dtype": torch.bfloat16, "capability": (7, 5)}, "8.0"),
        (FlashPackage(), {"dtype": torch.bfloat16}, "not installed"),
        (FlashPackage(FakePackage), {}, "no fp32"),
        (AtenEfficient(FakeAten), {"cap": 1.0}, "soft-capping"),
        (AtenEfficient(FakeAten), {"windowed": True}, "windows"),
        (AtenEfficient(FakeAten), {"dtype": torch.float64}, "float64"),
        (AtenEfficient(FakeAten), {"dtype": torch.bfloat16, "capability": (7, 5)}, "no bf16"),
    ],
)
def test_what_a_kernel_cannot_do_is_refused(kernel: Any, changes: dict[str, Any], why: str) -> None:
    assert why in (kernel.refuses(ask(**changes)) or "")


@pytest.mark.parametrize("kernel", [AtenFlash(), AtenEfficient()], ids=["flash", "efficient"])
def test_forward_shapes_of_torchs_own_description(kernel: Any) -> None:
    """The shapes that PyTorch says its CUDA operations return (meta tensors) are those that the adapters take."""
    forest = choose.trial(torch.device("cpu"))
    launch = Packing.of(forest, None).own
    on_meta = replace(launch, cu_q=launch.cu_q.to("meta"), cu_k=launch.cu_k.to("meta"))
    q, k = (torch.empty(len(forest.token_ids_T), h, 16, dtype=torch.bfloat16, device="meta") for h in (4, 2))
    out, lse = kernel.forward(q, k, k, on_meta, 0.25, None)
    assert out.shape == q.shape
    assert lse.shape == (4, len(q))


# -- admission --------------------------------------------------------------------------------------------------------


class Wrong(Reference):
    """A kernel with one mistake."""

    name = "a wrong kernel"

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake

    def forward(self, *args: Any) -> tuple[Tensor, Tensor]:
        out, lse = super().forward(*args)
        launch: Launch = args[3]
        if self.mistake == "log-sum-exp in base 2":
            lse = lse / 0.6931
        if self.mistake == "not a number":
            out = out * torch.nan
        if self.mistake == "a wrong last row":
            out[-1] = 0
        if self.mistake == "log-sum-exp per segment":
            raise RuntimeError(f"no room for {len(launch.lengths_q)} segments")
        return out, lse

    def backward(self, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = super().backward(*args)
        launch: Launch = args[6]
        if self.mistake == "a gradient of one head is lost":
            dk = dk.clone()
            dk[:, -1] = 0
        if self.mistake == "the crossing has no gradient" and not launch.causal:
            dv = torch.zeros_like(dv)
        if self.mistake == "no backward":
            raise NotImplementedError("forward only")
        return dq, dk, dv


class OffByOne(Reference):
    """Counts a window without the token itself."""

    name = "a kernel with another window"

    def _moved(self, launch: Launch) -> Launch:
        left, right = launch.window
        return replace(launch, window=(left + 1, right)) if launch.causal and left >= 0 else launch

    def forward(self, q: Tensor, k: Tensor, v: Tensor, launch: Launch, *more: Any) -> tuple[Tensor, Tensor]:
        return super().forward(q, k, v, self._moved(launch), *more)


MISTAKES = [
    "log-sum-exp in base 2",
    "not a number",
    "a wrong last row",
    "a gradient of one head is lost",
    "the crossing has no gradient",
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_kernel_is_found_out(mistake: str, dtype: torch.dtype) -> None:
    assert choose.fault(Reference(), ask(dtype=dtype)) is None
    assert "is wrong by" in (choose.fault(Wrong(mistake), ask(dtype=dtype)) or "")


def test_a_window_off_by_one_is_found_out() -> None:
    wanted = ask(dtype=torch.bfloat16, windowed=True)
    assert choose.fault(Reference(), wanted) is None
    assert "is wrong by" in (choose.fault(OffByOne(), wanted) or "")


def test_the_next_candidate_takes_over(use: Callable[..., None]) -> None:
    """A wrong kernel and two that raise are passed over, each once, and the model trains right with the fourth."""
    kernels = [Wrong("a wrong last row"), Wrong("no backward"), Wrong("log-sum-exp per segment"), Reference()]
    use(*kernels)
    model = ForestModel(build("llama"))
    found = probe(model)
    assert found.path == "forest"
    said = [note for note in found.notes if note.startswith("attention")]
    assert len(said) == 1, found.notes
    assert said[0].startswith("attention uses the reference; a wrong kernel is wrong by")
    assert "failed with NotImplementedError: forward only" in said[0]
    assert "failed with RuntimeError: no room for" in said[0]
    before = [kernel.launches for kernel in kernels]
    probe(model)
    assert [kernel.launches for kernel in kernels[:3]] == before[:3], "the verdict holds for the process"
    assert kernels[3].launches > before[3]


def test_plain_operations_where_no_kernel_is_right(use: Callable[..., None]) -> None:
    use(Wrong("not a number"))
    found = probe(ForestModel(build("gemma2")))
    assert found.path == "forest"
    said = [note for note in found.notes if "plain operations" in note]
    assert any(
        note.startswith("attention with a sliding window and soft-capping uses plain operations") for note in said
    )


def test_a_window_has_a_verdict_of_its_own(use: Callable[..., None]) -> None:
    """A kernel without windows serves the layers without one, and forests that no window cuts."""
    whole = AtenEfficient(FakeAten)
    use(whole)
    forest = _forest((12, [5, 9]))
    q, k, v = _inputs(forest)
    layer = choose.Ask.of(q, k, v, Rule(1.0, 6))
    assert choose.kernel_for(layer, Packing.of(forest, 6)) is None
    assert choose.kernel_for(choose.Ask.of(q, k, v, Rule(1.0, 600)), Packing.of(forest, 600)) is whole
    assert choose.kernel_for(choose.Ask.of(q, k, v, Rule(1.0)), Packing.of(forest, None)) is whole


def test_memory_that_is_short_says_nothing_about_a_kernel() -> None:
    class Large(Reference):
        def forward(self, *args: Any) -> tuple[Tensor, Tensor]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        choose.fault(Large(), ask())


def test_the_comparison_leaves_the_random_state_alone() -> None:
    """And it works where nothing may be recorded."""
    state = torch.get_rng_state()
    with torch.inference_mode():
        assert choose.fault(Reference(), ask()) is None
    assert torch.equal(state, torch.get_rng_state())


def test_a_cpu_has_no_candidates() -> None:
    """Its rectangles go to torch's flash kernel for CPUs, as ever."""
    assert "cpu" not in choose.CANDIDATES
    probe(ForestModel(build("llama")))
    assert choose.kernel_notes() == ()


def test_the_candidates_for_cuda() -> None:
    kernels: Sequence[choose.Candidate] = choose.CANDIDATES["cuda"]
    assert [type(kernel) for kernel in kernels] == [AtenFlash, FlashPackage, AtenEfficient]
