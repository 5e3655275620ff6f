"""Items that share an image or a group are held out together; who shares nothing is drawn by its own key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_command
from hypothesis import given
from hypothesis import strategies as st
from made_samples import SCHEMA, make_samples

from crossmedia.errors import BadInput
from crossmedia.features.hold_out import Links, drawn, together
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import SamplesWithUnseenItems
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples

HOLD_OUT = SCHEMA.replace("[split]", "[split]\nhold_out_items = 0.2")
links = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 30)), max_size=25)


@given(links, links)
def test_groups_are_connected_components(photos: list[tuple[int, int]], products: list[tuple[int, int]]) -> None:
    """Beside a search that goes from item to item."""
    kinds = [photos, products]
    found = together(
        20, [Links(*(np.array(column, dtype=np.int64) for column in zip(*kind, strict=True))) for kind in kinds if kind]
    )
    for start in range(20):
        met, waiting = {start}, [start]
        while waiting:
            item = waiting.pop()
            near = {
                other for kind in kinds for i, value in kind if i == item for other, shared in kind if shared == value
            }
            waiting += near - met
            met |= near
        assert {item for item in range(20) if found[item] == found[start]} == met
        assert found[start] == min(met)


def test_a_long_chain_is_one_group() -> None:
    n = 3000
    item = np.concatenate([np.arange(n), np.arange(n - 1)])
    photo = np.concatenate([np.arange(n), np.arange(1, n)])
    order = np.random.default_rng(0).permutation(n)
    assert len(np.unique(together(n, [Links(order[item], photo)]))) == 1


def test_who_shares_nothing_is_drawn_whatever_else_there_is() -> None:
    keys = pa.array([f"i{n}" for n in range(4000)])
    alone = drawn(0.3, 5, keys, np.arange(4000))
    group = np.arange(4000)
    group[1000:] = 1000 + (np.arange(3000) // 3) * 3  # triplets
    in_groups = drawn(0.3, 5, keys, group)
    assert in_groups[:1000].tolist() == alone[:1000].tolist()
    triplets = in_groups[1000:].reshape(-1, 3)
    assert (triplets.all(axis=1) | ~triplets.any(axis=1)).all()
    assert alone.mean() == pytest.approx(0.3, abs=0.03), "large groups are no likelier than single items"
    assert in_groups[1000:].mean() == pytest.approx(0.3, abs=0.05)
    assert drawn(0.3, 6, keys, group).tolist() != in_groups.tolist()


def held_out_of(folder: Path) -> dict[str, int]:
    table = pq.read_table(folder / "items.parquet")
    return dict(zip(table["raw_item_id"].to_pylist(), table["held_out"].to_pylist(), strict=True))


def test_items_that_share_a_photo_are_held_out_together(tmp_path: Path) -> None:
    images = {i: 500 + i // 2 for i in range(90) if i % 7}
    folder = make_samples(tmp_path, 90, 4000, images, HOLD_OUT)
    out = held_out_of(folder)
    pairs = [(f"i{i}", f"i{i + 1}") for i in range(0, 90, 2) if i % 7 and (i + 1) % 7]
    assert {out[a] == out[b] for a, b in pairs} == {True}
    assert {out[a] for a, _ in pairs} == {0, 1}
    frame = Samples(folder).frame("test", ["image_id", "held_out"])
    photos = {
        flag: set(frame.filter(pa.compute.equal(frame["held_out"], flag))["image_id"].to_pylist()) for flag in (0, 1)
    }
    assert photos[0] & photos[1] <= {-1}
    for split in ("train", "validation"):
        shown = set(Samples(folder).frame(split, ["image_id"])["image_id"].to_pylist())
        assert not shown & (photos[1] - {-1})


def by_product(folder: Path, schema: str, images: dict[int, int]) -> Path:
    make_samples(folder, 90, 4000, images)
    rows = (folder / "items.csv").read_text().splitlines()
    product = ["product", *(f"p{i // 3}" if i % 10 or i % 6 in (2, 3) else "" for i in range(90))]
    (folder / "items.csv").write_text("\n".join(map(",".join, zip(rows, product, strict=True))) + "\n")
    (folder / "samples.toml").write_text(schema)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples", overwrite=True)
    return folder / "samples"


def test_items_of_a_group_are_held_out_together_and_an_empty_cell_is_no_group(tmp_path: Path) -> None:
    schema = HOLD_OUT.replace("hold_out_items", 'hold_out_by = "product"\nhold_out_items')
    folder = by_product(tmp_path, schema, {i: i for i in range(90)})
    out = held_out_of(folder)
    products: dict[str, set[int]] = {}
    for i in range(90):
        if i % 10:
            products.setdefault(f"p{i // 3}", set()).add(out[f"i{i}"])
    assert {len(flags) for flags in products.values()} == {1}
    assert set().union(*products.values()) == {0, 1}
    assert {out[f"i{i}"] for i in range(0, 90, 10)} == {0, 1}, "items without a product are no group"
    unseen = SamplesWithUnseenItems(folder)
    places = set(unseen.unseen["item_id"].tolist())
    assert places
    keys = unseen.vocabulary.values["item_id"].to_pylist()
    drawn_products = {int(keys[place - 1][1:]) // 3 for place in places if int(keys[place - 1][1:]) % 10}
    for place, key in enumerate(keys, 1):
        if int(key[1:]) % 10:
            assert (place in places) == (int(key[1:]) // 3 in drawn_products)


def test_photos_and_groups_join_to_larger_groups(tmp_path: Path) -> None:
    """Items 3k, 3k + 1, 3k + 2 are a product; the last of one and the first of the next share a photo, in pairs."""
    images = {i: 1000 + (i if i % 6 not in (2, 3) else 6 * (i // 6) + 2) for i in range(90)}
    schema = HOLD_OUT.replace("hold_out_items", 'hold_out_by = "product"\nhold_out_items')
    out = held_out_of(by_product(tmp_path, schema, images))
    for six in range(0, 90, 6):
        of_six = {out[f"i{i}"] for i in range(six, six + 6) if i % 10 or i % 6 in (2, 3)}  # others have no product
        assert len(of_six) == 1


def test_validation_on_unseen_items_draws_twins_together(tmp_path: Path) -> None:
    folder = make_samples(tmp_path, 90, 4000, {i: 500 + i // 3 for i in range(90)})
    samples = SamplesWithUnseenItems(folder)
    keys = samples.vocabulary.values["item_id"].to_pylist()
    out = {int(keys[place - 1][1:]) for place in samples.unseen["item_id"].tolist()}
    assert out
    known = {int(key[1:]) for key in keys}
    assert out == {i for i in known if i // 3 in {o // 3 for o in out}}


def test_a_photo_of_nearly_all_items_is_said(tmp_path: Path) -> None:
    make_samples(tmp_path, 90, 4000, {i: 7 if i < 60 else i for i in range(90)})
    (tmp_path / "samples.toml").write_text(HOLD_OUT)
    report = build_samples(load_schema(tmp_path / "samples.toml"), tmp_path / "samples", overwrite=True)
    (said,) = [line for line in report.notes_in_words() if "held out together or not at all" in line]
    assert said.startswith("60 items that share photos or a group")
    assert "a photo that stands for a missing one" in said


def test_another_seed_from_the_command_line_holds_out_other_items(tmp_path: Path) -> None:
    make_samples(tmp_path, 90, 4000, {i: i for i in range(90)}, HOLD_OUT)
    for seed in (0, 1):
        run_command(
            *("features", "build", str(tmp_path / "samples.toml")),
            *(f"--out={tmp_path / str(seed)}", f"--hold-out-seed={seed}"),
        )
    plain, zero, one = (held_out_of(tmp_path / name) for name in ("samples", "0", "1"))
    assert plain == zero
    assert {key for key in one if one[key]} != {key for key in zero if zero[key]}
    assert Samples(tmp_path / "1").frame("test", ["timestamp"]) == Samples(tmp_path / "0").frame("test", ["timestamp"])


def test_wrong_hold_outs_are_refused(tmp_path: Path) -> None:
    make_samples(tmp_path, 90, 4000, {})
    schema = load_schema(tmp_path / "samples.toml")
    with pytest.raises(BadInput, match=r"holds no items out.*hold_out_items = 0\.15"):
        schema.with_hold_out_seed(1)
    (tmp_path / "samples.toml").write_text(SCHEMA.replace("[split]", '[split]\nhold_out_by = "brand"'))
    with pytest.raises(BadInput, match="brand"):
        build_samples(load_schema(tmp_path / "samples.toml"), tmp_path / "other")
    alone = SCHEMA.replace('[items]\npath = "items.csv"\nitem = "item"\nimage = "image"\n', "")
    (tmp_path / "samples.toml").write_text(alone.replace("[split]", '[split]\nhold_out_by = "brand"'))
    with pytest.raises(BadInput, match=r"hold_out_by names a column of \[items\]"):
        load_schema(tmp_path / "samples.toml")


def test_a_share_that_leaves_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"hold_out_items = 0\.999 leaves .* Hold out a smaller share"):
        make_samples(tmp_path, 20, 400, {}, SCHEMA.replace("[split]", "[split]\nhold_out_items = 0.999"))
