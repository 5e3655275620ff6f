"""Items held out when samples are read: never in training, unknown everywhere, and what validation is on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_samples import SCHEMA, WITHOUT_HISTORIES, make_samples

from crossmedia.errors import BadInput
from crossmedia.features.batch import Batch
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import SamplesWithUnseenItems, in_batches

ITEMS, ROWS = 90, 1200


@pytest.fixture(scope="module", params=["histories", "no histories"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every seventh item has no image; each image belongs to two items."""
    images = {i: 500 + i // 2 for i in range(ITEMS) if i % 7}
    schema = {"histories": SCHEMA, "no histories": WITHOUT_HISTORIES}
    return make_samples(tmp_path_factory.mktemp("unseen"), ITEMS, ROWS, images, schema[request.param])


@pytest.fixture
def plain(folder: Path) -> Samples:
    return Samples(folder)


@pytest.fixture
def samples(folder: Path) -> SamplesWithUnseenItems:
    return SamplesWithUnseenItems(folder)


def times(batches: list[Batch]) -> list[int]:
    """The rows of batches: each has a second of its own."""
    return [int(t) for batch in batches for t in batch.timestamp]


def test_the_rows_of_the_files_are_shared_out_by_the_item(plain: Samples, samples: SamplesWithUnseenItems) -> None:
    out = set(samples.unseen["item_id"].tolist())
    assert 0.03 * ITEMS < len(out) < 0.25 * ITEMS
    expected: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for split in ("train", "validation", "test"):
        for row in plain.frame(split, ["timestamp", "item_id"]).to_pylist():
            unseen = row["item_id"] in out or row["item_id"] == 0
            if split == "test" or unseen == (split == "validation"):  # the others are nobody's
                expected[split].append(row["timestamp"])
    for split, rows in expected.items():
        assert samples.rows(split) == len(rows) > 0
        assert samples.frame(split, ["timestamp"])["timestamp"].to_pylist() == rows
        batches = list(samples.batches(split, 8))
        assert times(batches) == rows
        assert {len(batch) for batch in batches[:-1]} == {8}, "a step has as many rows as it is told"
        shuffled = times(list(samples.batches(split, 8, shuffle_seed=3, epoch=1)))
        assert sorted(shuffled) == sorted(rows)
        assert shuffled != rows


def test_what_is_held_out_is_unknown_wherever_it_stands(plain: Samples, samples: SamplesWithUnseenItems) -> None:
    """Beside the same rows as the files have them: its id and its images' are place 0, and all else is as it was."""
    out, met = set(samples.unseen["item_id"].tolist()), 0
    table = plain.items
    (slices, keys) = table.keys["image_id"]
    images = {
        int(keys[slices.start[row]])
        for row in range(table.rows)
        if table.ids["item_id"][row] in out and slices.length[row]
    }
    whole = {int(b.timestamp[0]): b for split in ("train", "validation", "test") for b in plain.batches(split, 1)}
    for split in ("train", "validation", "test"):
        for batch in samples.batches(split, 1):
            before = whole[int(batch.timestamp[0])]
            had = before.items.ids["item_id"].tolist()
            assert batch.items.ids["item_id"].tolist() == [0 if item in out else item for item in had]
            assert split != "train" or had[before.target[0]] not in out
            for name in ("target", "action", "history_age_s"):
                assert getattr(batch, name).tolist() == getattr(before, name).tolist()
            assert batch.history.values.tolist() == before.history.values.tolist()
            assert batch.items.rows.tolist() == before.items.rows.tolist()
            met += len(out & {had[index] for index in before.history.values})
            vectors, known = batch.items.vectors["image"], before.items.vectors["image"]
            assert vectors.unique.tolist() == known.unique.tolist(), "vectors are fetched as ever"
            places = zip(known.unique, known.unique_index, strict=True)
            assert vectors.unique_index.tolist() == [0 if image in images else place for image, place in places]
    assert met or not plain.actions


def test_counts_are_of_what_training_has(samples: SamplesWithUnseenItems) -> None:
    out = samples.unseen["item_id"]
    seen = np.zeros_like(samples.item_counts())
    for batch in samples.batches("train", 64):
        seen += np.bincount(batch.items.ids["item_id"][batch.target], minlength=len(seen))
    assert samples.item_counts().tolist() == seen.tolist()
    assert not seen[out].any()
    for name, counts in samples.occurrences().items():
        assert not counts[samples.unseen.get(name, np.zeros(0, dtype=np.int64))].any()
        assert counts.sum() == Samples(samples.folder).occurrences()[name].sum()


def test_the_draw_is_that_of_the_keys(folder: Path, samples: SamplesWithUnseenItems, tmp_path: Path) -> None:
    """The same items for every model and seed, and of a log that grew; a hold-out of the builder's draws others."""
    keys = {samples.vocabulary.values["item_id"][place - 1].as_py() for place in samples.unseen["item_id"].tolist()}
    schema = SCHEMA.replace("validation = 0.1", "validation = 0.1\nhold_out_items = 0.1")
    images = {i: 500 + i // 2 for i in range(ITEMS + 40) if i % 7}
    other = make_samples(tmp_path, ITEMS + 40, 2 * ROWS, images, schema)
    again = SamplesWithUnseenItems(other)
    drawn = {again.vocabulary.values["item_id"][place - 1].as_py() for place in again.unseen["item_id"].tolist()}
    known = set(again.vocabulary.values["item_id"].to_pylist())
    assert keys & known <= drawn
    assert drawn, "another draw than that of hold_out_items, or nothing would be left to draw"


def test_too_few_items_are_refused(tmp_path: Path) -> None:
    folder = make_samples(tmp_path, 3, 100, {})
    with pytest.raises(BadInput, match=r"cannot be validated on unseen items: 0 of 3 items are held out.*all-items"):
        SamplesWithUnseenItems(folder)


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_rows_in_batches_of_another_size(plain: Samples, size: int) -> None:
    parts = list(plain.batches("train", 30))
    again = list(in_batches(parts, size))
    assert times(again) == times(parts)
    assert {len(batch) for batch in again[:-1]} <= {size}
    assert 1 <= len(again[-1]) <= size
