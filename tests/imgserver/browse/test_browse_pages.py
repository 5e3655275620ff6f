"""The pages over a real daemon: what they show, to whom, and what they refuse."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import DaemonProcess, copy_store
from site_process import HOSTILE, browsing, get, hostile_store

from crossmedia import ImageClient
from crossmedia.cli import crossmedia
from crossmedia.errors import BadInput
from crossmedia.imgserver.browse.live import charts, quantile
from crossmedia.imgserver.browse.looks import Looks
from crossmedia.imgserver.browse.map import _bins, main_directions, neighbours_kept
from crossmedia.imgserver.client.server_info import Durations

ADMIN, READER = "a" * 24, "r" * 24
PAGES = ("", "neighbours", "neighbours?id=1", "duplicates", "map", "versions", "live", "live/now")


@pytest.fixture(scope="module")
def hostile(graph_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon over a small store of two versions, with hostile names, a broken photo, and one that is not embedded."""
    folder = tmp_path_factory.mktemp("hostile")
    store, manifest, photos = hostile_store(graph_cache, folder)
    tokens = folder / "tokens"
    tokens.write_text(f"chief admin {ADMIN}\nreader read {READER}\n")
    tokens.chmod(0o600)
    (folder / "token").write_text(READER)
    (folder / "token").chmod(0o600)
    process = DaemonProcess(store, manifest, f"--photo-root={photos}", f"--tokens={tokens}")
    yield process
    process.stop()


@pytest.fixture(scope="module")
def site(hostile: DaemonProcess) -> Iterator[str]:
    with browsing(hostile.address, env={"CROSSMEDIA_TOKEN_FILE": str(hostile.store.parent / "token")}) as address:
        yield address


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_there_and_its_policy_lets_nothing_in(site: str, page: str) -> None:
    status, text, headers = get(site + page)
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", text)
    assert "<img src=x" not in text
    assert "<script>document" not in text
    assert page in ("duplicates", "versions", "live", "live/now") or escape(HOSTILE[:20]) in text


def test_the_catalogue_says_what_has_no_vector_and_why(site: str) -> None:
    _, text, _ = get(site)
    assert "<h1>26 photos</h1>" in text
    assert "24 with a vector" in text
    _, corrupt, _ = get(f"{site}?status=3")
    assert re.search(r"<b>corrupt</b>: \w+", corrupt)
    assert corrupt.count('class="photo') == 1
    _, never, _ = get(f"{site}?status=0")
    assert "late" in never
    assert "never embedded" in never


def test_photos_are_found_by_name_and_by_id(site: str) -> None:
    _, text, _ = get(f"{site}?find=PHOTO+1&by=name")
    assert "10 of them with" in text
    status, text, _ = get(f"{site}?find=1&by=id")
    assert status == 200
    assert "Image 1," in text
    status, text, _ = get(f"{site}?find=seven&by=id")
    assert status == 400
    assert "whole number" in text
    status, text, _ = get(f"{site}?find=seven&by=words")
    assert status == 400
    assert "index" in text


def test_a_page_far_beyond_the_end_is_the_last(site: str) -> None:
    assert get(f"{site}?page=99999999999")[0] == 200
    assert get(f"{site}?page=x")[0] == 400
    status, last, _ = get(f"{site}?page={2**63 - 1}")
    assert (status, "late" in last) == (200, True)


def test_a_place_beyond_any_list_is_refused(daemon: DaemonProcess) -> None:
    with ImageClient(daemon.address) as client:
        assert len(client.images(2**63 - 1, 60)) == 0
        for start, limit in ((2**63, 60), (2**64, 60), (0, 2**32)):
            with pytest.raises(BadInput, match="at most"):
                client.images(start, limit)


@pytest.mark.parametrize("number", ["-1", str(2**63), str(2**64 - 1), "9" * 5000, "1.0", "²"])
def test_another_image_or_place_than_is_asked_for_is_never_shown(site: str, number: str) -> None:
    for page in ("neighbours?id=", "?by=id&find=", "duplicates?start=", "?status="):
        status, text, _ = get(site + page + quote(number))
        assert (status, "This cannot be shown" in text) == (400, True), page
    assert get(f"{site}photo/{quote(number)}.jpg")[0] == 404
    assert get(f"{site}neighbours?id={2**63 - 1}")[0] == 200  # an id, though of no image


def test_a_list_of_near_duplicates_begins_within_it(site: str) -> None:
    assert get(f"{site}duplicates?start=23")[0] == 200
    status, text, _ = get(f"{site}duplicates?start=24")
    assert status == 400
    assert "24 images" in text


def test_photos_are_jpegs_and_those_that_are_not_there_are_not_found(site: str) -> None:
    status, _, headers = get(f"{site}photo/1.jpg?side=64")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    for name in ("999999", "x", "-1", str(2**70)):
        assert get(f"{site}photo/{name}.jpg")[0] == 404


def test_neighbours_by_two_versions_stand_side_by_side(site: str) -> None:
    _, text, _ = get(f"{site}neighbours?id=5")
    assert text.count("<section>") == 2
    assert "neighbours are the same by both versions" in text
    assert len(re.findall(r'class="photo', text)) == 24


def test_the_nearest_are_those_of_the_vectors(daemon: DaemonProcess) -> None:
    """Without an index the site searches itself: the same as comparing all vectors."""
    looks = Looks(daemon.address)
    try:
        version = looks.versions().active
        near = looks.nearest(np.array([4, 17]), 5, version)
        with ImageClient(daemon.address, dtype="float32") as client:
            ids = looks.drawn(version).ids
            values = client.get(ids).values.astype(np.float64)
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        for row, image in enumerate((4, 17)):
            cosines = unit @ unit[ids.tolist().index(image)]
            cosines[ids == image] = -2
            best = np.argsort(-cosines)[:5]
            assert near.image_ids[row].tolist() == ids[best].tolist()
            assert near.cosines[row] == pytest.approx(cosines[best], abs=2e-3)
        assert near.images == len(ids)
        few, of = looks.sample(version, 64, seed=1)
        assert (len(few), of) == (64, len(ids))
        assert set(few.tolist()) <= set(ids.tolist())
    finally:
        looks.close()


def test_near_duplicates_are_groups(site: str) -> None:
    _, text, _ = get(f"{site}duplicates?cosine=0.3")
    assert re.search(r"<h1>[1-9]\d* groups? of photos", text)
    assert get(f"{site}duplicates?cosine=1.5")[0] == 400
    assert "None of them has a neighbour that near" in get(f"{site}duplicates?cosine=1")[1]


def test_a_version_is_activated_by_the_token_of_an_admin_alone(site: str, hostile: DaemonProcess) -> None:
    _, text, _ = get(f"{site}versions")
    other = re.search(r'<select id="version" name="version"><option>(.*?)</option>', text)
    assert other is not None
    features = re.findall(r'<td class="code">([^<]+)</td><td class="text">features of the net</td>', text)
    assert features
    assert not set(features) & set(re.findall(r"<option>(.*?)</option>", text))
    form = f"version={other[1].replace('+', '%2B')}&token="
    status, text, _ = get(f"{site}versions/activate", data=f"{form}{READER}".encode())
    assert status == 403
    assert "&#39;admin&#39;" in text
    status, text, _ = get(f"{site}versions/activate", data=f"{form}{'w' * 24}".encode())
    assert (status, "token" in text) == (403, True)
    for token in ("", "%00", f"{ADMIN}%00", f"{ADMIN}%7F", "two+words", "caf%C3%A9", "%FF", "a%0Ab"):
        status, text, _ = get(f"{site}versions/activate", data=f"{form}{token}".encode())
        assert (status, "token" in text) == (400, True), token
    status, text, _ = get(f"{site}versions/activate")
    assert status == 400
    status, text, _ = get(f"{site}versions/activate", data=f"{form}{ADMIN}".encode())
    assert status == 200
    assert f"{other[1]} is served now" in text
    assert ADMIN not in text
    status, text, _ = get(f"{site}versions/activate", data=b"version=" + b"x" * 10_000)
    assert status == 400


def test_a_name_of_another_machine_is_refused(site: str) -> None:
    """A page of anybody, whose name points here, could else read the photos by the visitor's browser."""
    assert get(site, {"Host": "evil.example"})[0] == 421
    assert get(site, {"Host": "localhost.evil.example:80"})[0] == 421
    assert get(site, {"Host": "localhost:1"})[0] == 200
    assert get(site, {"Host": "[::1]:1"})[0] == 200


def test_with_tokens_browsers_are_asked_for_one(hostile: DaemonProcess) -> None:
    folder = hostile.store.parent
    env = {"CROSSMEDIA_TOKEN_FILE": str(folder / "token")}
    with browsing(hostile.address, f"--tokens={folder / 'tokens'}", env=env) as address:
        status, _, headers = get(address)
        assert status == 401
        assert headers["www-authenticate"].startswith("Basic")
        for password, expected in ((READER, 200), ("wrong" * 6, 401), ("", 401)):
            brought = base64.b64encode(f"anybody:{password}".encode()).decode()
            assert get(address, {"Authorization": f"Basic {brought}"})[0] == expected
        assert get(address, {"Authorization": "Basic %%%"})[0] == 401
        assert get(f"{address}photo/1.jpg")[0] == 401


def test_a_token_that_is_missing_is_said(hostile: DaemonProcess) -> None:
    env = {"CROSSMEDIA_TOKEN_FILE": ""}
    with browsing(hostile.address, env=env) as address:
        status, text, _ = get(address)
    assert status == 502
    assert "token" in text


def test_the_command_says_what_is_wrong() -> None:
    for options, said in ((["--host", "no host"], "--host"), (["--tls-cert", __file__], "--tls-key")):
        done = CliRunner().invoke(crossmedia, ["browse", *options])
        assert done.exit_code == 2
        assert said in done.output
    assert CliRunner().invoke(crossmedia, ["browse", "--runs=no/such/folder"]).exit_code == 2


def test_the_map_places_near_vectors_together() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 16)) * 4
    of = np.repeat(np.arange(3), 40)
    values = centres[of] + rng.normal(size=(120, 16))
    unit = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)
    for places in (main_directions(unit), neighbours_kept(unit)):
        distances = np.linalg.norm(places[:, None] - places[None], axis=2)
        np.fill_diagonal(distances, np.inf)
        assert (of[distances.argmin(axis=1)] == of).mean() > 0.95
    assert neighbours_kept(unit[:2]).shape == (2, 2)


def test_numbers_become_groups_of_about_one_size() -> None:
    values = np.append(np.arange(100.0), np.nan)
    words, order = _bins(values)
    assert words[-1] == ""
    assert [words.count(word) for word in order] == [20, 20, 20, 20, 20]
    assert _bins(np.full(3, 2.0)) == (["2", "2", "2"], ["2"])
    assert _bins(np.full(2, np.nan)) == (["", ""], [])


def test_a_quantile_is_the_bound_of_its_group() -> None:
    told = Durations((0.001, 0.01, 0.1), (50, 45, 4, 1))
    assert (quantile(told, 0.5), quantile(told, 0.95), quantile(told, 0.99)) == (0.001, 0.01, 0.1)
    assert np.isnan(quantile(Durations(), 0.5))
    assert charts([]) == []


def test_a_server_that_nobody_asked_has_no_share_of_answers(hostile: DaemonProcess) -> None:
    """100 % of nothing would read as if all were well."""
    idle = DaemonProcess(copy_store(hostile.store, hostile.store.parent / "idle"), None)
    try:
        with browsing(idle.address) as address:
            text = soon(f"{address}live/now", "the server was asked for")
            assert "the server was asked for nothing yet." in text
            assert "%" not in text.partition("asked for")[2].partition("</p>")[0]
            with ImageClient(idle.address) as client:
                client.get([1, 2])
            assert "asked for 2 ids, had 100.0 % of them" in soon(f"{address}live/now", "asked for 2 ids")
    finally:
        idle.stop()


def soon(address: str, words: str) -> str:
    """A page, once it has these words."""
    end = time.monotonic() + 20
    while words not in (text := get(address)[1]) and time.monotonic() < end:
        time.sleep(0.3)
    return text
