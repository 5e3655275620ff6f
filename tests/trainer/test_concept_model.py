"""The additive model: its terms, and that they sum to the logit, by hand-made batches and as a slow sum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from concept_cards import card_of
from model_batches import EVERYTHING, SPEC, make_batch

from crossmedia.errors import BadInput
from crossmedia.trainer.layers.additive import MATCH, MISSING, SAME, SELLS, TASTE, ConceptTerms
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.layers.spaces import mean_vectors
from crossmedia.trainer.models import make
from crossmedia.trainer.models.concepts import FASTER, REST, Concepts
from crossmedia.trainer.models.rocket import Rocket

COUNTS = torch.tensor([0, 5, 1, 9, 2, 2, 0, 30, 4])
SPECS = {
    "one image": SPEC,
    "ids only": replace(SPEC, spaces={}),
    "everything": EVERYTHING,
    "no behaviours": replace(EVERYTHING, actions=0),
    "two labels": replace(EVERYTHING, labels=("click", "buy")),
}


def made(spec: InputSpec) -> Concepts:
    """A model with weights that are not zero, acquainted with what it is trained on."""
    torch.manual_seed(5)
    model = make("concepts", spec, 4, {})
    assert isinstance(model, Concepts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.acquaint(COUNTS, {name: card_of(dim) for name, dim in spec.spaces.items()})
    return model.eval()


def layer_of(model: Concepts, space: str) -> ConceptTerms:
    layer = model.of_spaces[space]
    assert isinstance(layer, ConceptTerms)
    return layer


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_contributions_sum_to_the_logit_and_have_a_term_each(spec: InputSpec) -> None:
    model = made(spec)
    batch, vectors = make_batch([3, 0, 2, 7], spec=spec)
    if not spec.actions:
        batch, vectors = make_batch([0, 0, 0, 0], spec=spec)
    found, terms = model.contributions(batch, vectors), model.terms()
    assert found.shape == (4, len(terms), len(spec.labels))
    assert len(set(terms)) == len(terms)
    assert torch.allclose(found.sum(1), model(batch, vectors), atol=1e-6)
    of_behaviours, own = model.by_behaviour(batch, vectors)
    assert of_behaviours.shape[1] == len(own) == sum(term.kind in (MATCH, SAME) for term in terms)
    for place, term in enumerate(own):
        summed = torch.zeros(4, len(spec.labels)).index_add_(0, batch.segments, of_behaviours[:, place])
        assert torch.allclose(summed, found[:, terms.index(term)], atol=1e-6)


@torch.no_grad()
def test_concept_terms_are_what_the_formula_says() -> None:
    """Row by row and behaviour by behaviour, as it is written, with the mean of several images and none at all."""
    model, spec = made(EVERYTHING), EVERYTHING
    batch, vectors = make_batch([3, 0, 2, 7], spec=spec)
    found, terms = model.contributions(batch, vectors)[:, :, 0], model.terms()
    for space, dim in spec.spaces.items():
        of_items, there = mean_vectors(vectors[space], batch.items.vectors[space], batch.items.count)
        scale = torch.ones(dim)
        scale[-1] = REST
        layer = layer_of(model, space)
        assert layer.taste is not None
        assert layer.match is not None
        assert model.weights is not None
        for row in range(4):
            ad = of_items[batch.target[row]] * scale
            absent = found[row, terms.index(next(t for t in terms if t.kind == MISSING and t.space == space))]
            assert absent == pytest.approx(0.0 if there[batch.target[row]] else float(layer.missing[0]))
            user = model.inputs.tables.get_submodule("user_id")(batch.ids["user_id"][row])
            own = torch.arange(len(batch.segments))[batch.segments == row]
            context = model.inputs.action(batch.action[own]) + model.inputs.age(batch.history_age[own])
            column = len(model.item_names) + list(spec.spaces).index(space)
            count = 2 * torch.sigmoid(context @ model.weights.linear.weight[column]) / max(len(own), 1) ** 0.5
            for k in range(dim):
                by_kind = {t.kind: found[row, n] for n, t in enumerate(terms)
                           if t.space == space and t.place == k and t.column in ("", "user_id")}  # fmt: skip
                assert by_kind[SELLS] == pytest.approx(float(ad[k] * layer.sells[k, 0]), abs=1e-6)
                taste = float(ad[k] * (user @ layer.taste[0, :, k, 0]))
                assert by_kind[TASTE] == pytest.approx(taste, abs=1e-5)
                seen = of_items[batch.history[own]][:, k] * scale[k]
                match = ad[k] * (seen * count).sum() * layer.match[k, 0]
                assert by_kind[MATCH] == pytest.approx(float(match), abs=1e-5)


def test_popularity_is_what_the_training_rows_say_and_nothing_of_an_unknown_item() -> None:
    model = made(SPEC)
    counts = COUNTS.float()
    assert model.popularity[[0, 6]].tolist() == [0.0, 0.0]
    assert (counts * model.popularity).sum() == pytest.approx(0.0, abs=1e-4)  # over rows it is 0
    assert model.popularity[7] > model.popularity[3] > model.popularity[2]


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_every_weight_is_stepped_once_and_those_of_what_sells_by_longer_steps(spec: InputSpec) -> None:
    model = made(spec)
    (optimizer,) = model.optimizers(0.01)
    steps = [(parameter, group["lr"]) for group in optimizer.param_groups for parameter in group["params"]]
    fast = {id(layer_of(model, space).sells) for space in spec.spaces}
    assert len({id(parameter) for parameter, _ in steps}) == len(steps) == len(list(model.parameters()))
    for parameter, step in steps:
        assert step == pytest.approx(0.01 * FASTER if id(parameter) in fast else 0.01)


def test_rest_costs_nine_times_as_much() -> None:
    model = made(SPEC)
    layer = layer_of(model, "image")
    assert layer.scale.tolist() == [1.0] * 7 + [pytest.approx(1 / 3)]


def test_vectors_whose_numbers_have_no_names_are_refused() -> None:
    model = make("concepts", EVERYTHING, 4, {})
    with pytest.raises(BadInput, match=r"the space 'title' have no names.*concepts build"):
        model.acquaint(torch.ones(9), {"image": card_of(8)})


@pytest.mark.parametrize("pooling", ["max", "attention"])
def test_no_other_pooling_than_the_mean(pooling: str) -> None:
    with pytest.raises(BadInput, match=f"leave out pooling={pooling}"):
        make("concepts", SPEC, 4, {"pooling": pooling})
    with pytest.raises(BadInput, match=f"leave out pooling={pooling}"):
        make("rocket", SPEC, 4, {"pooling": pooling, "light": "concepts"})


def test_it_is_a_light_net_beside_din_and_is_served_alone() -> None:
    model = make("rocket", EVERYTHING, 4, {"light": "concepts", "light_options": {"l2": 0.5}})
    assert isinstance(model, Rocket)
    batch, vectors = make_batch(spec=EVERYTHING, labels=True)
    model.acquaint(torch.arange(9), {name: card_of(dim) for name, dim in EVERYTHING.spaces.items()})
    light = model.served()
    assert isinstance(light, Concepts)
    assert light.popularity.any()
    with torch.no_grad():
        layer_of(light, "image").sells.fill_(2.0)
    with_penalty, light.l2 = model.loss(batch, vectors), 0.0
    assert (with_penalty - model.loss(batch, vectors)).item() == pytest.approx(0.5 * 8 * 4, rel=1e-5)
    assert torch.allclose(light.contributions(batch, vectors).sum(1), model.eval()(batch, vectors), atol=1e-6)
