"""Layers against plain numpy, and the models over hand-made batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.layers.attention import ActivationUnit
from trainer.layers.dice import Dice
from trainer.layers.inputs import ImageProjection, InputSpec
from trainer.layers.jagged import segment_mean, segment_sum
from trainer.models import DIN, MODELS
from trainer.tensors import ImageVectors, TensorBatch, TensorImages

LENGTHS = [3, 0, 2]
SPEC = InputSpec({"item_id": 9, "shop_id": 4}, {"user_id": 5}, {"title": 6}, 7, 3, vector_dim=8)


def make_batch(lengths: list[int] = LENGTHS, seed: int = 0) -> tuple[TensorBatch, ImageVectors]:
    rng = torch.Generator().manual_seed(seed)

    def ids(n: int, size: int) -> Tensor:
        return torch.randint(0, size, (n,), generator=rng)

    b, n, k = len(lengths), sum(lengths), 5
    segments = torch.repeat_interleave(torch.arange(b), torch.tensor(lengths))
    batch = TensorBatch(
        labels={"click": torch.ones(b)},
        ids={"item_id": ids(b, 9), "shop_id": ids(b, 4), "user_id": ids(b, 5)},
        history={"item_id": ids(n, 9), "shop_id": ids(n, 4), "action": ids(n, 3)},
        history_age=ids(n, 32),
        segments=segments,
        lengths=torch.tensor(lengths),
        text={"title": (ids(4, 6), torch.tensor([0, 0, 1, 1]))},
        images=TensorImages(ids(k, 7), ids(b, k + 1) - 1, ids(n, k + 1) - 1),
    )
    return batch, ImageVectors(torch.randn(k, 8, generator=rng), torch.tensor([True, True, False, True, True]))


def test_segments() -> None:
    values, segments = torch.randn(5, 2), torch.tensor([0, 0, 0, 2, 2])
    plain = np.stack([values[:3].sum(0).numpy(), np.zeros(2), values[3:].sum(0).numpy()])
    assert np.allclose(segment_sum(values, segments, 3), plain, atol=1e-6)
    assert np.allclose(segment_mean(values, segments, 3), plain / np.array([[3], [1], [2]]), atol=1e-6)


def test_dice_follows_its_equation_in_training_and_evaluation() -> None:
    dice, x = Dice(4), torch.randn(50, 4) * 3 + 1
    with torch.no_grad():
        dice.alpha.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    s, alpha = x.numpy(), dice.alpha.detach().numpy()
    p = 1 / (1 + np.exp(-(s - s.mean(0)) / np.sqrt(s.var(0) + 1e-8)))
    assert np.allclose(dice(x).detach(), p * s + (1 - p) * alpha * s, atol=1e-5)
    dice.eval()
    assert dice.norm.running_mean is not None
    assert dice.norm.running_var is not None
    mean, var = dice.norm.running_mean.numpy(), dice.norm.running_var.numpy()
    p = 1 / (1 + np.exp(-(s - mean) / np.sqrt(var + 1e-8)))
    assert np.allclose(dice(x).detach(), p * s + (1 - p) * alpha * s, atol=1e-5)


def test_factorised_attention_equals_the_plain_one_with_its_gradients() -> None:
    torch.manual_seed(1)
    unit = ActivationUnit(6).double()
    h = torch.randn(5, 6, dtype=torch.double, requires_grad=True)
    t = torch.randn(3, 6, dtype=torch.double, requires_grad=True)
    segments = torch.tensor([0, 0, 0, 2, 2])
    spread = t[segments]
    plain = unit.rest(unit.first(torch.cat([h, spread, h - spread, h * spread], dim=1))).squeeze(-1)
    fast = unit(h, t, segments)
    assert torch.allclose(fast, plain)
    weights = torch.randn(5, dtype=torch.double)
    parameters = [h, t, *unit.parameters()]
    for a, b in zip(
        torch.autograd.grad((fast * weights).sum(), parameters),
        torch.autograd.grad((plain * weights).sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(a, b)


def test_missing_images_are_one_learned_vector() -> None:
    projection = ImageProjection(8, 4)
    with torch.no_grad():
        projection.missing.fill_(7.0)
    _, vectors = make_batch()
    rows = projection(vectors)
    assert rows.shape == (6, 4)
    assert (rows[2] == 7).all()
    assert (rows[-1] == 7).all()
    assert torch.allclose(rows[0], projection.linear(vectors.values[0]))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("images", [True, False])
def test_a_row_does_not_depend_on_the_others(name: str, images: bool) -> None:
    """Jagged rows: the logit of a row is the same alone, with others, and with its history in another order."""
    torch.manual_seed(2)
    spec = SPEC if images else InputSpec(**{**vars(SPEC), "vector_dim": 0})
    model = MODELS[name](spec, width=4).eval()
    batch, vectors = make_batch()
    given = vectors if images else None
    with torch.no_grad():
        together = model(batch, given)
        for row, length in enumerate(LENGTHS):
            here = batch.segments == row
            turned = torch.flip(torch.arange(len(batch.segments))[here], [0])
            assert batch.images is not None
            words, owners = batch.text["title"]
            alone = TensorBatch(
                labels={},
                ids={k: v[row : row + 1] for k, v in batch.ids.items()},
                history={k: v[turned] for k, v in batch.history.items()},
                history_age=batch.history_age[turned],
                segments=torch.zeros(length, dtype=torch.int64),
                lengths=torch.tensor([length]),
                text={"title": (words[owners == row], torch.zeros(int((owners == row).sum()), dtype=torch.int64))},
                images=TensorImages(
                    batch.images.unique_index, batch.images.target[row : row + 1], batch.images.history[turned]
                ),
            )
            assert torch.allclose(model(alone, given)[0], together[row], atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_without_any_history_trains(name: str) -> None:
    batch, vectors = make_batch([0, 0, 0])
    model = MODELS[name](SPEC, width=4)
    model(batch, vectors).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_dins_interest_is_the_weighted_sum_of_its_attention() -> None:
    torch.manual_seed(3)
    model = DIN(SPEC, width=4).eval()
    batch, vectors = make_batch()
    weights = model.attention(batch, vectors)
    x = model.inputs(batch, vectors)
    slow = torch.stack(
        [
            sum((weights[n] * x.history[n] for n in range(5) if batch.segments[n] == b), torch.zeros(20))
            for b in range(3)
        ]
    )
    logits = model.mlp(torch.cat([x.target, slow, x.other], dim=1))
    assert torch.allclose(logits, model(batch, vectors), atol=1e-5)


def test_images_on_needs_vectors_and_off_refuses_them() -> None:
    batch, vectors = make_batch()
    with pytest.raises(ValueError, match="exactly when"):
        DIN(SPEC, width=4)(batch, None)
    with pytest.raises(ValueError, match="exactly when"):
        DIN(InputSpec(**{**vars(SPEC), "vector_dim": 0}), width=4)(batch, vectors)
