"""A model of two spaces with everything that items and users may have: served as scored, with reasons."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oip import add, output
from shop_samples import make_shop, transports
from test_reasons_served import request, rows_of, scorer_of

from crossmedia.errors import BadInput, InvalidRequest
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.scorer import Scorer
from crossmedia.trainer.serving.models import Models
from crossmedia.trainer.serving.served import ServedModel
from crossmedia.trainer.serving.service import Limits, ScoringService

SETTINGS: dict[str, Any] = {"epochs": 1, "batch_size": 64, "learning_rate": 1e-2, "width": 4, "max_missing": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "white"
    fit(FitConfig(str(folder), str(out), model="concepts", labels=("click", "buy"), **SETTINGS), transports())
    return out


@pytest.fixture(scope="module")
def service(run: Path) -> ScoringService:
    scorer = scorer_of(run)
    return ScoringService(Models([ServedModel("white", scorer.digest, run, scorer)]), Limits())


def tensor(message: pb.ModelInferRequest, name: str, values: list[Any]) -> None:
    """A column of raw values; lists are padded, and what is missing is an empty text, nan or -1."""
    cells = [one if isinstance(one, list) else [one] for one in values]
    texts = any(isinstance(one, str) for cell in cells for one in cell)
    nested = any(isinstance(one, list) for one in values)
    width = max((len(cell) for cell in cells), default=1) or 1
    floats = any(isinstance(one, float) for cell in cells for one in cell)
    none: Any = "" if texts else float("nan") if floats else -1
    padded = [[none if one is None else one for one in cell] + [none] * (width - len(cell)) for cell in cells]
    shape = [len(cells), width] if nested else [len(cells)]
    flat = [str(one) if texts else one for row in padded for one in row]
    add(message, name, flat, "" if texts else "FP64" if floats else "INT64", shape)


def message(user: dict[str, Any], candidates: dict[str, Any], **parameters: int) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="white")
    for name, value in user.items():
        if value is not None:
            tensor(made, name, value if name.startswith("hist_") else [value])
    for name, values in candidates.items():
        tensor(made, name, values)
    for name, number in parameters.items():
        made.parameters[name].int64_param = number
    return made


def infer(service: ScoringService, asked: pb.ModelInferRequest) -> pb.ModelInferResponse:
    return service.infer(asked, time.monotonic() + 30)


def test_lists_numbers_and_texts_are_served_as_they_are_scored(
    service: ScoringService, run: Path, folder: Path
) -> None:
    user, candidates = request(folder)
    expected = scorer_of(run).score(user, candidates, now_s=1000)
    reply = infer(service, message(user, candidates, now=1000))
    assert [one.name for one in reply.outputs] == ["score", "score_buy", "status"]
    found = np.stack([output(reply, "score"), output(reply, "score_buy")], axis=1)
    assert found == pytest.approx(expected, abs=1e-6)
    assert reply.parameters["vectors"].string_param.startswith("photo=mock@")
    told = service.model_metadata(pb.ModelMetadataRequest(name="white"))
    assert [one.name for one in told.outputs][-3:] == ["reason_term", "reason_value", "sentence"]
    types = {one.name: one.datatype for one in told.inputs}
    assert (types["price"], types["hist_price"], types["image_id"], types["title"]) == (
        "FP32",
        "FP32",
        "INT64",
        "BYTES",
    )


def test_items_of_the_samples_table_are_what_their_raw_values_are(run: Path, folder: Path) -> None:
    """Two ways to name items, one score: each of the shop's items as a candidate, and as a behaviour."""
    clients = scorer_of(run)
    by_table = scorer_of(run)
    by_table.items = by_table.read_items(folder / "items.parquet")
    rows = rows_of(folder, "items")[:30]
    from shop_samples import item_columns

    raw = item_columns(rows) | {"title": [row["title"] for row in rows]}
    behaviours = {f"hist_{name}": values[:4] for name, values in item_columns(rows).items()}
    rest = {"user_id": "u1", "hist_time": [1, 2, 3, 4], "hist_action": ["clicked"] * 4}
    expected = clients.answer(rest | behaviours, raw, 1000)
    ids = [row["item"] for row in rows]
    found = by_table.answer(rest | {"hist_item_id": ids[:4]}, {"item_id": ids}, 1000)
    known = found.status == expected.status  # an item that the samples never show is in no table
    assert known.sum() > 20
    assert found.probabilities[known] == pytest.approx(expected.probabilities[known], abs=1e-6)


def test_reasons_are_served_as_the_scorer_gives_them(service: ScoringService, run: Path, folder: Path) -> None:
    user, candidates = request(folder)
    expected = scorer_of(run).score(user, candidates, now_s=1000, reasons=3)
    reply = infer(service, message(user, candidates, now=1000, reasons=3))
    terms = np.array(output(reply, "reason_term")).reshape(-1, 3).tolist()
    assert terms == [[one.term for one in reasons] for reasons in expected.reasons]
    values = [[one.contribution for one in reasons] for reasons in expected.reasons]
    assert output(reply, "reason_value") == pytest.approx(np.array(values), abs=1e-5)
    assert output(reply, "sentence") == [*expected.sentences]
    without = message(user, candidates, now=1000)
    without.outputs.add(name="sentence")
    with pytest.raises(InvalidRequest, match="Reasons come where the parameter reasons asks for them"):
        infer(service, without)


def test_a_table_of_items_is_checked(run: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    scorer: Scorer = scorer_of(run)
    file = tmp_path / "items.parquet"
    file.write_bytes(b"no table")
    with pytest.raises(BadInput, match="cannot be read"):
        scorer.read_items(file)
    pq.write_table(pa.table({"item_id": ["a"]}), file)
    with pytest.raises(BadInput, match=r"lacks the column .\w+.\. The model knows of an item: item_id, "):
        scorer.read_items(file)
    pq.write_table(pa.table({"raw_item_id": ["a"]}), file)
    with pytest.raises(BadInput, match="of samples with the vocabulary none"):
        scorer.read_items(file)
    columns = scorer.columns.items.raw
    pq.write_table(pa.table({name: pa.nulls(2) if name != "item_id" else ["7", "7"] for name in columns}), file)
    with pytest.raises(BadInput, match="two rows of the item '7'"):
        scorer.read_items(file)
