"""DPO and its variants give TRL's loss and gradients, wherever TRL follows the paper; where it does not, the
difference is exactly the one that our documentation names."""

from __future__ import annotations

import pytest
import torch

from plaudit.methods import find
from tests.parity.trl_steps import largest_error, our_step, pairs_of, trl_step
from tests.train.runs import rows_of

trl = pytest.importorskip("trl", reason="pip install -e '.[parity]'")
TOLERANCE = 3e-5

SAME = [
    ("sigmoid", {"beta": 0.1}, "dpo", {"beta": 0.1}),
    ("hinge", {"beta": 0.1}, "hinge", {"beta": 0.1}),
    ("ipo", {"beta": 0.3}, "ipo", {"tau": 0.3, "normalisation": "mean"}),
    ("exo_pair", {"beta": 0.1, "label_smoothing": 1e-3}, "exo", {"beta": 0.1, "label_smoothing": 1e-3}),
    ("nca_pair", {"beta": 0.1}, "nca", {"beta": 0.1}),
    ("robust", {"beta": 0.1, "label_smoothing": 0.2}, "robust_dpo", {"beta": 0.1, "label_smoothing": 0.2}),
    ("sppo_hard", {"beta": 0.1}, "sppo", {"beta": 0.1}),
    ("aot", {"beta": 0.1}, "aot", {"beta": 0.1}),
    ("aot_unpaired", {"beta": 0.1}, "aot", {"beta": 0.1, "unpaired": True}),
    ("apo_zero", {"beta": 0.1}, "apo_zero", {"beta": 0.1}),
    ("apo_down", {"beta": 0.1}, "apo_down", {"beta": 0.1}),
    ("discopop", {"beta": 0.1, "discopop_tau": 0.05}, "discopop", {"beta": 0.1}),
    ("sigmoid_norm", {"beta": 2.0}, "dpo_norm", {"beta": 2.0}),
    ("sigmoid", {"beta": 0.1, "ld_alpha": 0.4}, "dpo", {"beta": 0.1, "ld_alpha": 0.4}),
    ("sigmoid", {"f_divergence_type": "forward_kl"}, "fdpo", {"divergence": "forward_kl"}),
    ("sigmoid", {"f_divergence_type": "js_divergence"}, "fdpo", {"divergence": "js"}),
    # TRL's α is 1 − the paper's.
    (
        "sigmoid",
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        "fdpo",
        {"divergence": "alpha", "alpha": 0.3},
    ),
]


@pytest.fixture(scope="module")
def theirs(tiny_model_dir, tmp_path_factory):
    cache = {}

    def of(loss_type, **options):
        key = f"{loss_type} {sorted(options.items())}"
        if key not in cache:
            rows = rows_of("preference", 5)
            cache[key] = trl_step(
                trl.DPOTrainer, trl.DPOConfig, tiny_model_dir, rows, {"loss_type": loss_type, **options}
            )
        return cache[key]

    return of


@pytest.mark.parametrize(("loss_type", "options", "method", "own"), SAME, ids=lambda v: v if isinstance(v, str) else "")
def test_the_same_step(loss_type, options, method, own, theirs, tiny_model_dir):
    (loss, gradients), batch = theirs(loss_type, **options)
    found = find(method)
    our_loss, our_gradients = our_step(found(found.Config(**own)), tiny_model_dir, pairs_of(batch))
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert largest_error(our_gradients, gradients) < TOLERANCE


def test_an_additional_likelihood_term(theirs, tiny_model_dir):
    """TRL's ["sigmoid", "sft"] divides by all chosen tokens of the batch."""
    (loss, gradients), batch = theirs(["sigmoid", "sft"], loss_weights=[1.0, 0.7])
    config = find("dpo").Config(nll_weight=0.7, nll_aggregation="token-mean")
    our_loss, our_gradients = our_step(find("dpo")(config), tiny_model_dir, pairs_of(batch))
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert largest_error(our_gradients, gradients) < TOLERANCE


def test_trl_ignores_label_smoothing_of_dpo(theirs, tiny_model_dir):
    """There, cDPO is DPO; here it is cDPO."""
    (plain, _), batch = theirs("sigmoid", beta=0.1)
    (smoothed, _), _ = theirs("sigmoid", beta=0.1, label_smoothing=0.2)
    assert smoothed == plain
    ours, _ = our_step(find("dpo")(find("dpo").Config(label_smoothing=0.2)), tiny_model_dir, pairs_of(batch))
    assert abs(ours - plain) > 1e-3


def test_trl_has_the_wpo_weight_without_its_limit(theirs, tiny_model_dir, monkeypatch):
    """The authors' code clamps the product of the weights at 1. Without the clamp ours is TRL's."""
    (loss, gradients), batch = theirs("sigmoid", beta=0.1, use_weighting=True)
    dpo = find("dpo")
    method = dpo(dpo.Config(weighting="wpo"))
    clamp = torch.Tensor.clamp
    monkeypatch.setattr(torch.Tensor, "clamp", lambda t, *a, **k: t if k == {"max": 1} else clamp(t, *a, **k))
    our_loss, our_gradients = our_step(method, tiny_model_dir, pairs_of(batch))
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert largest_error(our_gradients, gradients) < TOLERANCE


def test_trl_has_no_delta_in_bco_pair(theirs, tiny_model_dir):
    """BCO's δ is the mean of the implicit rewards so far: at the first step it is 0, as it always is in TRL."""
    (loss, gradients), batch = theirs("bco_pair", beta=0.1)
    method = find("bco_pair")(find("bco_pair").Config(beta=0.1))
    our_loss, our_gradients = our_step(method, tiny_model_dir, pairs_of(batch))
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert largest_error(our_gradients, gradients) < TOLERANCE
    method.after_step({"rewards/chosen": 1.0, "rewards/rejected": 0.5})
    later, _ = our_step(method, tiny_model_dir, pairs_of(batch))
    assert abs(later - loss) > 1e-2


def test_mixed_losses(theirs, tiny_model_dir):
    """MPO is TRL's weighted list, whose likelihood is a mean over all chosen tokens."""
    (loss, gradients), batch = theirs(["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0])
    method = find("mpo")(find("mpo").Config(nll_aggregation="token-mean"))
    our_loss, our_gradients = our_step(method, tiny_model_dir, pairs_of(batch))
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert largest_error(our_gradients, gradients) < TOLERANCE
