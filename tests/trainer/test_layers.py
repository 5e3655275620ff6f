"""Layers, optimizer and regulariser against plain versions, gradients included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_batches import EVERYTHING, SPEC, make_batch
from torch import Tensor

from crossmedia.errors import BadInput
from crossmedia.trainer.layers import aggregators
from crossmedia.trainer.layers.attention import ActivationUnit
from crossmedia.trainer.layers.auxiliary import auxiliary_loss, draw_negatives
from crossmedia.trainer.layers.batch_norm import BatchNormReLU
from crossmedia.trainer.layers.dense import behaviour_features, dense_feature_count, dense_features, image_features
from crossmedia.trainer.layers.dice import Dice
from crossmedia.trainer.layers.gru import JaggedGRU, Packing, Variant
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.layers.jagged import segment_max, segment_mean, segment_softmax, segment_sum
from crossmedia.trainer.layers.numbers import NumberEmbedding
from crossmedia.trainer.layers.similarity import SimTiers, similarity
from crossmedia.trainer.layers.spaces import SpaceInput
from crossmedia.trainer.layers.sparse import SparseFeatures, SparseLinear
from crossmedia.trainer.layers.sparse import _hash as hashed
from crossmedia.trainer.models import make
from crossmedia.trainer.models.muse import MUSE
from crossmedia.trainer.tensors import Bag, ImageVectors
from crossmedia.trainer.training.ftrl import FTRL

Floats = npt.NDArray[np.float64]
lengths_of_rows = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def segments_of(lengths: list[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


@given(lengths_of_rows, st.integers(0, 9))
def test_segments(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    segments, rows = segments_of(lengths), len(lengths)
    values = torch.randn(len(segments), 2, dtype=torch.double)
    each = [values[segments == row].numpy() for row in range(rows)]

    def plain(reduce: Callable[[Floats], Floats]) -> Floats:
        return np.stack([reduce(part) if len(part) else np.zeros(2) for part in each])

    assert np.allclose(segment_sum(values, segments, rows), plain(lambda part: part.sum(0)))
    assert np.allclose(segment_mean(values, segments, rows), plain(lambda part: part.mean(0)))
    assert np.allclose(segment_max(values, segments, rows), plain(lambda part: part.max(0)))
    found = segment_softmax(values[:, 0], segments, rows).numpy()
    for row, part in enumerate(each):
        exps = np.exp(part[:, 0])
        assert np.allclose(found[(segments == row).numpy()], exps / exps.sum() if len(exps) else exps)


def test_batch_norm_follows_its_equation_in_training_and_evaluation() -> None:
    layer, x = BatchNormReLU(4), torch.randn(50, 4) * 3 + 1
    with torch.no_grad():
        layer.norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0, 1.0]))
        layer.norm.bias.copy_(torch.tensor([0.0, 0.1, -0.2, 0.3]))
    s, gamma, beta = x.numpy(), layer.norm.weight.detach().numpy(), layer.norm.bias.detach().numpy()
    by_hand = np.maximum(0, gamma * (s - s.mean(0)) / np.sqrt(s.var(0) + 1e-5) + beta)
    assert np.allclose(layer(x).detach(), by_hand, atol=1e-5)
    mean, var = 0.1 * s.mean(0), 0.9 + 0.1 * s.var(0, ddof=1)
    by_averages = np.maximum(0, gamma * (s - mean) / np.sqrt(var + 1e-5) + beta)
    assert np.allclose(layer(x[:1]).detach(), by_averages[:1], atol=1e-5)  # one row alone, in training
    layer.eval()
    assert np.allclose(layer(x).detach(), by_averages, atol=1e-5)


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


def own_photos(bag: Bag, item: int, ok: Tensor) -> list[int]:
    """Which vectors an item has that are there."""
    return [int(place) for place in bag.values[bag.owners == item] if ok[place]]


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
@pytest.mark.parametrize("spec", [SPEC, EVERYTHING], ids=["one image", "several"])
def test_what_items_show_is_pooled_as_a_loop_over_them_would(pooling: str, spec: InputSpec) -> None:
    """Several vectors, missing ones among them, of targets and behaviours; without any a learned one stands there."""
    torch.manual_seed(0)
    batch, found = make_batch([4, 0, 5, 3], spec=spec)
    vectors, bag, ids = found["image"], batch.items.vectors["image"], torch.randn(4, 6)
    layer = SpaceInput(8, 4, pooling, ids=6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    target, history = layer(vectors, batch, "image", ids)

    def query(row: int) -> Tensor:
        assert layer.query is not None
        own = own_photos(bag, int(batch.target[row]), vectors.ok)
        mean = layer.linear(vectors.values[own]).mean(0) if own else layer.missing
        asking = torch.cat([ids[row], mean])
        asked: Tensor = layer.query((asking - asking.mean()) / (asking.var(unbiased=False) + 1e-5).sqrt())
        return asked / 2

    def shown(item: int, row: int) -> Tensor:
        own = own_photos(bag, item, vectors.ok)
        if not own:
            return layer.missing
        rows: Tensor = layer.linear(vectors.values[own])
        if pooling == "max":
            return rows.amax(0)
        weights = torch.full((len(own),), 1 / len(own))
        if pooling == "attention":
            centred = rows - rows.mean(1, keepdim=True)
            scaled = centred / (rows.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            weights = torch.softmax(scaled @ query(row), 0)
        return (weights[:, None] * rows).sum(0)

    segments = batch.segments.tolist()
    slow = [shown(item, row) for item, row in zip(batch.history.tolist(), segments, strict=True)]
    assert torch.allclose(history, torch.stack(slow), atol=1e-5)
    slow = [shown(item, row) for row, item in enumerate(batch.target.tolist())]
    assert torch.allclose(target, torch.stack(slow), atol=1e-5)
    if pooling == "attention":
        of_target, weights = layer.target_weights(vectors, batch, "image", ids)
        sums = segment_sum(weights, of_target.owners, 4)
        there = [bool(own_photos(bag, item, vectors.ok)) for item in batch.target.tolist()]
        assert torch.allclose(sums, torch.tensor(there).float())


def test_attention_begins_as_the_mean() -> None:
    batch, found = make_batch([4, 0, 5, 3], spec=EVERYTHING)
    torch.manual_seed(0)
    mean = SpaceInput(8, 4)
    attention = SpaceInput(8, 4, "attention", ids=6)
    attention.load_state_dict(mean.state_dict(), strict=False)
    ids = torch.randn(4, 6)
    for one, other in zip(
        mean(found["image"], batch, "image", ids), attention(found["image"], batch, "image", ids), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_missing_number_is_a_learned_vector_with_a_gradient_of_its_own() -> None:
    torch.manual_seed(0)
    layer = NumberEmbedding(("price", "stars"), 3)
    with torch.no_grad():
        layer.bias.normal_()
        layer.missing.normal_()
    columns = {"price": torch.tensor([2.0, torch.nan]), "stars": torch.tensor([torch.nan, -1.0])}
    found = layer(columns)
    assert torch.allclose(found[0, :3], 2 * layer.weight[0] + layer.bias[0])
    assert torch.equal(found[0, 3:], layer.missing[1])
    assert torch.equal(found[1, :3], layer.missing[0])
    found.sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, torch.tensor([[2.0] * 3, [-1.0] * 3]))


@given(lengths_of_rows, st.lists(st.integers(0, 5), max_size=8))
def test_some_lists_of_a_bag(lengths: list[int], chosen: list[int]) -> None:
    owners, lists = segments_of(lengths), [place % len(lengths) for place in chosen]
    bag = Bag(torch.arange(len(owners)) * 10, owners)
    found = bag.of(torch.tensor(lists, dtype=torch.int64), len(lengths))
    each = [bag.values[owners == place].tolist() for place in lists]
    assert found.values.tolist() == [value for values in each for value in values]
    assert found.owners.tolist() == [n for n, values in enumerate(each) for _ in values]


def plain_gru(layer: JaggedGRU, rows: list[Tensor], attention: list[Tensor]) -> list[Tensor]:
    """The equations, one row and one step at a time."""
    states = []
    for entries, a in zip(rows, attention, strict=True):
        h = torch.zeros(layer.recurrent.shape[1], dtype=entries.dtype)
        for x, share in zip(entries, a, strict=True):
            x_u, x_r, x_c = layer.input(x).chunk(3)
            u_u, u_r, u_c = (layer.recurrent @ h).chunk(3)
            u, r = torch.sigmoid(x_u + u_u), torch.sigmoid(x_r + u_r)
            c = torch.tanh(x_c + r * u_c)
            gate = {"gru": u, "agru": share, "augru": share * u}[layer.variant]
            h = (1 - gate) * h + gate * c
            states.append(h)
    return states


@pytest.mark.parametrize("variant", ["gru", "agru", "augru"])
@given(lengths=lengths_of_rows, seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_the_jagged_gru_equals_its_equations_with_their_gradients(
    variant: Variant, lengths: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    layer, segments = JaggedGRU(3, 4, variant).double(), segments_of(lengths)
    n = len(segments)
    entries = torch.randn(n, 3, dtype=torch.double, requires_grad=True)
    attention = torch.rand(n, dtype=torch.double, requires_grad=True)
    packing = Packing.of(torch.tensor(lengths), segments)
    packed = layer(entries[packing.order], packing, None if variant == "gru" else attention[packing.order])
    fast = packed[packing.place]
    by_row = [segments == row for row in range(len(lengths))]
    slow = plain_gru(layer, [entries[here] for here in by_row], [attention[here] for here in by_row])
    if not n:
        assert fast.shape == (0, 4)
        return
    plain = torch.stack(slow)
    assert torch.allclose(fast, plain)
    weights = torch.randn(n, 4, dtype=torch.double)
    parameters = [entries, *layer.parameters(), *([] if variant == "gru" else [attention])]
    for a, b in zip(
        torch.autograd.grad((fast * weights).sum(), parameters, retain_graph=True),
        torch.autograd.grad((plain * weights).sum(), parameters, retain_graph=True),
        strict=True,
    ):
        assert torch.allclose(a, b)
    last = packing.last(packed)
    ends = np.cumsum(lengths) - 1
    for row, length in enumerate(lengths):
        assert torch.allclose(last[row], plain[ends[row]] if length else torch.zeros(4, dtype=torch.double))


@given(lengths_of_rows, st.integers(0, 99))
def test_drawn_negatives_are_never_a_behaviour_of_their_row(lengths: list[int], seed: int) -> None:
    segments = segments_of(lengths)
    items = torch.randint(0, 6, (len(segments),), generator=torch.Generator().manual_seed(seed))
    drawn, found = draw_negatives(items, segments, torch.Generator().manual_seed(seed))
    for n in torch.nonzero(found).flatten().tolist():
        assert items[drawn[n]] not in items[segments == segments[n]]


def test_the_auxiliary_loss_is_its_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    segments = segments_of([3, 0, 2])
    states, entries = torch.randn(5, 4), torch.randn(5, 4)
    drawn, found = torch.tensor([3, 4, 3, 0, 1]), torch.tensor([True, True, False, True, True])
    monkeypatch.setattr("crossmedia.trainer.layers.auxiliary.draw_negatives", lambda *_: (drawn, found))
    terms = []
    for t in (0, 3):  # 0 -> 1 and 3 -> 4; the negative of 2 was not found, 2 and 4 are the last of their rows
        yes, no = states[t] @ entries[t + 1], states[t] @ entries[drawn[t + 1]]
        terms.append(torch.log(torch.sigmoid(yes)) + torch.log(1 - torch.sigmoid(no)))
    loss = auxiliary_loss(states, entries, torch.arange(5), segments)
    assert torch.allclose(loss, -torch.stack(terms).mean(), atol=1e-6)


def test_aggregators_against_loops_over_rows() -> None:
    torch.manual_seed(4)
    lengths = [3, 0, 2]
    segments = segments_of(lengths)
    images, of_target, ids = torch.randn(5, 4), torch.randn(3, 4), torch.randn(3, 6)
    rows = [images[segments == row] for row in range(3)]
    concat = aggregators.ConcatAggregator(4, 2)(images, of_target, ids, segments)
    slow = torch.stack([torch.cat([torch.flip(part, [0])[:2], torch.zeros(2, 4)])[:2].flatten() for part in rows])
    assert torch.equal(concat, slow)
    most = aggregators.MaxAggregator(4)(images, of_target, ids, segments)
    assert torch.equal(most, torch.stack([part.max(0).values if len(part) else torch.zeros(4) for part in rows]))
    total = aggregators.SumAggregator(4)(images, of_target, ids, segments)
    assert torch.allclose(total, torch.stack([part.sum(0) for part in rows]))
    both = aggregators.MultiQueryAttentiveAggregator(4, 6)
    attended = []
    for channel, query in ((both.by_image, of_target), (both.by_ids, ids)):
        for row, part in enumerate(rows):
            weight = torch.cat([channel.of_image.weight, channel.of_query.weight], dim=1)
            pairs = torch.cat([part, query[row].expand(len(part), -1)], dim=1)
            attended.append((channel.rest(pairs @ weight.T + channel.of_query.bias) * part).sum(0))
    slow = torch.cat([torch.stack(attended[:3]), torch.stack(attended[3:])], dim=1)
    assert torch.allclose(both(images, of_target, ids, segments), slow, atol=1e-6)
    assert torch.allclose(both.by_image(images, of_target, ids, segments), slow[:, :4], atol=1e-6)


@pytest.mark.parametrize("spec", [SPEC, EVERYTHING], ids=["one image", "everything"])
@pytest.mark.parametrize(("hash_bits", "bag_power"), [(0, 1.0), (8, 1.0), (0, 0.5), (0, 0.0)])
def test_the_sum_of_sparse_features_is_that_of_each_row(hash_bits: int, bag_power: float, spec: InputSpec) -> None:
    """Against a loop: ids, bags of behaviours, lists and words, kinds of behaviours, and crosses of both."""
    torch.manual_seed(0)
    batch, _ = make_batch(spec=spec)
    items = batch.items
    features = SparseFeatures(
        spec, "hist_item_id*item_id user_id*shop_id hist_action*image_id", 6, hash_bits, bag_power
    )
    layer = SparseLinear(features, 2)
    torch.nn.init.normal_(layer.weight)

    def of(name: str, *values: int) -> Tensor:
        """The mean of some places of a field."""
        if not values:
            return torch.zeros(2)
        places = features._at(name, torch.tensor(values))
        return layer.weight[places].mean(0)

    def entries(bag: Bag, place: int) -> list[int]:
        found: list[int] = bag.values[bag.owners == place].tolist()
        return found

    def of_item(item: int, prefix: str = "") -> Tensor:
        found = [of(prefix + name, int(items.ids[name][item])) for name in spec.item_columns]
        found += [of(prefix + name, *entries(items.lists[name], item)) for name in ("image_id", *spec.item_lists)]
        return sum(found, torch.zeros(2))

    def cross(names: str, *values: int) -> Tensor:
        state = [torch.tensor([value]) for value in values]
        return of(names, int(hashed(state, len(values))) & 63)

    for row, length in enumerate([3, 0, 2]):
        user, target = {name: int(ids[row]) for name, ids in batch.ids.items()}, int(batch.target[row])
        shop, first = int(items.ids["shop_id"][target]), entries(items.lists["image_id"], target)[0]
        total = layer.bias + of_item(target) + cross("user_id*shop_id", user["user_id"], shop)
        total = total + sum((of(name, place) for name, place in user.items()), torch.zeros(2))
        total = total + of("title", *entries(batch.text["title"], row))
        for name in spec.user_lists:
            total = total + of(name, *entries(batch.lists[name], row))
        for n in torch.nonzero(batch.segments == row).flatten().tolist():
            seen, kind = int(batch.history[n]), int(batch.action[n])
            of_behaviour = of_item(seen, "hist_") + of("hist_action", kind)
            own, other = int(items.ids["item_id"][seen]), int(items.ids["item_id"][target])
            of_behaviour = of_behaviour + cross("hist_item_id*item_id", own, other)
            of_behaviour = of_behaviour + cross("hist_action*image_id", kind, first)
            total = total + of_behaviour / length**bag_power
        assert torch.allclose(layer(batch)[row], total, atol=1e-5)


def test_a_cross_has_one_place_for_one_pair_of_values() -> None:
    batch, _ = make_batch([1, 1, 1, 1])
    items = replace(batch.items, ids={**batch.items.ids, "shop_id": torch.tensor([3, 3, 3, 2, 0, 0])})
    batch = replace(batch, ids={"user_id": torch.tensor([1, 1, 2, 1])}, items=items, target=torch.arange(4))
    features = SparseFeatures(SPEC, "user_id*shop_id", 20, 0)
    places, rows, _ = features.of_rows(batch)
    low = features.offsets["user_id*shop_id"]
    crossed = [int(places[(rows == row) & (places >= low)][0]) for row in range(4)]
    assert crossed[0] == crossed[1]
    assert len(set(crossed)) == 3


def plain_ftrl(gradients: Floats, *, alpha: float, beta: float, l1: float, l2: float, l21: float) -> Floats:
    """Algorithm 1 with the group penalty, one number at a time; gradients (steps, F, R), NaN where a row was not on."""
    _, rows, width = gradients.shape
    z, n, w = (np.zeros((rows, width)) for _ in range(3))
    for step in gradients:
        for f in range(rows):
            if np.isnan(step[f, 0]):
                continue
            u = np.zeros(width)
            for r in range(width):
                g = step[f, r]
                z[f, r] += g - (np.sqrt(n[f, r] + g * g) - np.sqrt(n[f, r])) / alpha * w[f, r]
                n[f, r] += g * g
                u[r] = np.sign(z[f, r]) * max(abs(z[f, r]) - l1, 0)
            norm = np.linalg.norm(u)
            kept = max(1 - l21 * np.sqrt(width) / norm, 0) if norm else 0
            w[f] = -u * kept / ((beta + np.sqrt(n[f])) / alpha + l2)
    return w


@pytest.mark.parametrize(("l1", "l2", "l21"), [(0, 0, 0), (0.3, 0, 0), (0, 0.5, 0), (0.1, 0.1, 0.4)])
def test_ftrl_equals_the_plain_one_and_leaves_exact_zeros(l1: float, l2: float, l21: float) -> None:
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(12, 7, 3)) * 0.3
    gradients[rng.random((12, 7)) < 0.4] = np.nan
    weight = torch.nn.Parameter(torch.zeros(7, 3, dtype=torch.double))
    optimizer = FTRL([weight], alpha=0.2, beta=0.7, l1=l1, l2=l2, l21=l21)
    for step in gradients:
        on = np.flatnonzero(~np.isnan(step[:, 0]))
        # The same row twice, so that gradients are added up.
        places = torch.from_numpy(np.concatenate([on, on]))
        values = torch.from_numpy(np.concatenate([step[on] * 0.25, step[on] * 0.75]))
        weight.grad = torch.sparse_coo_tensor(places[None], values, (7, 3), check_invariants=True)
        optimizer.step()
    expected = plain_ftrl(gradients, alpha=0.2, beta=0.7, l1=l1, l2=l2, l21=l21)
    assert np.allclose(weight.detach(), expected)
    assert ((weight == 0).numpy() == (expected == 0)).all()
    if l21:
        assert (weight == 0).all(dim=1).any()
    # A warm start: the first step of a new optimizer begins where these weights are.
    again = torch.nn.Parameter(weight.detach().clone())
    later = FTRL([again], alpha=0.2, beta=0.7, l1=l1, l2=l2, l21=l21)
    again.grad = torch.zeros(7, 3, dtype=torch.double)
    later.step()
    assert np.allclose(again.detach(), expected)


@pytest.mark.parametrize("spec", [SPEC, EVERYTHING], ids=["one image", "everything"])
def test_dense_features_against_loops_over_rows(spec: InputSpec) -> None:
    batch, found = make_batch(spec=spec)
    vectors, bag, items = found["image"], batch.items.vectors["image"], batch.items

    def of_item(item: int) -> Floats | None:
        own = own_photos(bag, item, vectors.ok)
        return vectors.values[own].double().mean(0).numpy() if own else None

    features = image_features(batch, vectors, "image").numpy()
    for row in range(3):
        target = of_item(int(batch.target[row]))
        behaviours = [of_item(int(item)) for item in batch.history[batch.segments == row]]
        seen = [vector for vector in behaviours if vector is not None]
        shown, mean = np.zeros(8) if target is None else target, np.mean(seen, axis=0) if seen else np.zeros(8)
        size = np.linalg.norm(shown) * np.linalg.norm(mean)
        cosine = shown @ mean / size if size else 0.0
        assert np.allclose(features[row], [*shown, *mean, cosine, target is not None], atol=1e-5)
    every = dense_features(spec, batch, found).numpy()
    assert every.shape == (3, dense_feature_count(spec))
    if spec.item_numbers:
        own = every[:, 2 * (8 + 6) + 4 :]
        for row in range(3):
            item, seen_items = int(batch.target[row]), batch.history[batch.segments == row].tolist()
            age = batch.numbers["age"][row].item()
            expected = [0.0 if np.isnan(age) else age, not np.isnan(age)]
            columns = [items.numbers[name].numpy() for name in spec.item_numbers]
            expected += [*(np.nan_to_num(c[item]) for c in columns), *(not np.isnan(c[item]) for c in columns)]
            known = [[c[i] for i in seen_items if not np.isnan(c[i])] for c in columns]
            expected += [np.mean(values) if values else 0.0 for values in known]
            assert np.allclose(own[row], expected, atol=1e-6)
    statistics = behaviour_features(spec, batch).numpy()
    for row, length in enumerate([3, 0, 2]):
        here = batch.segments == row
        actions = batch.action[here].tolist()
        ages = (32 - batch.history_age[here]).tolist() or [0]
        expected = [np.log1p(length), *(actions.count(kind) / max(length, 1) for kind in range(3))]
        expected += [max(ages), np.mean(ages)]
        for name in ("item_id", "shop_id"):
            ids = items.ids[name]
            same = (ids[batch.history[here]] == ids[batch.target[row]]).tolist()
            expected += [sum(s for s, a in zip(same, actions, strict=True) if a == kind) for kind in range(3)]
        assert np.allclose(statistics[row], expected, atol=1e-6)


@pytest.mark.parametrize("spec", [SPEC, EVERYTHING], ids=["one image", "several"])
def test_similarity_and_its_tiers_beside_a_plain_count(spec: InputSpec) -> None:
    batch, of_spaces = make_batch([6, 0, 5], seed=5, spec=spec)
    vectors, bag = of_spaces["image"], batch.items.vectors["image"]
    cosine, there = similarity(batch, vectors, "image")
    tiers = 5
    layer = SimTiers(SPEC.actions, tiers, 4)
    found = layer.counts(cosine, there, batch.action, batch).numpy()
    expected = np.zeros((3, SPEC.actions, tiers))
    for n, row in enumerate(batch.segments.tolist()):
        pair = [own_photos(bag, int(item), vectors.ok) for item in (batch.target[row], batch.history[n])]
        if not all(pair):
            assert not there[n]
            assert cosine[n] == 0
            continue
        units = [np.stack([v / np.linalg.norm(v) for v in vectors.values[own].numpy()]).mean(0) for own in pair]
        a, b = units
        alike = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert cosine[n].item() == pytest.approx(alike, abs=1e-5)
        place = (min(max(alike, -1.0), 1.0) + 1) / 2 * (tiers - 1)
        for tier in range(tiers):  # what lies between two tiers counts for both
            expected[row, int(batch.action[n]), tier] += max(0.0, 1 - abs(place - tier))
    assert there.any()
    assert found == pytest.approx(np.log1p(expected).reshape(3, -1), abs=1e-4)


def test_a_head_learns_through_the_tiers() -> None:
    batch, found = make_batch([3, 4, 2], seed=5)
    vectors = found["image"]
    values = vectors.values.clone().double().requires_grad_()

    def counts(of: Tensor) -> Tensor:
        cosine, there = similarity(batch, ImageVectors(of, vectors.ok), "image")
        return SimTiers(SPEC.actions, 7, 4).counts(cosine, there, batch.action, batch)

    assert torch.autograd.gradcheck(counts, (values,), eps=1e-6, atol=1e-4)


def test_similarity_aware_attention_beside_its_formula() -> None:
    """Each space with weights of its own."""
    torch.manual_seed(0)
    batch, vectors = make_batch([3, 1, 2], seed=6, spec=EVERYTHING)
    model = make("muse", EVERYTHING, 4, {}).eval()
    assert isinstance(model, MUSE)
    with torch.no_grad():
        model.mix.copy_(torch.tensor([0.7, 1.3, -0.4, 0.2, 0.9]))
        x = model.inputs(batch, vectors)
        found = model.weights(x, batch).numpy()
        ids = model.unit(x.history, x.target, batch.segments).numpy()
        photos, titles = (similarity(batch, vectors[name], name)[0].numpy() for name in ("image", "title"))
    logits = 0.7 * ids + 1.3 * photos - 0.4 * ids * photos + 0.2 * titles + 0.9 * ids * titles
    for row in range(3):
        mine = batch.segments.numpy() == row
        expected = np.exp(logits[mine]) / np.exp(logits[mine]).sum()
        assert found[mine] == pytest.approx(expected, abs=1e-5)


def test_a_histogram_has_tiers() -> None:
    with pytest.raises(BadInput, match="2 tiers or more"):
        make("simtier", SPEC, 4, {"tiers": 1})
