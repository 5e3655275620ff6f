"""The tables of ``benchmarks.whitebox``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(width=120)


def show(told: Mapping[str, Any]) -> None:
    """Print what was measured."""
    _auc(told)
    _effects(told["effects"])
    _pictures(told["pictures"])
    _disentangled(told["disentangled"])
    _kept(told["kept"])
    print(f"milliseconds a request of 200: {_numbers(told['milliseconds'])}")
    if "ebm" in told:
        print(f"EBM on the table of concepts: AUC {told['ebm'][0]:.4f}, unseen items {told['ebm'][1]:.4f}")
    for name, one in told["controls"].items():
        print(f"{name}: of {one['effects']} effects {one['without_zero']} have an interval without 0")
    if "classes" in told:
        classes = told["classes"]
        print(
            f"a class sells {_numbers(classes['worth'])}: the picture goes with the truth at {classes['truth']:.3f} "
            f"(ceiling {classes['ceiling']:.3f}); largest effects {_numbers(classes['largest'])}; "
            f"AUC {classes['auc']}"
        )


def _auc(told: Mapping[str, Any]) -> None:
    table = Table("variant", "seeds", "AUC", "AUC, unseen items", "picture and truth", "its slope", "without a name")
    for name, means in told["auc"].items():
        cells = (f"{mean:.4f} ± {std:.4f}" for mean, std in zip(means, told["auc_std"][name], strict=True))
        of_picture = (f"{told[of][name]:.3f}" if name in told[of] else "" for of in ("truth", "size", "nameless"))
        table.add_row(name, str(told["seeds"][name]), *cells, *of_picture)
    console.print(table)
    print(f"ridge regression of the true effect, early photos to late ones: {told['ceiling']:.3f}")


def _effects(effects: Mapping[str, list[float]]) -> None:
    table = Table("anchor", "effect of 1 s.d.", "true", title="plumbing, no result: the effects are among the anchors")
    for name, (effect, half, true) in sorted(effects.items(), key=lambda one: -abs(one[1][0])):
        table.add_row(name, f"{effect:+.3f} ± {half:.3f}", f"{true:+.3f}" if true else "0")
    console.print(table)


def _pictures(found: Mapping[str, Any]) -> None:
    table = Table("concepts", "rendered", "right way", "own", "others", "drift", "what else moves")
    for name, one in found.items():
        for moved in one["moved"]:
            most = ", ".join(f"{concept} {by:+.2f}" for concept, by in moved["most"])
            numbers = (f"{moved[key]:.3f}" for key in ("right", "own", "others", "drift"))
            table.add_row(name, moved["factor"], *numbers, most)
    console.print(table)
    for name, one in found.items():
        print(f"{name}: what-if uplift, slope {one['slope']:.3f}, correlation {one['correlation']:.3f}")


def _disentangled(found: Mapping[str, Any]) -> None:
    table = Table("", "codes", "one-code R²", "warmth, brightness, greenness", "disentanglement", "completeness")
    for name, one in found.items():
        r2 = ", ".join(f"{value:.2f}" for value in one["r2"])
        numbers = (f"{one[key]:.3f}" for key in ("disentanglement", "completeness"))
        table.add_row(name, str(one["codes"]), f"{one['one_code_r2']:.3f}", r2, *numbers)
    console.print(table)


def _kept(found: Mapping[str, Any]) -> None:
    table = Table("rows", "DIN gains", "kept", "95 %", "")
    for name, one in found.items():
        gain = f"{one['gain']:+.4f} ± {one['deviation']:.4f}"
        why = "" if one["counted"] else "not counted: the gain is below twice its deviation"
        table.add_row(name, gain, f"{one['share']:.0%}", f"{one['low']:.0%} to {one['high']:.0%}", why)
    console.print(table)


def _numbers(of: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:+.2f}" for name, value in of.items())
