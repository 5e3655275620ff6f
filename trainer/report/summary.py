"""What lines of results say together: rows of means over seeds, and one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from crossmedia.trainer.doubts import by_metric as no_better
from crossmedia.trainer.metrics import rela_impr
from crossmedia.trainer.runs.results import DEFAULTS, UNNAMED, Line

METRIC_NAMES = ("auc", "gauc", "log_loss")
ABOUT_ROWS = ("rows", "positives", "base_log_loss", "gauc_users", "users")  # the same for all models
PARTS = {
    "all": "",
    "unseen_items": " on items unseen in training",
    "held_out_items": " on items held out entirely",
}
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # two-sided, by degrees of freedom from 1
HEAD = ("head", "head_widths", "head_activation", "head_normalisation", "head_start", "head_learning_rate")
OF_IMAGES = (*HEAD, "max_staleness")  # runs with ids only have none of these
OF_ALL = ("learning_rate", "embedding_l2", "id_dropout")
TUNED = (*OF_ALL, *OF_IMAGES)
OWN = ("options", *TUNED)
COSTS = ("samples_per_s", "images_per_s", "bytes_per_sample", "bytes_received", "images_computed", "seconds")


def model_name(line: Line) -> str:
    """The model of a line, with what was chosen for it: its own options, and what is not the default of ``TUNED``."""
    return _name(line, TUNED) if line["images"] else base_name(line)


def base_name(line: Line) -> str:
    """The name of the runs with ids only that a line is compared with: they have no head that could learn."""
    return _name(line, OF_ALL)


def _name(line: Line, tuned: Iterable[str]) -> str:
    options = line["options"]
    chosen = {
        name: options[name] for name in tuned if _plain(options.get(name, DEFAULTS[name])) != _plain(DEFAULTS[name])
    }
    return " ".join([line["model"], *_texts(options.get("options", {})), *_texts(chosen)])


def _plain(value: Any) -> Any:
    """A tuple as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def _texts(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, dict):  # of a net inside the model
            yield from _texts(value, f"{prefix}{name.removesuffix('_options')}.")
        else:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{prefix}{name}={text}"


def groups(lines: Iterable[Line]) -> list[list[Line]]:
    """Lines that can be compared: same samples, same training; one version of vectors among them.

    Models, their own options and what is tuned for each (``TUNED``) may differ.
    """
    plain: dict[str, list[Line]] = {}
    versions: dict[str, set[str]] = {}
    for line in lines:
        shared = [item for item in sorted((UNNAMED | line["options"]).items()) if item[0] not in OWN]
        key = json.dumps([line["data"], line["samples"], shared])
        plain.setdefault(key, []).append(line)
        versions.setdefault(key, set()).update({line["vector_version"]} - {""})
    return [
        [line for line in members if line["vector_version"] in ("", version)]
        for key, members in plain.items()
        for version in sorted(versions[key]) or [""]
    ]


def options_text(line: Line) -> str:
    """The options of training of a line that are not the defaults."""
    options = {name: value for name, value in (UNNAMED | line["options"]).items() if name not in OWN}
    changed = [f"{name}={value}" for name, value in options.items() if _plain(DEFAULTS.get(name)) != _plain(value)]
    return ", ".join(changed) or "default options"


def vectors_text(lines: Iterable[Line]) -> str:
    """``with vectors of …`` and their version: what tells two tables of the same models apart; empty for ids only."""
    versions = sorted({line["vector_version"] for line in lines} - {""})
    return f"with vectors of {'; '.join(versions)}" if versions else ""


def rows(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One row a model and images off or on: means and standard deviations over its seeds.

    Gains over ids only are of pairs of runs with one seed.
    """
    runs: dict[tuple[str, bool], dict[int, Line]] = {}
    for line in lines:
        runs.setdefault((model_name(line), line["images"]), {})[line["seed"]] = line
    return [
        _row(model, images, by_seed, runs.get((base_name(next(iter(by_seed.values()))), False), {}))
        for model in dict.fromkeys(map(model_name, lines))
        for images in (False, True)
        if (by_seed := runs.get((model, images)))
    ]


def doubts(lines: Sequence[Line]) -> list[str]:
    """Sentences on models that are no better than a constant on the test part: one a model, images off or on, metric.

    Of several seeds it says in which of them this is so, and quotes the first of those.
    """
    said = []
    for model, images in dict.fromkeys((model_name(line), line["images"]) for line in lines):
        runs = [line for line in lines if (model_name(line), line["images"]) == (model, images)]
        found: dict[str, list[tuple[int, str]]] = {}
        for line in runs:
            for metric, text in no_better("test", line["test"]["all"]).items():
                found.setdefault(metric, []).append((line["seed"], text))
        for in_seeds in found.values():
            (first, text), numbers = min(in_seeds), ", ".join(str(seed) for seed, _ in sorted(in_seeds))
            seeds = f" in {len(in_seeds)} of {len(runs)} seeds ({numbers}); seed {first}" if len(runs) > 1 else ""
            said.append(f"{model} {kind(images)}{seeds}: {text}")
    return said


def kind(images: bool) -> str:
    """How a model with images on or off is called."""
    return "with images" if images else "ids only"


def mean_std(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean and standard deviation over the seeds; None when a value is missing, no deviation of one value."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    if not known or len(known) < len(values):
        return None
    return {"mean": float(np.mean(known)), "std": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def _row(model: str, images: bool, runs: dict[int, Line], base: dict[int, Line]) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "images": images, "seeds": len(runs)}
    some = next(iter(runs.values()))
    for part in [name for name in PARTS if name in some["test"]]:
        row[part] = {name: mean_std([run["test"][part].get(name) for run in runs.values()]) for name in METRIC_NAMES}
        for name in METRIC_NAMES:
            row[part][f"{name}_gain"] = None
        row[part] |= {"rela_impr": None, **{name: some["test"][part].get(name) for name in ABOUT_ROWS}}
        pairs = [(runs[seed]["test"][part], base[seed]["test"][part]) for seed in sorted(runs.keys() & base.keys())]
        if images and pairs:
            for name in METRIC_NAMES:
                values = [(a.get(name), b.get(name)) for a, b in pairs]
                gains = [a - b if a is not None and b is not None else None for a, b in values]
                row[part][f"{name}_gain"] = mean_std(gains)
            if row[part]["auc_gain"]:
                row[part]["rela_impr"] = mean_std([rela_impr(a["auc"], b["auc"]) for a, b in pairs])
        row[part]["pairs"] = len(pairs)
    row["train"] = {name: float(np.mean([run["train"][name] for run in runs.values()])) for name in COSTS}
    return row


def _half_width(std: float, n: int) -> float:
    """Half of the 95 % confidence interval of the mean of n values, by Student's t."""
    return float(T95[min(n - 1, len(T95)) - 1] * std / np.sqrt(n))


def is_chance(gain: dict[str, Any], pairs: int) -> bool:
    """Whether the 95 % confidence interval of a gain over some pairs of seeds, two or more, has a zero in it."""
    return bool(abs(gain["mean"]) <= _half_width(gain["std"], pairs))


def certainty(gain: dict[str, Any], pairs: int) -> str:
    """A sentence on whether a gain may be chance.

    Args:
        gain: mean and deviation over the seeds.
        pairs: how many seeds.
    """
    if gain["std"] is None:
        return "One seed cannot tell a difference from chance."
    if is_chance(gain, pairs):
        return f"{pairs} seeds cannot tell this from chance."
    return f"Over {pairs} seeds this is more than chance explains."


def winner(table: Sequence[dict[str, Any]]) -> str:
    """Which model orders the test rows best, with or without images, and whether that may be chance.

    A constant, which has an AUC of .5, takes part. Empty: there is no AUC.
    """
    known = sorted((row for row in table if row["all"]["auc"]), key=lambda row: -row["all"]["auc"]["mean"])
    if not known:
        return ""
    if known[0]["all"]["auc"]["mean"] <= 0.5:
        return "No model orders the test rows better than a constant, whose AUC is .5."
    first, *others = known
    said = f"Best on the test rows: {_with_auc(first)}"
    if not others:
        return f"{said}."
    lead = first["all"]["auc"]["mean"] - others[0]["all"]["auc"]["mean"]
    seeds, deviations = (min(row["seeds"] for row in known[:2]), [row["all"]["auc"]["std"] for row in known[:2]])
    chance = ""
    if seeds < 2 or None in deviations:
        chance = "; one seed cannot tell the two from chance"
    elif is_chance({"mean": lead, "std": float(np.hypot(*deviations))}, seeds):
        chance = f"; {seeds} seeds cannot tell the two apart"
    return f"{said}, before {_with_auc(others[0])}{chance}."


def _with_auc(row: dict[str, Any]) -> str:
    auc = row["all"]["auc"]
    spread = "" if auc["std"] is None else f" ± {auc['std']:.4f}"
    return f"{row['model']} {kind(row['images'])} (AUC {auc['mean']:.4f}{spread})"


def sentence(table: list[dict[str, Any]]) -> str:
    """The winner, and whether the pictures helped.

    A difference counts when its 95 % confidence interval over the seeds has no zero.
    """
    parts = []
    fewest = min((row["all"]["pairs"] for row in table if row["images"] and row["all"]["auc_gain"]), default=0)
    for row in table:
        for part, where in PARTS.items():
            gain = row.get(part, {}).get("auc_gain")
            if not row["images"] or gain is None:
                continue
            change = f"AUC {gain['mean']:+.4f}"
            if gain["std"] is None:
                verdict = "changed"  # one seed says by how much, and nothing on whether that is chance
            else:
                change += f" ± {gain['std']:.4f}"
                verdict = "helped" if gain["mean"] > 0 else "hurt"
                if is_chance(gain, row[part]["pairs"]):
                    verdict = "had no effect that so few seeds can tell from chance on"
            parts.append(f"{verdict} {row['model']}{where} ({change})")
    best = [one for one in [winner(table)] if one]
    if not parts:
        return " ".join([*best, "No run with images can be compared with one without."])
    caveat = " One seed cannot tell a difference from chance." if fewest < 2 else ""
    return " ".join([*best, f"The pictures {'; '.join(parts)}.{caveat}"])
