"""KTO gives TRL's loss and gradients on the same answers and the same mismatched ones.

How these are drawn differs: TRL rotates the answers of a micro-batch in the order of the data, here they are permuted
within the optimiser step.
"""

from __future__ import annotations

import numpy as np
import pytest

from plaudit.methods import find, kto
from plaudit.methods.kto import KTOConfig
from plaudit.types import Completion, PromptGroup
from tests.parity.trl_steps import largest_error, our_step, trl_step
from tests.train.runs import rows_of

trl = pytest.importorskip("trl", reason="pip install -e '.[parity]'")
TOLERANCE = 3e-5


def answer(batch, i, prefix, **more):
    """(prompt, answer) of a row of TRL's batch."""
    real = batch[f"{prefix}attention_mask"][i].bool()
    trained = batch[f"{prefix}completion_mask"][i][real].bool().numpy()
    ids = batch[f"{prefix}input_ids"][i][real].numpy().astype(np.int32)
    return ids[~trained], Completion(ids[trained], np.ones(int(trained.sum()), np.bool_), **more)


def fresh(rows):
    """Groups that a step may extend."""
    return [PromptGroup(prompt, [own]) for prompt, own in rows]


@pytest.mark.parametrize(
    "options",
    [{"beta": 0.5}, {"beta": 0.1, "desirable_weight": 1.7, "undesirable_weight": 0.6}],
    ids=["plain", "class weights"],
)
def test_the_same_step(options, tiny_model_dir, monkeypatch):
    # Rows whose mismatched answers have become likelier, so that the clamp at 0 does not hide the reference point.
    (loss, gradients), batch = trl_step(
        trl.KTOTrainer, trl.KTOConfig, tiny_model_dir, rows_of("feedback", 6, seed=6), dict(options)
    )
    groups, mismatched = [], []
    for i, label in enumerate(batch["label"]):
        prompt, own = answer(batch, i, "", label=bool(label))
        same_prompt, other = answer(batch, i, "KL_", label=True)
        assert same_prompt.tolist() == prompt.tolist()
        assert other.token_ids.tolist() != own.token_ids.tolist()
        groups.append((prompt, own))
        mismatched.append([(other, False)])
    monkeypatch.setattr(kto, "mismatched_answers", lambda *_: mismatched)
    our_loss, our_gradients = our_step(find("kto")(KTOConfig(**options)), tiny_model_dir, fresh(groups))
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert largest_error(our_gradients, gradients) < TOLERANCE
    monkeypatch.setattr(kto, "mismatched_answers", lambda *_: [[] for _ in groups])
    without, _ = our_step(find("kto")(KTOConfig(**options)), tiny_model_dir, fresh(groups))
    assert abs(without - loss) > 1e-4, "the reference point must matter here"
