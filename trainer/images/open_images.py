"""The images of a run, as its configuration says: stored vectors, or a head that learns here or through servers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import HeadServers, ImageClient, ServerInfo, Transport
from crossmedia.imgserver.head import Head, HeadSpec, new_head
from crossmedia.names import same_names
from crossmedia.trainer import processes
from crossmedia.trainer.images.image_head import LocalHead, RemoteHead, StoredVectors
from crossmedia.trainer.images.images import Images, NoImages
from crossmedia.trainer.runs.checkpoint import HEAD, of_run
from crossmedia.trainer.settings import FitConfig

HEADS = ("frozen", "learn")
SAMPLE_IMAGES = 8192  # whose features a new head starts from
LEARNED = "learned"


@contextmanager
def open_images(config: FitConfig, samples: Samples, transport: Transport | None) -> Iterator[Images]:
    """The images of a run. The version is fixed from here on.

    Args:
        config: of the run.
        samples: what is trained on.
        transport: instead of a connection to ``config.server``.

    Raises:
        BadInput: a setting of the head is wrong.
        CrossMediaError: what the server or the way to it raised.
    """
    if config.head not in HEADS:
        raise BadInput(f"head is {config.head!r}; it must be one of {', '.join(HEADS)}.")
    learns = config.head == "learn"
    if not config.images:
        if learns:
            raise BadInput("A head cannot learn with images off. Leave out --no-images, or --head learn.")
        yield NoImages()
    elif learns and (transport or not config.store):
        servers = [transport] if transport else [name.strip() for name in config.server.split(",") if name.strip()]
        run_id = processes.from_first(uuid.uuid4().hex.encode(), processes.own_device(config.device)).decode()
        with HeadServers(servers, run_id, config.timeout_s) as learning:
            backbone = learning.backbone()
            check_names(samples, learning.client.infos()[0])
            yield RemoteHead(
                learning, _head(config, samples, learning.client, backbone), backbone, config.max_staleness
            )
    else:
        source = transport or vectors_from(config.server, config.store)
        with ImageClient(source, timeout_s=config.timeout_s) as client:
            info = fix_version(client)
            check_names(samples, info)
            if learns:
                client.version = backbone = info.feature_version()
                yield LocalHead(client, _head(config, samples, client, backbone), backbone)
            else:
                yield StoredVectors(client)


@contextmanager
def open_version(
    version: str, samples: Samples, source: str | Transport, timeout_s: float, announce: Callable[[str], None]
) -> Iterator[Images]:
    """The vectors of a version, whichever is active, for one pass over rows that are not trained on.

    Args:
        version: of the vectors that a model was trained with; empty for a model without images.
        samples: that the rows are of.
        source: where the vectors are.
        timeout_s: seconds that a fetch may take, retries included.
        announce: told in the end which images there are no vectors of.

    Raises:
        TooManyMissingImages: not one image was there.
        CrossMediaError: what the server or the way to it raised.
    """
    if not version:
        yield NoImages()
        return
    with ImageClient(source, timeout_s=timeout_s) as client:
        check_names(samples, client.infos()[0])
        client.version = version
        yield StoredVectors(client)
        client.stats.check_found()
        if said := client.stats.missing_said:
            announce(said)


def vectors_from(server: str, store: str, catalogue: str = "") -> Transport | str:
    """Where vectors come from: a store in this process, if one is named, else the server at an address.

    Args:
        server: its address.
        store: folder; may be empty.
        catalogue: with a store: where the photos are, for what it does not hold; may be empty.

    Raises:
        BadInput: both are named.
        NoStore: there is none of that name.
    """
    if store and server not in ("", FitConfig.server):
        raise BadInput(
            f"The server {server} and the store {store} are both given, and only one of them could be asked. Leave "
            f"one out."
        )
    return open_local(store, catalogue or None) if store else server


def served_version(config: FitConfig, transport: Transport | None = None) -> str:
    """The version of the vectors, or with a head that learns the features, that a run would be trained on.

    Raises:
        ServerUnavailable, NotReady: there is none to be had.
    """
    source = transport or vectors_from(config.server, config.store)
    with ImageClient(source, timeout_s=config.timeout_s) as client:
        # Servers that each own a part may have different versions active; a head only needs the same features.
        if config.head != "frozen" and (backbone := client.infos()[0].backbone):
            return backbone
        info = fix_version(client)
        return info.version if config.head == "frozen" else info.backbone


def fix_version(client: ImageClient) -> ServerInfo:
    """What the server serves now, which is what this client will ask for from here on.

    Raises:
        NotReady: it has no vectors yet.
    """
    info = client.info()
    if not info.version:
        client.get([0])  # raises NotReady with the server's own words
        info = client.info()
    client.version = info.version
    return info


def check_names(samples: Samples, info: ServerInfo) -> None:
    """The images of samples are called as those of the server, as far as both tell.

    Raises:
        BadInput: their ids come from another manifest, so that the same id is another photo.
    """
    # A server that owns a part has names of its part.
    if not info.ownership.servers and not same_names(samples.image_names, info.contents.image_names):
        raise BadInput(
            f"The image ids in {samples.folder} come from another manifest than those of the image server, so that one "
            f"id is two photos. Build the samples with the manifest that was given to 'imgserver precompute' as "
            f"--catalogue, or embed that of the samples."
        )


def load_head(run: str | Path) -> Head | None:
    """The head that a run learned; None when its vectors were frozen.

    Raises:
        BadInput: the folder is no run, or the file is no head or damaged.
    """
    path = of_run(run, HEAD)
    return Head.from_bytes(path.read_bytes()) if path else None


def images_of(run: str | Path, version: str, client: ImageClient) -> StoredVectors:
    """The vectors that the model of a run was trained on.

    Args:
        run: its folder.
        version: of its vectors.
        client: of a server that has them, or the features behind them.

    Raises:
        BadInput: the file of its head is no head.
    """
    head = load_head(run)
    if head is not None:
        return LocalHead(client, head, head.backbone)
    client.version = version
    return StoredVectors(client)


def _head(config: FitConfig, samples: Samples, client: ImageClient, backbone: str) -> Head:
    """The head to begin with: that of the run to start from, or a new one."""
    if config.warm_start:
        before = load_head(config.warm_start)
        if before is None:
            raise BadInput(f"The run {config.warm_start} has no head to start from: its vectors were frozen.")
        if before.backbone != backbone:
            raise BadInput(
                f"The head of {config.warm_start} was trained on features of {before.backbone}; the server has those "
                f"of {backbone}."
            )
        return before
    features = _sample(samples, client, backbone, config.seed)
    spec = HeadSpec(
        LEARNED, (features.shape[1], *config.head_widths), config.head_activation, config.head_normalisation
    )
    return new_head(spec, features, config.head_start, backbone)


def _sample(
    samples: Samples, client: ImageClient, backbone: str, seed: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Features of the images of some training rows."""
    ids = np.zeros(0, dtype=np.int64)
    for batch in samples.batches("train", 1024, shuffle_seed=seed):
        assert batch.images is not None
        ids = np.union1d(ids, batch.images.unique)
        if len(ids) >= SAMPLE_IMAGES:
            break
    found = client.get(ids, version=backbone)
    client.stats.check_found()
    return found.values[found.ok].astype(np.float32)
