"""The exchange rate is the slope of gains by recall, of runs that differ in nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.plot_exchange import points, rate


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
