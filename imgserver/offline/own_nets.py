"""Which net a store goes on with: that of its active version, and of a calibrated one its own file."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import numpy as np

from crossmedia.errors import BadInput, NoStore
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.records import Space
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.vision.backbone import INT8, Backbone
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, Pixels
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.efficientnet_lite import DEFAULT
from crossmedia.imgserver.vision.engines import calibrated
from crossmedia.imgserver.vision.int8 import CALIBRATED_ON, Int8Name, check_plain, check_processor, keep, read_file
from crossmedia.imgserver.vision.photos import read_photo
from crossmedia.version import PHOTOMETRY, TEXT, Version

log = logging.getLogger(__name__)


def kept_recipe(store: Path) -> str:
    """The net of a store's active version; ``efficientnet_lite0`` for a new store.

    Raises:
        BadInput: the active version was made elsewhere, by nobody knows what.
        StoreError: the store cannot be opened.
    """
    active, features = _features(store)
    version = Version.parse(active)
    if version.imported:
        raise BadInput(
            f"The active version of {store}, {active}, was imported, and no backbone of it is known. Give --backbone, "
            f"such as {DEFAULT}: the vectors that it makes will be active instead."
        )
    kept = next((space.recipe for space in features if space.name == version.backbone), DEFAULT)
    return DEFAULT if kept.startswith(TEXT) else kept  # which a store of texts then refuses


def own_recipe(
    store: Path, catalogue: Catalogue, recipe: str, limits: ImageLimits, decode_threads: int | None = None
) -> str:
    """The recipe of a store's net: ``#int8`` is the file that it has, or one that is calibrated now and kept.

    Args:
        store: folder where it is kept; it need not be a store yet.
        catalogue: on whose photos it is calibrated.
        recipe: as users name it; without ``#int8`` it stays as it is.
        limits: of a photo.
        decode_threads: photos that are decoded at once; None: as the machine likes.

    Raises:
        BadInput: there is no such net, its file cannot be read, or it cannot be calibrated here.
        StoreError: the file cannot be written.
    """
    recipe = with_file_kept(store, recipe)
    plain = recipe.removesuffix(PHOTOMETRY)
    named = Int8Name.parse(plain)
    if named is None or named.hash:
        return recipe
    net = get_backbone(named.net)
    check_plain(net, named)
    check_processor(recipe)
    begins, ends = f"{net.recipe}{INT8}@", recipe[len(plain) :]
    active, features = _features(store)
    held = [space for space in features if space.recipe.startswith(begins)]
    if held:
        chosen = next((space for space in held if space.name == Version.parse(active).backbone), held[-1])
        return chosen.recipe.removesuffix(PHOTOMETRY) + ends
    log.warning("%s is calibrated on photos of the catalogue, once for this store: some 20 s", recipe)
    with Decoders(limits, decode_threads) as decoders:
        pixels = photos_of(catalogue, net, decoders, CALIBRATED_ON)
    return f"{begins}{keep(store, calibrated(net, pixels))}{ends}"


def with_file_kept(folder: Path, recipe: str) -> str:
    """The recipe of a calibrated net in a file, which is copied into a store, or what becomes one; others stay.

    Raises:
        BadInput: there is no such file or net.
        StoreError: the copy cannot be written.
    """
    plain = recipe.removesuffix(PHOTOMETRY)
    named = Int8Name.parse(plain)
    if named is None or not named.file:
        return recipe
    path = Path(named.file).expanduser()
    read_file(path)
    return f"{get_backbone(named.net).recipe}{INT8}@{keep(folder, path.read_bytes())}{recipe[len(plain) :]}"


def photos_of(catalogue: Catalogue, net: Backbone, decoders: Decoders, most: int, start: float = 0.0) -> Pixels:
    """Pixels of photos from all over a catalogue, uint8, shape (n, size, size, 3), without those that are broken.

    Args:
        catalogue: which one.
        net: says what pixels.
        decoders: decode them.
        most: so many at most.
        start: where to begin, in the distance between two of them; another value gives other photos.
    """
    ids = catalogue.ids()
    step = max(1.0, len(ids) / most)
    some = ids[np.unique(np.arange(start * step, len(ids), step).astype(np.int64))].tolist()
    found = (read_photo(catalogue, image_id, net.preprocessing, decoders).pixels for image_id in some)
    pixels = [one for one in found if isinstance(one, np.ndarray)]
    size = net.preprocessing.size
    return np.stack(pixels) if pixels else np.zeros((0, size, size, 3), dtype=np.uint8)


def _features(store: Path) -> tuple[str, list[Space]]:
    """The active version of a store, and what features it holds; nothing where there is no store yet."""
    try:
        with closing(Store(store, create=False)) as opened:
            return opened.index.active, list(opened.index.spaces("feature"))
    except NoStore:
        return "", []
