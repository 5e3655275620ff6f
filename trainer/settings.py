"""How a model is trained: every setting with its default, and what is chosen for a log by its size."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import click

from crossmedia.options import Matching, Text, checked
from crossmedia.words import SIZE

# Where things are and how long to wait change no number of a run; all others do.
PLACES = {
    *("samples", "out", "server", "store", "vectors", "cache", "timeout_s", "device", "max_missing"),
    *("overwrite", "mlflow"),
}
HEADS = "frozen, learn or SPACE=learn"


@dataclass(frozen=True)
class FitConfig:
    """How a model is trained. The options of ``trainer fit`` and ``trainer compare`` are made of this.

    The defaults are those of large logs; ``FitConfig.suited_to`` chooses by the size of the log, as the commands do.
    ``fit`` and ``compare`` refuse values that the options would refuse, and take a ``Path`` for the text of it.

    Attributes:
        samples: folder that 'features build' made.
        out: folder for what comes out; a fresh one, runs/MODEL or runs/compare, numbered where that is taken, when not
            given.
        model: which model; 'trainer models' lists them.
        images: train with the images' vectors, or with ids only.
        server: address of the image server, which is only asked with images. Several, separated by commas, are asked
            each for the images that it owns, if they were started with --servers or a head learns; else they are copies
            that take turns, as are all addresses behind dns:///NAME:PORT.
        head: frozen takes vectors as the server has them, learn trains the net that makes them from the features. Where
            samples have several spaces of vectors, photo=learn trains that of the space photo; the others are frozen.
        store: take vectors, or features for a head that learns, from this store in this process: no server is asked.
        vectors: where the vectors of a space are, such as photo=host:7070, for samples that have several spaces; may be
            given for each. Instead of an address a folder is a store, as for ``store``. photo=host:7070@VERSION takes
            another version than the active one. A space that is not named is left out.
        cache: memory for vectors that servers sent, such as 512MB, so that later batches and epochs do not fetch them
            again; the spaces share it evenly. What is replaced meanwhile is dropped within a second. Empty: none.
        head_widths: widths of the layers of a head that learns, behind the feature; the last is the vector's. When it
            is not given: those of the head that it starts from; of a new one 256,64,12, the last narrower where there
            are fewer images.
        head_activation: activation between its layers.
        head_normalisation: normalisation of its hidden layers.
        head_start: it begins as the PCA of the features, or at random.
        head_learning_rate: step size of Adam on the head; 0 takes ``learning_rate``.
        max_staleness: steps that a head on servers may be ahead of the vectors of a batch; from 2 on they are asked for
            while earlier batches are trained.
        seed: seed of the weights and of the order of the rows.
        epochs: at most so many passes over the rows.
        patience: stop after so many epochs without a better AUC on the validation part.
        validate_on: rows of the validation part that decide when to stop, and which epoch is kept: all, or those of
            unseen items, of which a tenth of all items is then held out of training. Choose this for new items.
        batch_size: rows in a step.
        learning_rate: step size of Adam.
        width: numbers in an embedding.
        options: of the model, by name.
        labels: names of the labels to train (in a command separated by commas); the first of the samples when it is
            not given. The first of them decides when to stop.
        embedding_l2: lambda of the mini-batch aware regularisation of embeddings (DIN, section 5.2); 0 leaves it out.
        averaging: validate, beside the last weights of an epoch, their average over the latest steps, and keep the
            better; not of lr, mlr and gbdt_lr.
        id_dropout: share of a batch's items whose ids the model does not see, so that it learns what pictures and words
            say of items that it will not know.
        negative_rate: share of the negative rows to train on; predictions are re-calibrated for it.
        warm_start: run folder to start from: of fit, such as yesterday's, whose model gives its weights, and its head
            where one learns; or of align, which gives a head alone. Empty starts anew.
        warm_up: what to take of a model's weights: all but those of ids, or all.
        max_missing: share of images that may be missing for good; above it training stops, because a model that trains
            on holes looks fine and is not.
        timeout_s: seconds that a fetch of vectors may take, retries included.
        device: where to train, cpu or cuda; empty takes CUDA where there is one.
        shard_tables: under torchrun, spread the rows of each table with so many ids, with gradient and optimizer state,
            over the processes, for vocabularies that cannot be trained in one; 0 keeps all tables in each process.
        overwrite: replace a finished run, or one of other settings, in the folder ``out``; else it is refused.
        mlflow: address of an MLflow tracking server, such as http://mlflow:5000, which gets settings, a metric for each
            epoch, the figures of the test part, and versions of vectors as tags.

    Example:
        >>> from crossmedia import FitConfig
        >>> config = FitConfig.suited_to("samples", out="runs/din", model="din", server="localhost:7070")
        >>> config.batch_size, config.learning_rate
        (32, 0.001)
        >>> FitConfig().batch_size
        1024
    """

    samples: str = "samples"
    out: str = ""
    model: str = "din"
    images: bool = True
    server: str = "localhost:7070"
    head: Annotated[str, Matching(r"(\w+=)?learn|frozen", "frozen|learn|SPACE=learn", HEADS)] = "frozen"
    store: str = ""
    vectors: dict[str, str] = field(default_factory=dict)
    cache: Annotated[str, Matching(SIZE, "size", "a size such as 512MB or 2GiB")] = ""
    head_widths: tuple[int, ...] = ()
    head_activation: Literal["prelu", "relu"] = "prelu"
    head_normalisation: Literal["none", "layer"] = "none"
    head_start: Literal["pca", "random"] = "pca"
    head_learning_rate: Annotated[float, click.FloatRange(min=0)] = 0.0
    max_staleness: Annotated[int, click.IntRange(min=0)] = 0
    seed: Annotated[int, click.IntRange(min=0)] = 0
    epochs: Annotated[int, click.IntRange(min=1)] = 5
    patience: Annotated[int, click.IntRange(min=1)] = 1
    batch_size: Annotated[int, click.IntRange(min=2)] = 1024
    learning_rate: Annotated[float, click.FloatRange(min=0)] = 1e-3
    width: Annotated[int, click.IntRange(min=1)] = 16
    validate_on: Literal["all-items", "unseen-items"] = "all-items"
    options: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    embedding_l2: Annotated[float, click.FloatRange(min=0)] = 0.0
    averaging: bool = True
    id_dropout: Annotated[float, click.FloatRange(0, 1, max_open=True)] = 0.0
    negative_rate: Annotated[float, click.FloatRange(0, 1, min_open=True)] = 1.0
    warm_start: str = ""
    warm_up: Literal["partial", "full"] = "partial"
    max_missing: Annotated[float, click.FloatRange(0, 1)] = 0.05
    timeout_s: float = 30.0
    device: str = ""
    shard_tables: Annotated[int, click.IntRange(min=0)] = 0
    overwrite: bool = False
    mlflow: str = ""

    @classmethod
    def suited_to(cls, samples: str | Path, **settings: Any) -> FitConfig:
        """Settings with the batch size, epochs and patience that suit these samples, as the commands choose them.

        Args:
            samples: folder that 'features build' made; it is read for its number of training rows.
            settings: by the names of the attributes; those of the three that are given are kept.

        Raises:
            BadInput: the folder holds no samples, or a setting has a value that it cannot have.

        Example:
            >>> from crossmedia import FitConfig
            >>> config = FitConfig.suited_to("samples", epochs=3)
            >>> config.batch_size, config.epochs
            (32, 3)
        """
        from crossmedia.features.reading.samples import Samples  # Arrow, which the help of commands does without

        given: dict[str, Any] = {"samples": samples, **settings}
        config = checked(cls(**given), cls)
        chosen: dict[str, Any] = suited(Samples(config.samples).rows("train"), settings.get("batch_size"))
        return replace(config, **{name: value for name, value in chosen.items() if name not in settings})


@dataclass(frozen=True)
class CompareConfig:
    """Which runs are compared. The options of ``trainer compare`` are made of this, and of its base.

    Attributes:
        base: configuration of every run; model, images, seed and out are set for each. Its ``out`` is the folder of the
            comparison; empty takes a fresh one.
        models: names of the models to compare (in a command separated by commas).
        spaces: which spaces' vectors each model is trained with beside ids only, where there are several: in a command
            photo,title,photo+title trains each model three times more. All together when it is not given.
        options: of each model, by its name and theirs.
        hold_outs: more folders of samples, in which the same log holds out other items ('features build
            --hold-out-seed'; in a command separated by commas). Each of them with each seed is a pair of runs.
        seeds: how many seeds each, from 0 on.
        results: file that each run appends its line to, and whose runs are not trained again; results.jsonl in the
            folder of --out when it is not given.
        data: name of the data in that file; the samples' folder when it is not given.
        reference: JSON file with the best AUC that any model could reach, which is known for simulated clicks only.

    Example:
        >>> from crossmedia import CompareConfig, FitConfig
        >>> CompareConfig(FitConfig.suited_to("samples"), models=("din",)).seeds
        3
    """

    base: FitConfig
    models: tuple[str, ...] = ("embedding_mlp", "din")
    seeds: Annotated[int, click.IntRange(min=1)] = 3
    results: Annotated[Path | None, click.Path(dir_okay=False, path_type=Path)] = None
    data: str = ""
    reference: Annotated[Path | None, click.Path(dir_okay=False, path_type=Path)] = None
    spaces: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    hold_outs: tuple[str, ...] = ()


@dataclass(frozen=True)
class VectorsConfig:
    """Where the vectors of a run are now. The options of commands that use a run are made of this.

    Attributes:
        server: address of the image server. When none of ``server``, ``store`` and ``vectors`` is given, vectors are
            where the run had them.
        store: take vectors from this store in this process: no server is asked.
        vectors: where the vectors of a space are, such as photo=host:7070, or a store's folder; may be given for each.
            The others are where the run had them.
    """

    server: str = ""
    store: str = ""
    vectors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportConfig:
    """What a report draws. The options of ``trainer report`` are made of this.

    Attributes:
        comparison: folder of ``trainer compare``, or the run folder of ``trainer fit``.
        samples: folder of the samples, where they were moved since; else they are where they were.
        server: address of the image server, for photos and vectors. When none of ``server``, ``store`` and ``vectors``
            is given, they are where the run had them.
        store: take vectors from this store in this process: no server is asked.
        vectors: where the vectors of a space are, such as photo=host:7070, for runs with several spaces; the others are
            where the run had them.
        catalogue: with ``store``: where the photos are, to draw them.
        seed: seed that draws the photos and impressions that are shown.
        title: heading of the page; a question on the vectors when it is not given.
        note: a sentence on the data, shown below the heading.
        item: draw a merchant's page of this item instead, by its id in the log: what its photo does, by a model that is
            a sum of concepts.
        category: with ``item``: the column of items that says what it is compared with; when it is not given, the first
            whose name sounds like one, else all items.
        out: the HTML file to write.

    Example:
        >>> from pathlib import Path
        >>> from crossmedia import ReportConfig
        >>> ReportConfig(Path("runs/din"), title="Shoes").out
        PosixPath('report.html')
    """

    comparison: Path
    samples: str = ""
    server: str = ""
    store: str = ""
    vectors: dict[str, str] = field(default_factory=dict)
    catalogue: Annotated[str, Text("path|url")] = ""
    seed: Annotated[int, click.IntRange(min=0)] = 0
    title: str = ""
    note: str = ""
    item: str = ""
    category: str = ""
    out: Annotated[Path, click.Path(dir_okay=False, path_type=Path)] = Path("report.html")


NEW_HEAD = (256, 64, 12)  # widths of a head that starts from no other, where none are given
DEFAULTS: dict[str, Any] = {
    f.name: f.default_factory() if callable(f.default_factory) else f.default
    for f in fields(FitConfig)
    if f.name not in PLACES
} | {"head_widths": NEW_HEAD}
UNNAMED = {**DEFAULTS, "averaging": False}  # what runs had of releases that did not have a setting yet


def identity(settings: Mapping[str, Any], rows: str, version: str) -> dict[str, Any]:
    """What decides the numbers of a run, as JSON gives it back: two runs with one identity are the same run.

    Args:
        settings: of the run, by the names of ``FitConfig``; what an older release did not name is as it was then.
        rows: hash of the samples.
        version: of the vectors, or of the features behind a head that learns, as ``named_versions`` says; empty without
            images.
    """
    of_run = {name: settings.get(name, default) for name, default in UNNAMED.items()}
    found: dict[str, Any] = json.loads(json.dumps({**of_run, "rows": rows, "version": version}))
    return found


def identity_of(config: FitConfig, rows: str, version: str) -> dict[str, Any]:
    """``identity`` of a configuration."""
    return identity(settings_of(config), rows, version)


def settings_of(config: FitConfig) -> dict[str, Any]:
    """Settings by name, as a run's folder and its line have them: widths that are not given are a new head's."""
    return asdict(config) | {"head_widths": config.head_widths or NEW_HEAD}


STEPS = 100  # in an epoch, for AUC to say something after each
LEAST_BATCH = 32


def suited(rows: int, batch_size: int | None = None) -> dict[str, int]:
    """Batch size, epochs and patience for a log of so many training rows.

    From 100 steps of 1,024 rows on they are the defaults of ``FitConfig``. In a smaller log the batch is halved until
    an epoch has 100 steps, down to 32 rows; where it still has fewer, as many epochs count for one as have 100 steps
    together.

    Args:
        rows: of training.
        batch_size: where it is given; None: it is chosen.
    """
    batch = batch_size or FitConfig.batch_size
    while not batch_size and batch > LEAST_BATCH and rows < STEPS * batch:
        batch //= 2
    longer = max(1, math.ceil(STEPS * batch / max(1, rows)))
    return {"batch_size": batch, "epochs": FitConfig.epochs * longer, "patience": FitConfig.patience * longer}
