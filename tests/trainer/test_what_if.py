"""What a photo with more of a concept would change: the model's own answer, and how sure it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shop_samples import make_shop, transports

from crossmedia.features.batch import Batch
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.client import ImageClient
from crossmedia.trainer.feed import Fed
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.image_head import StoredVectors
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.models.concepts import Concepts
from crossmedia.trainer.reasons.contributions import additive
from crossmedia.trainer.reasons.what_if import effects, with_vectors
from crossmedia.trainer.report.certainty import Outcomes, covariance, half_width
from crossmedia.trainer.runs.checkpoint import load_model

SETTINGS: dict[str, Any] = {"epochs": 1, "batch_size": 64, "learning_rate": 1e-2, "width": 4, "max_missing": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(tmp_path_factory.mktemp("what_if"))


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Concepts:
    """A trained one, whose weights of tastes and matches are made large enough to be seen."""
    out = tmp_path_factory.mktemp("runs") / "white"
    fit(FitConfig(str(folder), str(out), model="concepts", **SETTINGS), transports())
    found = additive(load_model(out)[0]).eval()
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if "of_spaces" in name:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    return found


def rows_of(folder: Path) -> Batch:
    return next(Samples(folder).batches("test", 64))


def spaces_with(changed: dict[str, dict[int, np.ndarray[Any, Any]]]) -> Spaces:
    """The vectors of the tests, some of them others."""
    served = transports()
    for name, vectors in changed.items():
        served[name].vectors.update(vectors)
    return Spaces({name: StoredVectors(ImageClient(transport)) for name, transport in served.items()})


def logits(model: Concepts, batch: Batch, spaces: Spaces) -> torch.Tensor:
    fed = Fed.of(batch, torch.device("cpu"))
    with torch.inference_mode():
        found: torch.Tensor = model(fed.tensors, fed.vectors(spaces))[:, 0]
    return found


def test_one_more_of_a_concept_is_what_the_model_says_of_another_photo(model: Concepts, folder: Path) -> None:
    """Against the model itself, given other vectors by its server: what sells, to whom and matches are all in it."""
    batch = rows_of(folder)
    plain = spaces_with({})
    fed = Fed.of(batch, torch.device("cpu"))
    found = effects(model, fed.tensors, fed.vectors(plain))
    assert np.abs(found.more).max(axis=(0, 2)).min() > 0.05, "each kind of term has a part"
    checked = 0
    for row in range(len(batch)):
        one = batch.take(np.array([row]))
        for space, first in (("photo", 0), ("title", 8)):
            keys = one.items.vectors[space]
            own = keys.unique[keys.of_items.take(one.target).values]
            behaviours = keys.unique[keys.of_items.take(one.history.values).values]
            known = [key for key in own.tolist() if key in transports()[space].vectors]
            if not known or np.isin(own, behaviours).any():
                continue  # a photo that is in a behaviour as well would change there, too
            place = row % transports()[space].dim
            moved = {key: transports()[space].vectors[key].astype(np.float32) for key in known}
            for vector in moved.values():
                vector[place] += 1.0
            changed = spaces_with({space: {key: vector.astype(np.float16) for key, vector in moved.items()}})
            difference = float(logits(model, one, changed) - logits(model, one, plain))
            assert difference == pytest.approx(float(found.slopes[row, first + place]), abs=0.01)  # vectors are fp16
            checked += 1
    assert checked > 30


def test_ads_change_and_behaviours_stay(model: Concepts, folder: Path) -> None:
    """The same vector again changes nothing, an item that is ad and behaviour changes as an ad alone."""
    batch, plain = rows_of(folder), spaces_with({})
    fed = Fed.of(batch, torch.device("cpu"))
    vectors = fed.vectors(plain)
    found = effects(model, fed.tensors, vectors)
    there = found.there[:, 0]
    amounts = torch.from_numpy(found.amounts[:, :8])
    with torch.inference_mode():
        same = model(*with_vectors(fed.tensors, vectors, "photo", amounts))[:, 0]
        before = model(fed.tensors, vectors)[:, 0]
    assert same[there].numpy() == pytest.approx(before[there].numpy(), abs=1e-5)
    assert found.contributions.sum(axis=1) == pytest.approx(before.numpy(), abs=1e-5)
    itself = replace(batch, history=replace(batch.history, values=np.repeat(batch.target, batch.history.lengths)))
    fed = Fed.of(itself, torch.device("cpu"))
    vectors = fed.vectors(plain)
    found = effects(model, fed.tensors, vectors)
    amounts = torch.from_numpy(found.amounts[:, :8])
    with torch.inference_mode():
        more = (
            model(*with_vectors(fed.tensors, vectors, "photo", amounts + 1))[:, 0] - model(fed.tensors, vectors)[:, 0]
        )
    with_photo = found.there[:, 0]
    assert more.numpy()[with_photo] == pytest.approx(found.slopes[with_photo, :8].sum(axis=1), abs=1e-4)


def test_what_behaviours_have_is_their_mean(model: Concepts, folder: Path) -> None:
    batch = rows_of(folder)
    fed = Fed.of(batch, torch.device("cpu"))
    found = effects(model, fed.tensors, fed.vectors(spaces_with({})))
    served = transports()["title"].vectors
    keys = batch.items.vectors["title"]
    for row in range(len(batch)):
        own = [
            np.mean(
                [served[key] for key in keys.unique[keys.of_items.take(np.array([item])).values] if key in served]
                or [np.zeros(6)],
                axis=0,
            )
            for item in batch.history.take(np.array([row])).values
        ]
        expected = np.mean(own, axis=0) if own else np.full(6, np.nan)
        assert found.seen[row, 8:] == pytest.approx(expected, abs=1e-3, nan_ok=True)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Clicks drawn again and again: users and items have an own share in each, and the true effects are known."""
    rng = np.random.default_rng(0)
    users, items, rows, draws = 60, 80, 3000, 200
    held = []
    for _ in range(draws):
        amounts = rng.normal(size=(items, 3))
        user, item = rng.integers(users, size=rows), rng.integers(items, size=rows)
        own = 0.5 * rng.normal(size=items)[item] + 0.5 * rng.normal(size=users)[user]
        logit = -1 + amounts[item] @ np.array([0.5, 0.0, -0.3])
        labels = (rng.random(rows) < 1 / (1 + np.exp(-logit - own))).astype(float)
        said = 1 / (1 + np.exp(-logit * 0.94 - 0.06))  # what effects are when the own shares are averaged over
        outcomes = Outcomes(labels, said, amounts[item], user, item, np.zeros(3))
        spread = covariance(outcomes)
        centred = amounts[item] - np.average(amounts[item], axis=0, weights=said * (1 - said))
        information = (centred * (said * (1 - said))[:, None]).T @ centred
        step = np.linalg.solve(information, centred.T @ (labels - said))  # to what these rows say, from the truth
        half = half_width(np.sqrt(np.diag(spread)), outcomes.groups, np.zeros((1, 3)))
        held.append(np.abs(step) < half)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_rows_of_one_item_and_seeds_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    amounts = np.repeat(rng.normal(size=(40, 2)), 25, axis=0)
    labels = np.repeat(rng.random(40) < 0.5, 25).astype(float)  # an item is clicked always or never
    rows, items = np.arange(1000), np.repeat(np.arange(40), 25)
    apart = Outcomes(labels, np.full(1000, 0.5), amounts, rows, rows, np.zeros(2))
    together = replace(apart, items=items)
    assert np.sqrt(np.diag(covariance(together)) / np.diag(covariance(apart))) == pytest.approx(5, rel=0.3)
    errors = np.array([0.1, 0.1])
    one = half_width(errors, 1000, np.zeros((1, 2)))
    same = half_width(errors, 1000, np.zeros((3, 2)))
    others = half_width(errors, 1000, np.array([[0.0, 0.1], [0.1, 0.0], [0.2, 0.2]]))
    assert one == pytest.approx(0.196, abs=1e-3)
    assert (same == one).all()
    assert others == pytest.approx(np.hypot(one, 4.303 * 0.1 / np.sqrt(3)), abs=1e-3)
    assert (half_width(errors, 1000, np.zeros((1, 2)), comparisons=10) > 1.3 * one).all()
    assert (np.diag(covariance(replace(together, precision=np.ones(2)))) < np.diag(covariance(together))).all()
