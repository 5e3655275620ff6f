"""What lines of results say together: rows of means over seeds. ``verdict`` says it in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from crossmedia.features.spec import IMAGE_SPACE
from crossmedia.trainer.baselines import ITEM_USER, NAMES
from crossmedia.trainer.doubts import above_chance
from crossmedia.trainer.doubts import by_metric as no_better
from crossmedia.trainer.metrics import rela_impr
from crossmedia.trainer.runs.results import DEFAULTS, Line

METRIC_NAMES = ("auc", "gauc", "log_loss")
ABOUT_ROWS = ("rows", "positives", "base_log_loss", "gauc_users", "users")  # the same for all models
PARTS = {
    "all": "",
    "unseen_items": " on items unseen in training",
    "held_out_items": " on items held out entirely",
}
HEAD = ("head", "head_widths", "head_activation", "head_normalisation", "head_start", "head_learning_rate")
OF_IMAGES = (*HEAD, "max_staleness")  # runs with ids only have none of these
OF_ALL = ("learning_rate", "embedding_l2", "id_dropout")
TUNED = (*OF_ALL, *OF_IMAGES)
OWN = ("options", *TUNED)
OF_ROWS = ("labels", "validate_on")  # options that baselines have, too: which rows are trained on, and what of them
Pair = tuple[str, int]
COSTS = ("samples_per_s", "images_per_s", "bytes_per_sample", "bytes_received", "images_computed", "seconds")


def pair_of(line: Line) -> Pair:
    """The samples and the seed of a line: what it has in common with the line that it is compared with."""
    return line["samples"], line["seed"]


def is_baseline(line: Line) -> bool:
    """Whether a line, or a row, is of no model but of one of ``baselines``."""
    return line["model"] in NAMES


def spaces_of(line: Line) -> tuple[str, ...]:
    """The spaces whose vectors a run was trained with, as the name of their versions says; empty: ids only."""
    versions = line["vector_version"].split(", ") if line["vector_version"] else []
    return tuple(name if equals else IMAGE_SPACE for name, equals, _ in (one.partition("=") for one in versions))


def model_name(line: Line) -> str:
    """The model of a line, with what was chosen for it: its own options, and what is not the default of ``TUNED``."""
    return _name(line, TUNED) if line["images"] else base_name(line)


def base_name(line: Line) -> str:
    """The name of the runs with ids only that a line is compared with: they have no head that could learn."""
    return _name(line, OF_ALL)


def _name(line: Line, tuned: Iterable[str]) -> str:
    options = line["options"]
    if is_baseline(line):
        return str(line["model"])
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
    """Lines that can be compared: same samples, same training; of each space one version of vectors among them.

    Models, their own options and what is tuned for each (``TUNED``) may differ, and so may the spaces. Those with ids
    only, and the baselines of the same rows, are in each group.
    """
    plain: dict[str, list[Line]] = {}
    means: dict[str, list[Line]] = {}
    for line in lines:
        options = DEFAULTS | line["options"]
        of_rows = json.dumps([line["data"], line["samples"], [options[name] for name in OF_ROWS]])
        if is_baseline(line):
            means.setdefault(of_rows, []).append(line)
        else:
            shared = [item for item in sorted(options.items()) if item[0] not in OWN]
            plain.setdefault(json.dumps([of_rows, shared]), []).append(line)
    return [
        [*means.get(json.loads(key)[0], []), *(line for line in members if _versions(line).items() <= versions.items())]
        for key, members in plain.items()
        for versions in _together(members)
    ]


def _versions(line: Line) -> dict[str, str]:
    """The version of each space of a line."""
    versions = line["vector_version"].split(", ") if line["vector_version"] else []
    return dict(zip(spaces_of(line), versions, strict=True))


def _together(lines: Iterable[Line]) -> list[dict[str, str]]:
    """Versions by space that stand in one table: no two of one space; those of most spaces first."""
    tables: list[dict[str, str]] = []
    for versions in sorted(map(_versions, lines), key=lambda found: (-len(found), sorted(found.items()))):
        fitting = [table for table in tables if all(table.get(space, one) == one for space, one in versions.items())]
        if fitting:
            fitting[0].update(versions)
        else:
            tables.append(dict(versions))
    return tables


def options_text(line: Line) -> str:
    """The options of training of a line that are not the defaults."""
    options = {name: value for name, value in line["options"].items() if name not in OWN}
    changed = [f"{name}={value}" for name, value in options.items() if _plain(DEFAULTS.get(name)) != _plain(value)]
    return ", ".join(changed) or "default options"


def vectors_text(lines: Iterable[Line]) -> str:
    """``with vectors of …`` and their version: what tells two tables of the same models apart; empty for ids only."""
    versions = sorted({version for line in lines for version in _versions(line).values()})
    return f"with vectors of {', '.join(versions)}" if versions else ""


def rows(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One row a baseline, then one a model and what vectors it had: means and standard deviations over its runs.

    Gains over ids only are of pairs of runs with one seed on the same samples; those over the item's and the user's
    mean are of each run.
    """
    runs: dict[tuple[str, tuple[str, ...]], dict[Pair, Line]] = {}
    for line in sorted(lines, key=lambda line: not is_baseline(line)):
        runs.setdefault((model_name(line), spaces_of(line)), {})[pair_of(line)] = line
    mean = {line["samples"]: line for line in runs.get((ITEM_USER, ()), {}).values()}
    return [
        _row(model, by_seed, runs.get((base_name(next(iter(by_seed.values()))), ()), {}), mean)
        for model in dict.fromkeys(model for model, _ in runs)
        for spaces in sorted({spaces for name, spaces in runs if name == model}, key=lambda names: (len(names), names))
        if (by_seed := runs[model, spaces])
    ]


def doubts(lines: Sequence[Line]) -> list[str]:
    """Sentences on models that are no better than a constant on the test part: one a model, images off or on, metric.

    Of several seeds, or runs where there are several hold-outs, it says in which of them this is so, and quotes the
    first of those.
    """
    said = []
    models = [line for line in lines if not is_baseline(line)]
    for model, spaces in dict.fromkeys((model_name(line), spaces_of(line)) for line in models):
        runs = [line for line in models if (model_name(line), spaces_of(line)) == (model, spaces)]
        several = len({line["samples"] for line in runs}) > 1
        found: dict[str, list[tuple[int, str]]] = {}
        for line in runs:
            for metric, text in no_better("test", line["test"]["all"]).items():
                found.setdefault(metric, []).append((line["seed"], text))
        for in_seeds in found.values():
            (first, text), numbers = min(in_seeds), ", ".join(str(seed) for seed, _ in sorted(in_seeds))
            of = f"{len(runs)} runs (seeds {numbers})" if several else f"{len(runs)} seeds ({numbers})"
            seeds = f" in {len(in_seeds)} of {of}; seed {first}" if len(runs) > 1 else ""
            said.append(f"{model} {kind(spaces)}{seeds}: {text}")
    return said


def kind(spaces: Sequence[str]) -> str:
    """How a model with vectors of some spaces is called."""
    if not spaces:
        return "ids only"
    return "with images" if list(spaces) == [IMAGE_SPACE] else f"with {in_words(spaces)}"


def in_words(names: Sequence[str]) -> str:
    """Names as ``photo, title and text``."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def called(row: dict[str, Any]) -> str:
    """How a row is called: its model, and what vectors it had."""
    return str(row["model"]) if row["baseline"] else f"{row['model']} {kind(row['spaces'])}"


def told_parts(row: dict[str, Any]) -> dict[str, str]:
    """The parts of a row that are worth telling, with their words.

    Where no items but those that are held out are unseen, both parts are the same rows: these are told once.
    """
    there = {name: where for name, where in PARTS.items() if name in row}
    unseen, held_out = (row.get(name, {}) for name in ("unseen_items", "held_out_items"))
    if held_out and all(unseen.get(name) == held_out.get(name) for name in ("rows", *METRIC_NAMES)):
        del there["held_out_items"]
    return there


def mean_std(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean and standard deviation over the seeds; None when a value is missing, no deviation of one value."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    if not known or len(known) < len(values):
        return None
    return {"mean": float(np.mean(known)), "std": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def _row(model: str, runs: dict[Pair, Line], base: dict[Pair, Line], mean: dict[str, Line]) -> dict[str, Any]:
    some = next(iter(runs.values()))
    spaces, baseline = list(spaces_of(some)), is_baseline(some)
    row: dict[str, Any] = {"model": model, "images": some["images"], "spaces": spaces, "baseline": baseline}
    row["seeds"], row["hold_outs"] = len(runs), len({line["samples"] for line in runs.values()})
    row["hold_out_seeds"] = sorted({line["hold_out_seed"] for line in runs.values() if "hold_out_seed" in line})
    for part in [name for name in PARTS if name in some["test"]]:
        pairs = [(runs[pair]["test"][part], base[pair]["test"][part]) for pair in sorted(runs.keys() & base.keys())]
        gains = pairs if spaces else []
        of_mean = [] if baseline else [mean.get(run["samples"]) for run in runs.values()]
        over = [(run["test"][part], m["test"][part]) for run, m in zip(runs.values(), of_mean, strict=False) if m]
        row[part] = {name: mean_std([run["test"][part].get(name) for run in runs.values()]) for name in METRIC_NAMES}
        for name in METRIC_NAMES:
            row[part] |= {f"{name}_gain": _gain(gains, name), f"{name}_over_mean": _gain(over, name)}
        row[part] |= {"rela_impr": None, **{name: some["test"][part].get(name) for name in ABOUT_ROWS}}
        if row[part]["auc_gain"] and all(above_chance(b) for _, b in pairs):
            row[part]["rela_impr"] = mean_std([rela_impr(a["auc"], b["auc"]) for a, b in pairs])
        row[part]["pairs"] = len(pairs)
    row["train"] = None if baseline else {n: float(np.mean([run["train"][n] for run in runs.values()])) for n in COSTS}
    return row


def _gain(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], metric: str) -> dict[str, float | None] | None:
    """How much more of a metric the first of each pair has; None where one has none."""
    values = [(a.get(metric), b.get(metric)) for a, b in pairs]
    return mean_std([a - b if a is not None and b is not None else None for a, b in values])
