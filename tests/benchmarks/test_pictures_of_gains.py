"""What pictures draw is of runs that differ in nothing else: gains by recall, by kind of vectors, by data."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.plot_exchange import points, rate
from benchmarks.plot_fashion import KINDS
from benchmarks.plot_fashion import gains as gains_of_photos
from benchmarks.plot_worth import gains


def line(model: str, version: str, seed: int, value: float, head: str = "frozen") -> dict[str, Any]:
    return {
        "samples": "abc",
        "model": model,
        "images": bool(version),
        "vector_version": version,
        "options": {"head": head},
        "seed": seed,
        "test": {"all": {"auc": value}},
    }


def test_gains_are_paired_by_seed_and_the_rate_is_their_slope() -> None:
    heads = [
        {"name": name, "version": version, "recall": {"articles": {"100": recall}}}
        for name, version, recall in (
            ("good", "v3", 0.03),
            ("bad", "v1", 0.01),
            ("fair", "v2", 0.02),
            ("none", "v4", 0.5),
        )
    ]
    lines = [line("simtier", "", 0, 0.5), line("simtier", "", 1, 0.6)]
    for version, gain in (("v1", 0.02), ("v2", 0.04), ("v3", 0.06)):
        lines += [line("din", f"photo={version}", seed, before + gain) for seed, before in ((0, 0.5), (1, 0.6))]
    lines += [
        line("din", "photo=v1", 7, 0.9),
        line("din", "photo=v4", 0, 0.9, head="learn"),
        line("muse", "photo=v4", 0, 0.9),
    ]
    found = points(lines, heads, "din", "simtier", "abc/all/auc")
    assert [one.name for one in found] == ["bad", "fair", "good"]
    assert [one.gains for one in found] == [pytest.approx([gain, gain]) for gain in (2, 4, 6)]
    assert rate(found) == pytest.approx((2, 0, 1))


def test_photos_are_told_by_kind_and_paired_with_the_net_without_them() -> None:
    features = "photo=efficientnet_lite0@8080e1527fb3"
    versions = {"frozen": f"{features}+pca@1/64", "aligned": f"{features}+aligned@2/64"}
    versions |= dict.fromkeys(["learned", "aligned, learned"], features)
    lines = [line("simtier", "", seed, 0.5) for seed in (0, 1)]
    for place, kind in enumerate(KINDS, 1):
        made = line("din", versions[kind], 1, 0.5 + place / 100, head="learn" if "learned" in kind else "frozen")
        made["options"]["warm_start"] = "runs/aligned" if kind == "aligned, learned" else ""
        lines += [
            made,
            line("din", f"{features}+pca@1/12", 1, 0.9),
            line("din", f"{versions['frozen']}, title=t", 1, 0.9),
        ]
    for place, kind in enumerate(KINDS, 1):
        assert gains_of_photos(lines, "din", kind, "all", "auc") == [pytest.approx(place / 100)]
        assert gains_of_photos(lines, "simtier", kind, "all", "auc") == []


def test_what_pictures_are_worth_is_of_one_hold_out_and_of_no_aligned_head() -> None:
    def made(samples: str, version: str, seed: int, value: float, **options: Any) -> dict[str, Any]:
        of = line("din", version, seed, value) | {"data": "shop", "samples": samples, "date": f"{value}"}
        of["options"] |= {"max_staleness": 0, "id_dropout": 0.0, **options}
        return of

    lines = [made(samples, "", seed, 0.5) for samples in ("old", "new") for seed in (0, 1)]
    lines += [made("old", "v+pca@1/64", seed, 0.6) for seed in (0, 1)] + [made("new", "v+pca@1/64", 1, 0.9)]
    lines += [made("old", "v+aligned@1/64", 0, 0.8), made("old", "v+pca@1/64", 0, 0.8, averaging=True)]
    assert gains(lines, "shop", "all", "auc", "frozen") == [pytest.approx(0.1)] * 2
