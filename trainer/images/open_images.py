"""The vectors of a run, as its configuration says: stored ones, or of a head that learns here or through servers."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from crossmedia.errors import BadInput, VersionMismatch, did_you_mean
from crossmedia.features.reading.samples import Samples
from crossmedia.features.spec import BY_IMAGE
from crossmedia.imgserver.client import HeadServers, ImageClient, ServerInfo
from crossmedia.imgserver.client.cache import check_cache_bytes
from crossmedia.imgserver.head import Head, HeadSpec, new_head, widest
from crossmedia.trainer import processes
from crossmedia.trainer.images.fitting import check_different, check_names
from crossmedia.trainer.images.image_head import LocalHead, RemoteHead, StoredVectors
from crossmedia.trainer.images.images import Images
from crossmedia.trainer.images.places import Given, Place, Sources, closing_places, learning_space
from crossmedia.trainer.images.spaces import Missing, Spaces, of_space
from crossmedia.trainer.room import check_head_fits
from crossmedia.trainer.runs.checkpoint import HEAD, of_run
from crossmedia.trainer.settings import NEW_HEAD, FitConfig
from crossmedia.words import bytes_in

log = logging.getLogger(__name__)

SAMPLE_KEYS = 8192  # whose features a new head starts from
LEARNED = "learned"


@contextmanager
def open_spaces(config: FitConfig, samples: Samples, given: Given) -> Iterator[Spaces]:
    """The vectors of a run, of each space that is on. The versions are fixed from here on.

    Args:
        config: of the run.
        samples: what is trained on.
        given: transports instead of connections to what the configuration names.

    Raises:
        BadInput: a setting of the head or of a space is wrong.
        CrossMediaError: what a server or the way to it raised.
    """
    with closing_places(_places(config, samples, given)) as found, ExitStack() as opened:
        learning, spaces = learning_space(config, list(found)), {}
        fetched = [name for name, place in found.items() if name != learning and not place.local]
        share = _cache_share(config, fetched)
        for name, place in found.items():
            with of_space(name):
                if name == learning:
                    opening = _learning(config, samples, name, place)
                else:
                    opening = _frozen(config, samples, name, place, share if name in fetched else 0)
                spaces[name] = opened.enter_context(opening)
        check_different(samples, {name: images.version for name, images in spaces.items() if name != learning})
        yield Spaces(spaces)


def _places(config: FitConfig, samples: Samples, given: Given) -> dict[str, Place]:
    """Where the vectors of each space are that a run takes; none without images."""
    if not config.images:
        return {}
    return Sources(config.server, config.store, config.vectors).of(spaces_of(samples), given)


def spaces_of(samples: Samples) -> list[str]:
    """The spaces that samples have keys in."""
    return [name for name, space in samples.spaces.items() if space.key != BY_IMAGE or samples.has_images]


def _cache_share(config: FitConfig, spaces: Sequence[str]) -> int:
    """Bytes of cache for each of the spaces whose stored vectors are fetched.

    Raises:
        BadInput: there is none of them, or that is too little, or more than this machine has.
    """
    if not (size := bytes_in(config.cache)):
        return 0
    if config.images and not spaces:
        raise BadInput(
            f"--cache {config.cache} is given, and nothing is fetched that could be kept: a store in this process is "
            f"in mapped memory already, and a head that learns has other vectors at each step. Leave it out."
        )
    share = size // max(1, len(spaces))
    check_cache_bytes(share, f"--cache {config.cache}, for each of {len(spaces)} spaces," if spaces[1:] else "--cache")
    return share


@contextmanager
def _frozen(config: FitConfig, samples: Samples, space: str, place: Place, cache_bytes: int) -> Iterator[Images]:
    with ImageClient(place.source, timeout_s=config.timeout_s, cache_bytes=cache_bytes) as client:
        check_names(samples, space, fix_version(client, place.version))
        yield StoredVectors(client)


@contextmanager
def _learning(config: FitConfig, samples: Samples, space: str, place: Place) -> Iterator[Images]:
    if place.version:
        raise BadInput(
            f"A head that learns takes the features that are served, and makes vectors of a version of its own: leave "
            f"out @{place.version} behind the address."
        )
    if place.local:
        with ImageClient(place.source, timeout_s=config.timeout_s) as client:
            info = fix_version(client)
            check_names(samples, space, info)
            client.version = backbone = info.feature_version()
            yield LocalHead(client, _head(config, samples, space, client, backbone), backbone)
        return
    text = place.source
    servers = [name.strip() for name in text.split(",") if name.strip()] if isinstance(text, str) else [text]
    run_id = processes.from_first(uuid.uuid4().hex.encode(), processes.own_device(config.device)).decode()
    with HeadServers(servers, run_id, config.timeout_s) as learning:
        backbone = learning.backbone()
        check_names(samples, space, learning.client.infos()[0])
        head = _head(config, samples, space, learning.client, backbone)
        yield RemoteHead(learning, head, backbone, config.max_staleness)


@contextmanager
def open_versions(
    versions: Mapping[str, str],
    samples: Samples,
    sources: Sources,
    timeout_s: float,
    announce: Callable[[str], None],
) -> Iterator[Spaces]:
    """The vectors of some versions, whichever are active, for one pass over rows that are not trained on.

    Args:
        versions: of the vectors that a model was trained with, by space; empty for a model without images.
        samples: that the rows are of.
        sources: where the vectors of each space are.
        timeout_s: seconds that a fetch may take, retries included.
        announce: told in the end which vectors are missing.

    Raises:
        BadInput: a space is nowhere, or is none of the samples.
        TooManyMissingImages: not one vector of a space was there.
        CrossMediaError: what a server or the way to it raised.
    """
    with closing_places(places_of(versions, sources)) as found, ExitStack() as opened:
        spaces = {}
        for name, version in versions.items():
            if name not in samples.spaces:
                raise BadInput(
                    f"The model was trained with vectors of the space {name!r}, which the samples in {samples.folder} "
                    f"do not have. Use the samples that it was trained with."
                )
            with of_space(name), sources.said():
                client = opened.enter_context(ImageClient(found[name].source, timeout_s=timeout_s))
                check_names(samples, name, client.infos()[0])
                client.version = version
                spaces[name] = StoredVectors(client)
        yield Spaces(spaces)
        missing = Missing({name: images.stats for name, images in spaces.items()})
        missing.check_found()
        if missing.said:
            announce(missing.said)


def places_of(versions: Mapping[str, str], sources: Sources) -> dict[str, Place]:
    """Where the vectors of each space of a model are; a model without images asks nobody.

    Raises:
        BadInput: one is not named, or is none of the model's; or another version is named than the model's.
        NoStore: a folder holds no store.
    """
    if not versions:
        return {}
    named = sources.versions
    absent = [name for name in versions if name not in named]
    if named and absent and named.keys() <= versions.keys():  # else it is a name that is no space
        raise BadInput(
            f"The model was trained with vectors of {', '.join(versions)}: say where those of {absent[0]} are, too, by "
            f"--vectors {absent[0]}=HOST:PORT."
        )
    for name, version in versions.items():
        if named.get(name, "") not in ("", version):
            raise BadInput(
                f"--vectors names the version {named[name]} for the space {name!r}, and the model was trained with "
                f"{version}. Leave out the version: the model's is asked for."
            )
    return sources.of(list(versions))


def served_versions(config: FitConfig, samples: Samples, given: Given = None) -> dict[str, str]:
    """The version of the vectors, or with a head that learns the features, that a run would be trained on, by space.

    Raises:
        BadInput: a setting of the head or of a space is wrong.
        ServerUnavailable, NotReady: there is none to be had.
    """
    with closing_places(_places(config, samples, given)) as found, ExitStack() as opened:
        learning, versions = learning_space(config, list(found)), {}
        for name, place in found.items():
            with of_space(name):
                client = opened.enter_context(ImageClient(place.source, timeout_s=config.timeout_s))
                # Servers that each own a part may have different versions active; a head only needs the same features.
                if name == learning:
                    versions[name] = client.infos()[0].backbone or fix_version(client).backbone
                else:
                    fix_version(client, place.version)
                    versions[name] = client.version or ""
    return versions


def fix_version(client: ImageClient, version: str = "") -> ServerInfo:
    """What the server serves now, of which this client will ask for one version from here on.

    Args:
        client: of the server.
        version: that is to be asked for; empty: the active one.

    Raises:
        NotReady: it has no vectors yet.
        VersionMismatch: it does not hold that version.
    """
    info = client.info()
    if not info.version:
        client.get([0])  # raises NotReady with the server's own words
        info = client.info()
    if version and version not in info.versions:
        held = ", ".join(info.versions)
        raise VersionMismatch(
            f"The server does not hold vectors of {version}; it holds: {held}.{did_you_mean(version, info.versions)}"
        )
    client.version = version or info.version
    return info


def load_head(run: str | Path) -> Head | None:
    """The head that a run learned; None when its vectors were frozen.

    Raises:
        BadInput: the folder is no run, or the file is no head or damaged.
    """
    path = of_run(run, HEAD)
    return Head.from_bytes(path.read_bytes()) if path else None


def images_of(run: str | Path, version: str, client: ImageClient, *, learned: bool) -> StoredVectors:
    """The vectors of a space that the model of a run was trained on.

    Args:
        run: its folder.
        version: of the vectors.
        client: of a server that has them, or the features behind them.
        learned: whether it is the space whose head learned.

    Raises:
        BadInput: the file of its head is no head.
    """
    head = load_head(run) if learned else None
    if head is not None:
        return LocalHead(client, head, head.backbone)
    client.version = version
    return StoredVectors(client)


def _head(config: FitConfig, samples: Samples, space: str, client: ImageClient, backbone: str) -> Head:
    """The head of a space to begin with: that of the run to start from, or a new one."""
    if config.warm_start:
        return _head_before(config, backbone)
    features = _sample(samples, space, client, backbone, config.seed)
    widths = config.head_widths or (*NEW_HEAD[:-1], widest(NEW_HEAD[-1], len(features)))
    check_head_fits((features.shape[1], *widths), processes.own_device(config.device))
    spec = HeadSpec(LEARNED, (features.shape[1], *widths), config.head_activation, config.head_normalisation)
    return new_head(spec, features, config.head_start, backbone)


def _head_before(config: FitConfig, backbone: str) -> Head:
    """The head of the run to start from, whose layers are those of that run.

    Raises:
        BadInput: it has none, or one of other features or other layers than the settings ask for.
    """
    before = load_head(config.warm_start)
    if before is None:
        raise BadInput(f"The run {config.warm_start} has no head to start from: its vectors were frozen.")
    if before.backbone != backbone:
        raise BadInput(
            f"The head of {config.warm_start} was trained on features of {before.backbone}; the server has those "
            f"of {backbone}."
        )
    widths = before.spec.widths[1:]
    if config.head_widths not in ((), widths):
        there, asked = (",".join(map(str, of)) for of in (widths, config.head_widths))
        raise BadInput(
            f"The head of {config.warm_start} has layers of {there}, and --head-widths is {asked}. Leave it out: a "
            f"head that starts from another has the layers of that one."
        )
    before.spec = replace(before.spec, name=LEARNED)
    return before


def _sample(
    samples: Samples, space: str, client: ImageClient, backbone: str, seed: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Features behind the vectors of some training rows."""
    ids = np.zeros(0, dtype=np.int64)
    for batch in samples.batches("train", 1024, shuffle_seed=seed):
        ids = np.union1d(ids, batch.items.vectors[space].unique)
        if len(ids) >= SAMPLE_KEYS:
            break
    found = client.get(ids, version=backbone)
    client.stats.check_found()
    return found.values[found.ok].astype(np.float32)
