"""The same frame is the same user, item and image in ``features build`` and in ``Scorer``."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossmedia.errors import BadInput
from crossmedia.features.reading.unmatched import Unmatched
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.names import ImageNames
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.scorer import Scorer

USER, ITEM, NOW = 4915112345678, 1_200_000_000_000, 1_700_000_000
SCHEMA = """
[log]
path = "log.parquet"
user = "user"
item = "item"
time = "time"
[log.labels]
click = "click"
[items]
path = "items.parquet"
item = "item"
image = "image"
ids = ["size"]
text = ["title"]
[behaviours]
from_log = { seen = "click == 1" }
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MockTransport]:
    """A model that learned from frames as pandas makes them: all numbers are floats; and its vectors."""
    folder = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(3)
    users, items = rng.integers(0, 6, 300), rng.integers(0, 10, 300)
    log = {"user": USER + users * 1.0, "item": ITEM + items * 1.0, "time": NOW - 10_000 + 10.0 * np.arange(300)}
    pq.write_table(pa.table({**log, "click": rng.random(300) < 0.15 * users}), folder / "log.parquet")
    table = {"item": ITEM + np.arange(10.0), "image": np.arange(10.0), "size": 36 + np.arange(10.0)}
    pq.write_table(pa.table({**table, "title": [f"size {i}.0" for i in range(10)]}), folder / "items.parquet")
    (folder / "samples.toml").write_text(SCHEMA)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    transport = MockTransport({i: rng.normal(size=8).astype(np.float16) for i in range(10)})
    paths = (str(folder / "samples"), str(folder / "run"))
    fit(FitConfig(*paths, epochs=3, batch_size=32, width=8, learning_rate=0.01), transport)
    return folder / "run", transport


@pytest.fixture(scope="module")
def scorer(made: tuple[Path, MockTransport]) -> Scorer:
    run, transport = made
    return Scorer.load(run, server=ImageClient(transport))


def request(user: Any = USER + 5, item: Any = ITEM + 3, image: Any = 3, at: Any = NOW - 50) -> tuple[Any, Any]:
    history = {"hist_item_id": [item], "hist_image_id": [image], "hist_size": [39.0], "hist_action": ["seen"]}
    candidates = {"item_id": [item, ITEM], "image_id": [image, 0], "size": [39.0, None], "title": ["size 3.0", None]}
    return {"user_id": user, "hist_time": [at]} | history, candidates


@pytest.mark.parametrize("kind", [int, float, str, np.int64, np.float64, Decimal, lambda n: f"{n}.0"])
def test_a_number_is_the_same_in_any_type(scorer: Scorer, kind: Any) -> None:
    expected = scorer.score(*request(), now_s=NOW)
    given = request(kind(USER + 5), kind(ITEM + 3), kind(3), kind(NOW - 50) if kind is not Decimal else NOW - 50)
    assert scorer.score(*given, now_s=NOW) == pytest.approx(expected)
    unknown = scorer.score(*request("nobody", "nothing", None, None), now_s=NOW)
    assert abs(unknown - expected).max() > 1e-4


def test_a_frame_may_come_as_arrays_with_nan_for_nothing(scorer: Scorer) -> None:
    nothing = scorer.score({"user_id": None}, {"item_id": [ITEM, None], "image_id": [0, None]}, now_s=NOW)
    candidates: dict[str, Any] = {"item_id": np.array([ITEM, np.nan]), "image_id": np.array([0, np.nan])}
    assert scorer.score({"user_id": float("nan")}, candidates, now_s=NOW) == pytest.approx(nothing)
    at = datetime.datetime.fromtimestamp(NOW - 50, datetime.UTC)
    assert scorer.score(*request(at=at), now_s=NOW) == pytest.approx(scorer.score(*request(), now_s=NOW))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (request(user=2.0**53 + 2), "'user_id' of the user holds 9007199254740994.0 in row 1"),
        (request(user=True), "'user_id' of the user is of type bool"),
        (request(user=[1]), "'user_id' of the user is of type list"),
        (request(image="front.jpg"), "'(hist_)?image_id' of the (user|candidates) holds 'front.jpg' in row 1"),
        (request(image=-7), "image_id' of the .* holds -7 in row 1"),
        (request(at=NOW * 1000), "'hist_time' of the user holds 1699999950000|1700000000000 in row 1; .*milliseconds"),
    ],
)
def test_what_is_no_key_is_said(scorer: Scorer, given: tuple[Any, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        scorer.score(*given, NOW)


def test_a_time_of_another_unit_is_said(scorer: Scorer) -> None:
    with pytest.raises(BadInput, match=r"'now_s' of the request holds 1700000000000 in row 1; .*milliseconds"):
        scorer.score(*request(), NOW * 1000.0)


def test_candidates_come_as_tables(scorer: Scorer) -> None:
    user, candidates = request()
    expected = scorer.score(user, candidates, NOW)
    assert scorer.score(user, pa.table(candidates), NOW) == pytest.approx(expected)
    of_arrow = {name: pa.array(values) for name, values in candidates.items()}
    nothing = {**user, "hist_time": pa.array([float("nan")]), "hist_item_id": np.array([ITEM + 3])}
    assert scorer.score(nothing, of_arrow, NOW).shape == (2,)


def test_candidates_come_as_frames_of_pandas(scorer: Scorer) -> None:
    pd = pytest.importorskip("pandas")
    user, candidates = request()
    expected = scorer.score(user, candidates, NOW)
    frame = pd.DataFrame({**candidates, "item_id": pd.Categorical(candidates["item_id"])})
    assert scorer.score(user, frame, NOW) == pytest.approx(expected)
    assert scorer.score(pd.Series(user), frame, NOW) == pytest.approx(expected)
    with pytest.raises(BadInput, match="The user is of type DataFrame; give columns by name: a dict"):
        scorer.score(frame, frame, NOW)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": None}, "The user is None; give columns by name: a dict"),
        ({"user": pa.table({"user_id": [1]})}, "The user is of type Table; give columns by name: a dict"),
        ({"user": {"hist_item_id": None}}, "'hist_item_id' of the user is None; give a list, a value for each behav"),
        ({"user": {"hist_item_id": "abc"}}, "'hist_item_id' of the user is of type str"),
        ({"user": {"colour": 1}}, "The user has a column 'colour'"),
        ({"user": {"hist_size": [1], "hist_time": []}}, "The user has lists of several lengths"),
        ({"candidates": [{"item_id": 1}]}, "^The candidates are of type list; give columns by name: a dict of lists, "),
        ({"candidates": None}, "The candidates are None"),
        ({"candidates": {"item_id": 1}}, "'item_id' of the candidates is of type int; give a list, a value for each c"),
        ({"candidates": {"item_id": (i for i in (1, 2))}}, "'item_id' of the candidates is of type generator"),
        ({"candidates": {"item_id": np.zeros((2, 2))}}, "'item_id' of the candidates is of type ndarray"),
        ({"candidates": {"item_id": [ITEM], "size": None}}, "'size' of the candidates is None"),
        ({"candidates": {"colour": [1]}}, "The candidates have a column 'colour'"),
    ],
)
def test_what_is_no_column_is_said(scorer: Scorer, change: dict[str, Any], message: str) -> None:
    user, candidates = request()
    with pytest.raises(BadInput, match=message) as raised:
        scorer.score(**{"user": user, "candidates": candidates, "now_s": NOW} | change)
    assert " at 0x" not in str(raised.value)


@pytest.mark.parametrize(
    ("at", "said"), [(NOW + 60, "behaviours lie in the future"), (NOW // 60, "they seem to be in two units")]
)
def test_times_that_do_not_fit_are_logged_once(
    scorer: Scorer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, at: int, said: str
) -> None:
    monkeypatch.setattr(scorer._requests, "_said", set())
    scorer.score(*request(), now_s=NOW)
    assert not caplog.records
    for _ in range(2):
        scorer.score(*request(at=at), now_s=NOW)
    assert [said in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("kind", [int, float, str, Decimal, np.int64, lambda n: f"{n}.0", lambda n: f"new/{n}.jpg"])
def test_a_manifest_names_images_that_are_numbers(scorer: Scorer, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos 1003 and 1000 are the images 3 and 0, for ``features build`` too."""
    expected = scorer.score(*request(), now_s=NOW)
    names = ImageNames(np.arange(10), pa.array([str(1000 + i) for i in range(10)]))
    monkeypatch.setattr(scorer._requests, "_names", names)
    user, candidates = request(image=kind(1003))
    candidates["image_id"] = [kind(1003), kind(1000)]
    assert scorer.score(user, candidates, NOW) == pytest.approx(expected)
    with_ids = scorer.score(*request(image=kind(3)), now_s=NOW)
    assert abs(with_ids - expected).max() > 1e-4


def test_values_that_are_another_one_most_likely_are_counted(
    scorer: Scorer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An action that no row has; an id that is known in another Unicode form. New users and items are neither."""
    unmatched = Unmatched()
    monkeypatch.setattr(scorer._requests, "unmatched", unmatched)
    monkeypatch.setattr(scorer._requests._places, "_unmatched", unmatched)
    user, candidates = request(user="new")
    scorer.score(user, candidates, now_s=NOW)
    assert scorer.unmatched() == {}
    for _ in range(3):
        scorer.score(user | {"hist_action": ["Seen "]}, candidates, now_s=NOW)
    places = {"Caf\u00e9": 1, "SKU1": 2}
    monkeypatch.setitem(scorer._requests._places._places, "item_id", places)
    scorer.score({}, {"item_id": ["Cafe\u0301", "sku1 ", "sku1", "other"]}, now_s=NOW)
    assert scorer.unmatched() == {
        "actions that are in no training row": 3,
        "values of item_id in another spelling": 2,
    }
    said = [record.getMessage() for record in caplog.records if "in this request" in record.getMessage()]
    assert len(said) == 2
    assert said[0].startswith(
        "actions that are in no training row: 'Seen ' (1 of 1 in this request). The model knows 's"
    )
    assert r"spelling: 'Cafe\u0301', 'sku1' (2 of 4 in this request). The model knows 'Caf\xe9', and not " in said[1]


def test_a_client_that_is_given_keeps_its_version(made: tuple[Path, MockTransport]) -> None:
    """It may serve two models with vectors of two versions, and its owner."""
    run, transport = made
    client = ImageClient(transport)
    Scorer.load(run, server=client)
    assert client.version is None
    other = ImageClient(transport, version=transport.version)
    Scorer.load(run, server=other)
    assert other.version == transport.version
