"""The models over hand-made batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from model_batches import EVERYTHING, LENGTHS, SPEC, make_batch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from crossmedia.errors import BadInput
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.models import MODELS, make
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.models.dicm import AGGREGATORS
from crossmedia.trainer.models.din import DIN
from crossmedia.trainer.models.gbdt_lr import GBDTLR
from crossmedia.trainer.models.rocket import Rocket
from crossmedia.trainer.options import parse_options
from crossmedia.trainer.tensors import Bag, TensorBatch

SPECS = {
    "one image": SPEC,
    "ids only": replace(SPEC, spaces={}),
    "everything": EVERYTHING,
    "everything but vectors": replace(EVERYTHING, spaces={}),
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in MODELS),
    *(("dicm", {"aggregator": name, "base": "din"}) for name in AGGREGATORS),
    *(("dicm", {"shown": shown}) for shown in ("ad", "behaviours")),
    *(("dien", {"evolution": name}) for name in ("agru", "aigru")),
    ("din", {"softmax": True, "activation": "prelu"}),
    *((name, {"factors": 3}) for name in ("embedding_mlp", "din", "dien", "simtier")),
    ("embedding_mlp", {"behaviours": "sum", "activation": "dice"}),
    *(("din", {"pooling": pooling}) for pooling in ("max", "attention")),
    ("lr", {"crosses": "hist_item_id*item_id user_id*shop_id", "hash_bits": 10}),
    ("rocket", {"booster": "dien"}),
    ("rocket", {"light_options": {"factors": 2}}),
]


def ready(name: str, options: dict[str, Any], spec: InputSpec = SPEC) -> Model:
    """A model with weights that are not all zero; trees are fitted to random labels."""
    torch.manual_seed(2)
    if name in ("gbdt_lr", "lr", "mlr"):
        options = {**options, "l1": 0.0}
    model = make(name, spec, 4, {**options, **({"trees": 3, "leaves": 4} if name == "gbdt_lr" else {})})
    if isinstance(model, GBDTLR):
        import lightgbm

        batch, vectors = make_batch([3] * 200, spec=spec)
        columns = model.dense_columns(batch, vectors).numpy()
        labels = np.random.default_rng(0).integers(0, 2, 200)
        settings = {"objective": "binary", "num_leaves": 4, "min_data_in_leaf": 5, "verbosity": -1}
        model.forest.plant(lightgbm.train(settings, lightgbm.Dataset(columns, labels), 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def row_alone(batch: TensorBatch, row: int, *, turned: bool) -> TensorBatch:
    places = torch.arange(len(batch.segments))[batch.segments == row]
    if turned:
        places = torch.flip(places, [0])

    def own(lists: Bag) -> Bag:
        values = lists.values[lists.owners == row]
        return Bag(values, torch.zeros(len(values), dtype=torch.int64))

    return TensorBatch(
        labels={},
        ids={name: ids[row : row + 1] for name, ids in batch.ids.items()},
        numbers={name: numbers[row : row + 1] for name, numbers in batch.numbers.items()},
        lists={name: own(lists) for name, lists in batch.lists.items()},
        text={name: own(words) for name, words in batch.text.items()},
        items=batch.items,
        target=batch.target[row : row + 1],
        history=batch.history[places],
        action=batch.action[places],
        history_age=batch.history_age[places],
        segments=torch.zeros(len(places), dtype=torch.int64),
        lengths=torch.tensor([len(places)]),
    )


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_a_row_does_not_depend_on_the_others(name: str, options: dict[str, Any], spec: InputSpec) -> None:
    """Jagged rows: the logit of a row is the same alone and with others, and where order means nothing in any order."""
    model = ready(name, options, spec).eval()
    batch, vectors = make_batch(spec=spec)
    ordered = name == "dien" or options.get("aggregator") == "concat"
    with torch.no_grad():
        together = model(batch, vectors)
        assert together.shape == (3, 1)
        for row in range(len(LENGTHS)):
            alone = model(row_alone(batch, row, turned=not ordered), vectors)
            assert torch.allclose(alone[0], together[row], atol=1e-5)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_training_moves_every_weight_that_it_should_and_lowers_the_loss(name: str, options: dict[str, Any]) -> None:
    model = ready(name, options, EVERYTHING).train()
    batch, vectors = make_batch([3, 0, 2, 4, 1, 1, 5, 2] * 4, labels=True, spec=EVERYTHING)
    optimizers = model.optimizers(0.003)
    losses = []
    for step in range(60):
        losses.append(model.cross_entropy(model(batch, vectors), batch).item())
        loss = model.loss(batch, vectors)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if step == 0:
            without = [name for name, p in model.named_parameters() if p.grad is None]
            assert not without
        for optimizer in optimizers:
            optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("lengths", [[0, 0, 0], []])
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_batch_without_any_history_or_any_row_has_a_gradient_for_every_weight(
    name: str, options: dict[str, Any], lengths: list[int]
) -> None:
    batch, vectors = make_batch(lengths, spec=EVERYTHING)
    model = ready(name, options, EVERYTHING).train()
    model.loss(batch, vectors).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name  # processes that train together wait for each other's
        gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        assert torch.isfinite(gradient).all()
        assert lengths or not gradient.any()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "gbdt_lr"])
def test_several_labels_are_trained_together(name: str) -> None:
    spec = replace(SPEC, labels=("click", "buy"))
    model = make(name, spec, 4, {}).train()
    batch, vectors = make_batch([3, 0, 2])
    batch = replace(batch, labels={"click": torch.tensor([1.0, 0.0, 1.0]), "buy": torch.tensor([0.0, 0.0, 1.0])})
    logits = model(batch, vectors)
    assert logits.shape == (3, 2)
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert torch.allclose(model.cross_entropy(logits, batch), binary_cross_entropy_with_logits(logits, labels))


@pytest.mark.parametrize("name", MODELS)
def test_sampled_negatives_are_recalibrated_in_evaluation_only(name: str) -> None:
    model = ready(name, {})
    batch, vectors = make_batch()
    with torch.no_grad():
        before = torch.sigmoid(model.eval()(batch, vectors))
        model.sampled(0.1)
        after = torch.sigmoid(model(batch, vectors))
        served = torch.sigmoid(model.served().eval()(batch, vectors))
    assert torch.allclose(after, before / (before + (1 - before) / 0.1), atol=1e-6)
    assert torch.allclose(served, after, atol=1e-6)


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


def test_the_mixture_of_mlr_is_that_of_the_paper() -> None:
    model = ready("mlr", {"regions": 3}).eval()
    batch, vectors = make_batch()
    sums = model.sums(batch, vectors).detach().double().numpy()  # type: ignore[operator]
    u, w = sums[:, :3], sums[:, 3:]
    gate = np.exp(u) / np.exp(u).sum(1, keepdims=True)
    p = (gate / (1 + np.exp(-w))).sum(1)
    assert np.allclose(torch.sigmoid(model(batch, vectors)).detach().numpy()[:, 0], p, atol=1e-6)


def test_rockets_hint_moves_the_light_net_only() -> None:
    batch, vectors = make_batch([3, 0, 2, 4], labels=True)

    def gradients(hint: float, block: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        rocket = make("rocket", SPEC, 4, {"hint": hint, "block": block}).train()
        rocket.loss(batch, vectors).backward()  # type: ignore[no-untyped-call]
        return {name: p.grad for name, p in rocket.named_parameters() if p.grad is not None}

    without, with_hint, unblocked = gradients(0.0, True), gradients(2.0, True), gradients(2.0, False)
    for name in without:
        same = torch.allclose(without[name], with_hint[name])
        assert same == name.startswith("booster."), name
    assert any(not torch.allclose(unblocked[n], without[n]) for n in without if n.startswith("booster."))


def test_rockets_light_net_is_exported_alone() -> None:
    rocket = ready("rocket", {}).eval()
    assert isinstance(rocket, Rocket)
    batch, vectors = make_batch()
    light = rocket.served()
    assert torch.equal(light(batch, vectors), rocket(batch, vectors))
    assert not any("booster" in name for name in light.state_dict())


def test_images_on_needs_vectors_and_off_refuses_them() -> None:
    batch, vectors = make_batch()
    for name in ("din", "lr"):
        with pytest.raises(ValueError, match="takes vectors of image, and is given those of none"):
            make(name, SPEC, 4, {})(batch, {})
        with pytest.raises(ValueError, match="takes vectors of no space, and is given those of image"):
            make(name, SPECS["ids only"], 4, {})(batch, vectors)


def test_options_are_read_by_the_type_of_their_default() -> None:
    texts = ["hint=0.5", "light.hidden=32,16", "booster=dien", "booster.evolution=agru", "block=false"]
    options = parse_options("rocket", texts)
    assert options == {
        **{"hint": 0.5, "block": False, "booster": "dien"},
        **{"light_options": {"hidden": (32, 16)}, "booster_options": {"evolution": "agru"}},
    }
    assert isinstance(make("rocket", SPEC, 4, options), Rocket)
    for texts, message in (
        (["hidden"], "no name=value"),
        (["hint=much"], "like its default 0.1"),
        (["hint=0_1"], "like its default 0.1"),
        (["light.factors=1_6"], "The option factors is .1_6.; it must be like its default 0"),
        (["light.hidden=１６,8"], "whole numbers separated by commas"),
        (["depth=3"], "rocket has no option 'depth'; its options are: pooling, embedding_std, light, booster"),
        (["light.depth=3"], "embedding_mlp has no option 'depth'"),
        (["light_options=hidden"], "rocket has no option 'light_options'"),
    ):
        with pytest.raises(BadInput, match=message):
            parse_options("rocket", texts)


@pytest.mark.parametrize("column", ["type", "keys", "a.b"])
def test_a_column_that_no_table_can_be_called_by_is_said(column: str) -> None:
    with pytest.raises(BadInput, match="A column of the samples has a name that PyTorch cannot give to a part"):
        make("din", replace(SPEC, user_columns={"user_id": 5, column: 3}), 4, {})
    with pytest.raises(BadInput, match="A space of the samples has a name that PyTorch cannot give to a part"):
        make("din", replace(SPEC, spaces={column: 3}), 4, {})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dim", {}, "no model 'dim'; there are: lr, mlr"),
        ("din", {"softmax": True, "depth": 3}, "din has no option 'depth'"),
        ("din", {"activation": "relu"}, "no activation 'relu'"),
        ("embedding_mlp", {"behaviours": "max"}, "no pooling of behaviours 'max'"),
        ("din", {"pooling": "sum"}, "no pooling 'sum'; there are: mean, max, attention"),
        ("lr", {"pooling": "max"}, "lr has no option 'pooling'"),
        ("rocket", {"light_options": {"pooling": "max"}}, "shares its embeddings"),
        ("rocket", {"booster_options": {"embedding_std": 0.1}}, "shares its embeddings, whose embedding_std"),
        ("dicm", {"aggregator": "mean"}, "no aggregator 'mean'"),
        ("dien", {"evolution": "gru"}, "no evolution 'gru'"),
        ("mlr", {"regions": 1}, "needs 2"),
        ("lr", {"crosses": "item_id*colour"}, "is no cross of fields; the fields are: item_id"),
        ("rocket", {"booster": "lr"}, "lr cannot share embeddings"),
        ("rocket", {"booster": "rocket"}, "cannot be a net of rocket"),
        ("din", {"hidden": (8, 0)}, r"din.hidden is \(8, 0\); it must be widths of layers, each at least 1"),
        ("din", {"hidden": (-3,)}, "each at least 1"),
        ("din", {"attention_hidden": ()}, "attention_hidden is .*; it must be the width of one layer at least"),
        ("rocket", {"light_options": {"hidden": (0,)}}, "embedding_mlp.hidden is"),
        ("rocket", {"hint": float("nan")}, "rocket.hint is nan; it must be a finite number, at least 0"),
        ("dien", {"auxiliary": -1.0}, "dien.auxiliary is -1.0"),
        ("dicm", {"slots": 0}, "slots is 0; it must be at least 1"),
        ("lr", {"hash_bits": 99}, "hash_bits is 99; it must be from 0 to 32"),
        ("lr", {"cross_bits": 0}, "cross_bits is 0; it must be from 1 to 32"),
        ("lr", {"l1": float("inf")}, "lr.l1 is inf"),
        ("gbdt_lr", {"trees": 0}, "trees is 0; it must be at least 1"),
        ("gbdt_lr", {"leaves": 1}, "leaves is 1; it must be at least 2"),
    ],
)
def test_wrong_options_are_said(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make(name, SPEC, 4, options)
