"""The images of a run, as its configuration says: stored vectors, or a head that learns here or through servers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import HeadServers, ImageClient, ServerInfo, Transport
from crossmedia.imgserver.head import Head, HeadSpec, new_head
from crossmedia.names import same_names
from crossmedia.trainer import processes
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.runs.checkpoint import HEAD, of_run

if TYPE_CHECKING:
    from crossmedia.trainer.fit import FitConfig

HEADS = ("frozen", "learn")
SAMPLE_IMAGES = 8192  # whose features a new head starts from
LEARNED = "learned"


@contextmanager
def open_images(config: FitConfig, samples: Samples, transport: Transport | None) -> Iterator[ImageHead | None]:
    """The images of a run; None when they are off. The version is fixed from here on.

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
    if not config.images:
        if config.head != "frozen":
            raise BadInput("A head cannot learn with images off. Leave out --no-images, or --head learn.")
        yield None
        return
    if config.head == "frozen":
        source = transport or (open_local(config.store) if config.store else config.server)
        with ImageClient(source, timeout_s=config.timeout_s) as client:
            check_names(samples, fix_version(client))
            yield ImageHead(client)
        return
    if config.store and not transport:
        with ImageClient(open_local(config.store), timeout_s=config.timeout_s) as client:
            info = fix_version(client)
            check_names(samples, info)
            client.version = backbone = info.feature_version()
            yield ImageHead(client, _head(config, samples, client, backbone), backbone)
        return
    servers = [transport] if transport else [name.strip() for name in config.server.split(",") if name.strip()]
    run_id = processes.from_first(uuid.uuid4().hex.encode(), processes.own_device(config.device)).decode()
    with HeadServers(servers, run_id, config.timeout_s) as learning:
        backbone = learning.backbone()
        check_names(samples, learning.client.infos()[0])
        head = _head(config, samples, learning, backbone)
        yield ImageHead(learning, head, backbone, config.max_staleness)


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


def images_of(run: str | Path, version: str, client: ImageClient) -> ImageHead:
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
        return ImageHead(client, head, head.backbone)
    client.version = version
    return ImageHead(client)


def _head(config: FitConfig, samples: Samples, source: ImageClient | HeadServers, backbone: str) -> Head:
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
    features = _sample(samples, source, backbone, config.seed)
    spec = HeadSpec(
        LEARNED, (features.shape[1], *config.head_widths), config.head_activation, config.head_normalisation
    )
    return new_head(spec, features, config.head_start, backbone)


def _sample(
    samples: Samples, source: ImageClient | HeadServers, backbone: str, seed: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Features of the images of some training rows."""
    ids = np.zeros(0, dtype=np.int64)
    for batch in samples.batches("train", 1024, shuffle_seed=seed):
        assert batch.images is not None
        ids = np.union1d(ids, batch.images.unique)
        if len(ids) >= SAMPLE_IMAGES:
            break
    client = source.client if isinstance(source, HeadServers) else source
    found = client.get(ids, version=backbone)
    source.stats.check_found()
    return found.values[found.ok].astype(np.float32)
