"""The same models with ids only and with images, over hold-outs and seeds: one table, and one sentence."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from crossmedia.arguments import once
from crossmedia.disk import replacing
from crossmedia.errors import BadInput, did_you_mean
from crossmedia.features.layout import META_FILE
from crossmedia.features.reading.hold_outs import hold_outs
from crossmedia.options import checked
from crossmedia.progress import duration
from crossmedia.trainer.baseline_lines import baseline_lines
from crossmedia.trainer.fit import fit
from crossmedia.trainer.images.open_images import served_versions, spaces_of
from crossmedia.trainer.images.places import Given
from crossmedia.trainer.images.spaces import named_versions
from crossmedia.trainer.intervals import with_intervals
from crossmedia.trainer.models import model_class
from crossmedia.trainer.report import summary, verdict
from crossmedia.trainer.runs import results
from crossmedia.trainer.runs.run_folder import COMPARISON, SETTINGS, fresh_names, holds_run, name_in_comparison
from crossmedia.trainer.runs.sealed import sealed_json
from crossmedia.trainer.settings import CompareConfig, FitConfig

__all__ = ["CompareConfig", "compare"]

RESULTS = "results.jsonl"


def compare(
    config: CompareConfig,
    transport: Given = None,
    announce: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> dict[str, Any]:
    """Train what has no line of results yet, and write ``compare.json``: rows, the sentence, the lines.

    The rows of ``baselines``, of which none is trained, stand beside those of the models.

    Samples without images are trained with ids only, and no server is asked.

    Returns:
        what ``compare.json`` holds, and the folder as ``out``.

    Raises:
        BadInput: a setting, a model, the samples, the results or the reference file are wrong, or the folder holds
            another comparison.
        CrossMediaError: what ``fit`` raises.

    Example:
        >>> import crossmedia
        >>> base = crossmedia.FitConfig.suited_to("samples", server="localhost:7070", epochs=1)
        >>> found = crossmedia.compare(crossmedia.CompareConfig(base, models=("embedding_mlp",), seeds=1))
        >>> [(row["model"], row["images"]) for row in found["rows"] if not row["baseline"]]
        [('embedding_mlp', False), ('embedding_mlp', True)]
    """
    config = checked(config, CompareConfig)
    for name in (*config.models, *config.options):
        model_class(name)
    once("--models", config.models)
    reference = _reference(config.reference)
    folders = [config.base.samples, *config.hold_outs]
    opened = dict(zip(folders, hold_outs(folders), strict=True))
    samples = opened[config.base.samples]
    data = config.data or samples.folder.resolve().name
    with_images = bool(spaces_of(samples))
    # Asked first, so that nothing is trained when the server cannot be reached.
    versions = served_versions(config.base, samples, transport) if with_images else {}
    choices = [(), *_choices(config.spaces, list(versions))] if with_images else [()]
    own = results.key_fields(config.base, data, samples, named_versions(versions))
    own |= {"models": config.options} if config.options else {}
    own |= {"hold_outs": [opened[folder].hash for folder in config.hold_outs]} if config.hold_outs else {}
    out = _folder(config.base, own)
    file = config.results or out / RESULTS
    runs = []
    for settings, spaces in _runs(config, out, choices):
        version = named_versions({name: versions[name] for name in spaces})
        key = results.key_fields(settings, data, opened[settings.samples], version)
        runs.append(_Run(settings, spaces, transport, key))
    means = [line for folder in folders for line in baseline_lines(replace(config.base, samples=folder), data)]
    results.append_new(file, means)
    lines = list(_lines(runs, file, announce, progress))
    announce("intervals over users, items and seeds")
    of_runs = [(line, Path(run.config.out)) for line, run in zip(lines, runs, strict=True)]
    result = _judged(config, means, of_runs, with_images) | {"reference": reference}
    with replacing(out / COMPARISON) as part:
        part.write_text(sealed_json(result))
    return {**result, "out": str(out)}


def _judged(
    config: CompareConfig, means: list[results.Line], of_runs: list[tuple[results.Line, Path]], with_images: bool
) -> dict[str, Any]:
    """What is said of the lines of the means and of the runs, each of which has its folder."""
    lines = [line for line, _ in of_runs]
    folders = [config.base.samples, *config.hold_outs]
    rows, unsure = with_intervals(summary.rows([*means, *lines]), of_runs, config.base, folders)
    said = verdict.sentence(rows)
    if not with_images:
        said = f"{verdict.winner(rows)} The samples have no images to compare with.".lstrip()
    return {
        "samples": config.base.samples,
        "hold_outs": list(config.hold_outs),
        "seeds": config.seeds,
        "rows": rows,
        "sentence": said,
        "doubts": [*verdict.doubts_of_means(rows), *unsure, *summary.doubts(lines)],
        "runs": lines,
        "baselines": means,
    }


@dataclass(frozen=True)
class _Run:
    """A run of a comparison.

    Attributes:
        config: how it is trained.
        spaces: whose vectors it has.
        given: transports in the place of connections, of all spaces.
        key: what its line of results is found by.
    """

    config: FitConfig
    spaces: tuple[str, ...]
    given: Given
    key: results.Line

    @property
    def transport(self) -> Given:
        """Those of its own spaces."""
        if not isinstance(self.given, Mapping):
            return self.given
        return {name: transport for name, transport in self.given.items() if name in self.spaces}


def _lines(
    runs: list[_Run],
    file: Path,
    announce: Callable[[str], None],
    progress: Callable[[int, int, str], None],
) -> Iterator[results.Line]:
    """The line of each run, which is trained where the file has none of its key."""
    trained, began = 0, time.monotonic()
    for number, run in enumerate(runs, 1):
        # Read again each time: another process may have filled in some of the same matrix.
        known = results.read([file]) if file.exists() else {}
        line = known.get(results.identity(run.key))
        name = f"run {number} of {len(runs)}, {Path(run.config.out).name}"
        if line is None:
            left = sum(results.identity(other.key) not in known for other in runs[number - 1 :])
            rest_s = (time.monotonic() - began) / trained * left if trained else 0
            announce(f"{name}: training{f', about {duration(rest_s)} left' if trained else ''}")

            def on_the_way(done: int, total: int, what: str, name: str = name) -> None:
                progress(done, total, f"{name}, {what}")

            line = results.new_line(run.key, fit(run.config, run.transport, on_the_way, announce))
            results.append(file, line)
            trained += 1
        else:
            announce(f"{name}: done before")
        yield line


def _choices(named: Sequence[str], there: Sequence[str]) -> list[tuple[str, ...]]:
    """Which spaces' vectors each model is trained with, in the order of ``there``; all together when none is named."""
    choices = [{name.strip() for name in text.split("+")} for text in named]
    if unknown := [name for choice in choices for name in sorted(choice) if name not in there]:
        raise BadInput(
            f"--spaces names {unknown[0]!r}; the spaces that vectors are had of are: {', '.join(there)}."
            f"{did_you_mean(unknown[0], there)}"
        )
    found = [tuple(name for name in there if name in choice) for choice in choices]
    once("--spaces", ["+".join(choice) for choice in found])
    return found or [tuple(there)]


def _runs(
    config: CompareConfig, out: Path, choices: Sequence[tuple[str, ...]]
) -> Iterator[tuple[FitConfig, tuple[str, ...]]]:
    """Every run of a comparison and its spaces: a seed after the other, and of each a hold-out after the other."""
    base = config.base
    folders = enumerate([base.samples, *config.hold_outs])
    for seed, (hold_out, folder), model, spaces in product(range(config.seeds), folders, config.models, choices):
        learns = bool(spaces) and base.head.rpartition("=")[0] in ("", *spaces)
        run = replace(
            base,
            samples=folder,
            model=model,
            images=bool(spaces),
            vectors={name: place for name, place in base.vectors.items() if name in spaces or not spaces},
            options={**base.options, **config.options.get(model, {})},
            head=base.head if learns else "frozen",
            seed=seed,
            out=str(out / name_in_comparison(model, spaces, seed, hold_out)),
        )
        yield run, spaces


def _folder(base: FitConfig, key: results.Line) -> Path:
    """The folder of a comparison, which holds nothing else: of one that was begun with the same settings, the rest."""
    names = ("data", "samples", "hold_outs", "vector_version", "options", "models")
    own = json.loads(json.dumps({name: key[name] for name in names if name in key}))

    def there(folder: Path) -> Any:
        try:
            return json.loads((folder / SETTINGS).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}

    if base.out:
        folder = Path(base.out)
        if holds_run(folder):
            raise BadInput(f"{folder} holds a run of 'trainer fit'. Give another --out.")
        if (folder / META_FILE).exists():
            raise BadInput(f"{folder} holds samples ({META_FILE}). Give another --out.")
        if there(folder) not in (None, own) and not base.overwrite:
            raise BadInput(
                f"{folder} holds a comparison of other samples, vectors or settings. Give another --out, or replace "
                f"what is there with --overwrite."
            )
    else:
        folder = next(name for name in fresh_names("compare") if there(name) == own or _made(name))
    with replacing(folder / SETTINGS) as part:
        part.write_text(json.dumps(own, indent=1) + "\n")
    return folder


def _made(folder: Path) -> bool:
    """Make a folder; False: it is somebody's already."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def _reference(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return {"name": found["name"], "test": {k: float(v) for k, v in found["test"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"The reference file {path} cannot be used: {error}.") from error
