"""The encoders that turn texts into features, by name.

text:tfidf              character n-grams, fitted on a catalogue and kept in its store; nothing is downloaded
text:tfidf@<hash>       one that was fitted, in the store's folder ``encoders``
text:tfidf:FILE         one that was fitted, from a file
text:hf:FOLDER|NAME     a sentence encoder, or the text tower of CLIP or SigLIP (extra ``text``)
text:onnx:FOLDER        a folder with model.onnx and tokenizer.json (extra ``text``)

Commands leave out ``text:`` and call it an encoder.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from crossmedia.disk import replacing
from crossmedia.errors import BadInput, StoreError, did_you_mean
from crossmedia.imgserver.places import holds_store
from crossmedia.imgserver.storage.catalogue.texts import TextCatalogue
from crossmedia.imgserver.storage.store import ENCODERS, Store
from crossmedia.imgserver.text.backbone import TextBackbone, TextEngine
from crossmedia.imgserver.text.reading import BadText, TextReading, TextTooLong
from crossmedia.imgserver.text.tfidf import FIT_TEXTS, NAME, Tfidf
from crossmedia.imgserver.vision.backbone import HF, ONNX
from crossmedia.version import TEXT, Version, name_of

FITTED = "tfidf"
FITTED_FILE = f"{FITTED}:"


def text_backbone(recipe: str, store: Path | None) -> TextBackbone:
    """The text encoder of that name, without ``text:`` in front of it.

    Args:
        recipe: of which.
        store: folder whose own encoders may be named.

    Raises:
        BadInput: there is no such encoder, or its files cannot be had or read.
        StoreError: the store's encoder has gone, or is damaged.
    """
    if recipe.startswith(f"{FITTED}@") and store is not None:
        return _of_tfidf(read_encoder(store, recipe))
    if recipe.startswith(HF):
        from crossmedia.imgserver.vision.hf import hf_text_backbone

        return hf_text_backbone(recipe)
    if recipe.startswith(ONNX):
        from crossmedia.imgserver.vision.onnx_text import onnx_text_backbone

        return onnx_text_backbone(recipe)
    known = [FITTED, "tfidf:<file>", "hf:<folder or name>", "onnx:<folder>"]
    raise BadInput(f"There is no text encoder {recipe!r}. There are {', '.join(known)}.{did_you_mean(recipe, known)}")


def own_encoder(store: Path, catalogue: TextCatalogue, encoder: str) -> str:
    """The recipe of a store's encoder: ``tfidf`` is the one that it has, or one that is fitted now and kept.

    Args:
        store: folder where it is kept; it need not be a store yet.
        catalogue: on whose texts it is fitted.
        encoder: as users name it.

    Raises:
        BadInput: the texts have nothing to fit on; or a file of ``tfidf:FILE`` cannot be read.
        StoreError: it cannot be written.
    """
    if encoder.startswith(FITTED_FILE):
        path = Path(encoder.removeprefix(FITTED_FILE))
        try:
            return _kept(store, Tfidf.from_bytes(path.read_bytes()))
        except (OSError, BadInput) as error:
            raise BadInput(f"The encoder {path} cannot be read: {error}") from error
    if encoder != FITTED:
        return f"{TEXT}{encoder}"
    if holds_store(store):
        with closing(Store(store, create=False)) as opened:
            held = [space.name for space in opened.index.spaces("feature") if name_of(space.name) == NAME]
            active = opened.index.active and Version.parse(opened.index.active).backbone
        if held:
            return active if active in held else held[-1]
    return _kept(store, Tfidf.fit(_sample(catalogue)))


def read_encoder(store: Path, name: str) -> Tfidf:
    """The fitted encoder ``tfidf@<hash>`` of a store.

    Raises:
        StoreError: it has gone, or is not what its name says.
    """
    path = store / ENCODERS / f"{name}.safetensors"
    remedy = "Copy it from the store that it was fitted in or a backup, or precompute the texts into a new store."
    try:
        found = Tfidf.from_bytes(path.read_bytes())
    except (OSError, BadInput) as error:
        raise StoreError(f"The text encoder {path} is missing or damaged: {error} {remedy}") from error
    if found.version != f"text:{name}":
        raise StoreError(f"The text encoder {path} is damaged: its numbers are those of {found.version}. {remedy}")
    return found


def _kept(store: Path, encoder: Tfidf) -> str:
    with replacing(store / ENCODERS / f"{encoder.version.removeprefix(TEXT)}.safetensors") as part:
        part.write_bytes(encoder.to_bytes())
    return encoder.version


def _of_tfidf(encoder: Tfidf) -> TextBackbone:
    def make(threads: int, device: str) -> TextEngine:
        return TextEngine("numpy", encoder.encode, "it has no characters in common with the texts that were fitted on")

    return TextBackbone(encoder.version, encoder.version, encoder.dim, make, probe=encoder.example)


def _sample(catalogue: TextCatalogue) -> list[str]:
    """Different texts of a catalogue, sorted, at most ``FIT_TEXTS`` of them, evenly chosen."""
    reading, found = TextReading(), set()
    for data in set(catalogue.all_of(catalogue.ids())):
        try:
            found.add(str(reading.read(data)))
        except (BadText, TextTooLong):
            continue
    every = sorted(found)
    step = max(1, -(-len(every) // FIT_TEXTS))
    return every[::step]
