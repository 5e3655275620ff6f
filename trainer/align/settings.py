"""How a head is aligned: every setting with its default, and what is chosen for a log by its size."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.options import checked
from crossmedia.trainer.align.pair_options import PairOptions

if TYPE_CHECKING:
    from crossmedia.features.reading.samples import Samples

# Where things are and how long to wait change no number of a run; all others do.
PLACES = {"samples", "out", "server", "store", "vectors", "timeout_s", "device", "max_missing", "overwrite"}
MANY_CLICKS = 10**6  # from which on a hidden layer, and few epochs, have enough to learn from
LEAST_BATCH = 64
SMALL: dict[str, Any] = {"head_widths": (64,), "penalty": 0.1, "temperature": 0.2, "learning_rate": 3e-3}
STEPS = 16  # in an epoch, for its batches not to be most of the log


@dataclass(frozen=True)
class AlignConfig:
    """How a head is aligned with behaviour. The options of ``trainer align`` are made of this.

    The defaults are those of large logs; ``AlignConfig.suited_to`` chooses by the size of the log, as the command does.

    Attributes:
        samples: folder that 'features build' made.
        out: folder for what comes out; a fresh one, runs/aligned, numbered where that is taken, when not given.
        server: address of the image server. Several, separated by commas, are asked each for the images that it owns.
        store: take features from this store in this process: no server is asked.
        vectors: where the vectors of a space are, such as photo=host:7070, for samples that have several spaces.
        space: the space whose head is aligned, for samples that have several.
        pairs: which behaviours make a pair.
        product_digits: how many characters of an item's key name its product, where items of one product differ in
            colour alone; recall is then also told of items whose product is new. 0: each item is a product of its own.
        head_widths: widths of the layers of the head, behind the feature; the last is the vector's.
        penalty: holds the head near its start, the PCA of the features; 0 leaves it out.
        temperature: of the loss, as it starts; it is learned, between 0.02 and 0.2.
        seed: seed of the pairs and of their order.
        epochs: at most so many passes over the pairs.
        patience: stop after so many epochs without a better recall of images that are held out of the pairs.
        batch_size: pairs in a step; all others of a step are the negatives of each.
        learning_rate: step size of Adam.
        max_missing: share of images that may be missing for good; above it training stops.
        timeout_s: seconds that a fetch may take, retries included.
        device: where to train, cpu or cuda; empty takes CUDA where there is one.
        overwrite: replace a finished run, or one of other settings, in the folder ``out``; else it is refused.

    Example:
        >>> from crossmedia import AlignConfig
        >>> config = AlignConfig.suited_to("samples", out="runs/aligned", server="localhost:7070")
        >>> config.head_widths, AlignConfig().head_widths
        ((64,), (256, 64))
    """

    samples: str = "samples"
    out: str = ""
    server: str = "localhost:7070"
    store: str = ""
    vectors: dict[str, str] = field(default_factory=dict)
    space: str = ""
    pairs: PairOptions = field(default_factory=PairOptions)
    product_digits: Annotated[int, click.IntRange(min=0)] = 0
    head_widths: tuple[int, ...] = (256, 64)
    penalty: Annotated[float, click.FloatRange(min=0)] = 0.0
    temperature: Annotated[float, click.FloatRange(0.02, 0.2)] = 0.07
    seed: Annotated[int, click.IntRange(min=0)] = 0
    epochs: Annotated[int, click.IntRange(min=1)] = 3
    patience: Annotated[int, click.IntRange(min=1)] = 1
    batch_size: Annotated[int, click.IntRange(min=2)] = 4096
    learning_rate: Annotated[float, click.FloatRange(min=0, min_open=True)] = 1e-3
    max_missing: Annotated[float, click.FloatRange(0, 1)] = 0.05
    timeout_s: float = 30.0
    device: str = ""
    overwrite: bool = False

    @classmethod
    def suited_to(cls, samples: str | Path, **settings: Any) -> AlignConfig:
        """Settings with the head, penalty, batch size, epochs and patience that suit these samples.

        Args:
            samples: folder that 'features build' made; it is read for its number of positive training rows, and of
                images that the training part shows.
            settings: by the names of the attributes; those of ``suited`` that are given are kept.

        Raises:
            BadInput: the folder holds no samples, or none with images, or a setting has a value that it cannot have.
        """
        from crossmedia.features.reading.samples import Samples  # Arrow, which the help of commands does without
        from crossmedia.trainer.align.keys import ItemParts, SpaceKeys

        given: dict[str, Any] = {"samples": samples, **settings}
        config = checked(cls(**given), cls)
        opened = Samples(config.samples)
        clicks = sum(int(table["label"].to_numpy().sum()) for table in opened.frames("train", ["label"]))
        images = len(SpaceKeys.of(opened, space_of(config, opened)).of_items(~ItemParts.of(opened).new))
        chosen = suited(clicks, images)
        return replace(config, **{name: value for name, value in chosen.items() if name not in settings})


def space_of(config: AlignConfig, samples: Samples) -> str:
    """The space whose head is aligned.

    Raises:
        BadInput: there is none, no such one, or several could be meant.
    """
    from crossmedia.trainer.images.open_images import spaces_of

    spaces = spaces_of(samples)
    if not spaces:
        raise BadInput(f"The samples in {config.samples} have no images: there is no head to align.")
    named = config.space or (next(iter(config.vectors)) if len(config.vectors) == 1 else "")
    if named and named not in spaces:
        raise BadInput(f"There is no space {named!r}; there are: {', '.join(spaces)}.{did_you_mean(named, spaces)}")
    if not named and len(spaces) > 1:
        raise BadInput(
            f"There are several spaces, {', '.join(spaces)}, and the head of one is aligned: say which by --space."
        )
    return named or spaces[0]


def suited(clicks: int, images: int) -> dict[str, Any]:
    """What depends on how many clicks the training rows have, and on how many images they show.

    A head that starts as a PCA of few images has no more numbers than that can have. Else these are, from a million
    clicks on, the defaults of ``AlignConfig``. Below, a hidden layer learns the pairs by heart: one linear layer does,
    held near the PCA that it starts from, and more epochs. There the PCA is less sure of a pair than a low temperature
    makes it: steps that only mend this would undo what it knows. In small logs the batch is halved until as many pairs
    as there are clicks make 16 of it, down to 64 pairs.
    """
    from crossmedia.imgserver.head import widest

    widths = SMALL["head_widths"] if clicks < MANY_CLICKS else AlignConfig.head_widths
    head = {"head_widths": (*widths[:-1], widest(widths[-1], images))}
    if clicks >= MANY_CLICKS:
        return head
    batch = 1024
    while batch > LEAST_BATCH and clicks < STEPS * batch:
        batch //= 2
    return {"batch_size": batch, "epochs": 20, "patience": 3, **SMALL, **head}


def identity_of(config: AlignConfig, rows: str, version: str) -> dict[str, Any]:
    """What decides the numbers of a run, as JSON gives it back: two runs with one identity are the same run.

    Args:
        config: of the run.
        rows: hash of the samples.
        version: of the features, as ``named_versions`` says.
    """
    of_run = {name: value for name, value in asdict(config).items() if name not in PLACES}
    found: dict[str, Any] = json.loads(json.dumps({"align": True, **of_run, "rows": rows, "version": version}))
    return found
