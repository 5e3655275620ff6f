"""How a server reads photos: those of the catalogue, and those that callers bring or want to see."""

from __future__ import annotations

import errno

import numpy as np

from crossmedia.imgserver.serving.miss import Miss
from crossmedia.imgserver.storage.catalogue.texts import TextCatalogue
from crossmedia.imgserver.storage.stores import Stored
from crossmedia.imgserver.text.reading import TextReading
from crossmedia.imgserver.vision.decode import Preprocessing
from crossmedia.imgserver.vision.decoders import Decoders, DecodingFailed
from crossmedia.imgserver.vision.formats import CorruptImage, ImageTooLarge
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.imgserver.vision.photos import Photo, Source, photo_from_bytes, read_photo
from crossmedia.service.admission import Turns
from crossmedia.service.callers import Caller
from crossmedia.status import Status
from crossmedia.version import Version

CALLERS_DECODERS = 2  # of photos that callers bring or want to see; who needs one waits for a turn


class PhotoReader:
    """Reads and decodes, with decoders for the catalogue and for callers: none keeps those of the other waiting.

    Args:
        source: where photos are, and what is allowed.
        decoders: photos of the catalogue that are decoded at once.

    Attributes:
        catalogue: replaced as a whole when the photos were listed again; None: callers bring all of them.

    Raises:
        BadInput: no such catalogue.
    """

    def __init__(self, source: PhotoSource, decoders: int):
        self._source = source
        self.catalogue = source.open() if source.catalogue else None
        self.decoders = Decoders(source.limits, decoders)
        self.callers_decoders = Decoders(source.limits, CALLERS_DECODERS)
        self._turns = Turns(CALLERS_DECODERS)

    def close(self) -> None:
        """End all decoders; a photo that one of them is at has failed."""
        self.decoders.close()
        self.callers_decoders.close()

    def at_once(self, *, brought: bool) -> int:
        """How many photos are read, or wait for a process that decodes, at once, of callers or of the catalogue."""
        if brought:
            return self.callers_decoders.workers
        return max(self.catalogue.readers if self.catalogue else 0, self.decoders.threads)

    def list_again(self) -> bool:
        """List the catalogue again if it changed; return whether it did.

        Raises:
            BadInput: it has gone, or it is wrong now.
        """
        if self.catalogue is None or not self.catalogue.changed():
            return False
        self.catalogue = self._source.open()
        return True

    def untouched(self, image_id: int, known: Stored) -> bool:
        """Whether a photo of the catalogue is still the one that something stored was made of."""
        return self.catalogue is not None and bool(self.catalogue.unchanged(np.array([image_id]), known.entry)[0])

    def photo(self, miss: Miss) -> Photo:
        """The photo of an image under way; never raises for what is wrong with it."""
        preprocessing = miss.maker.embedder.backbone.preprocessing
        if miss.data is not None:
            source = Source(len(miss.data), 0, miss.content)
            decoders = self.callers_decoders if miss.brought else self.decoders
            return photo_from_bytes(miss.image_id, miss.data, source, preprocessing, decoders)
        if self.catalogue is None:
            return Photo(miss.image_id, Status.FAILED, Source(), reason="is damaged in the store")
        if isinstance(self.catalogue, TextCatalogue) != isinstance(preprocessing, TextReading):
            # Nothing is stored of it: there is nothing wrong with the photo.
            return Photo(miss.image_id, Status.FAILED, Source(), reason=self.other_kind(miss.maker.features.name))
        return read_photo(self.catalogue, miss.image_id, preprocessing, self.decoders)

    def other_kind(self, version: str) -> str:
        """A sentence for a catalogue of texts with a backbone of photos, or the other way round; else empty."""
        if self.catalogue is None or isinstance(self.catalogue, TextCatalogue) == Version.parse(version).of_texts:
            return ""
        here = "texts" if isinstance(self.catalogue, TextCatalogue) else "photos"
        need = "--catalogue, with photos" if here == "texts" else "--texts"
        return f"{self.catalogue.where} holds {here}, and {version} is not made of them: serve it with {need}"

    def query(self, data: bytes, preprocessing: Preprocessing | TextReading, caller: Caller) -> Photo:
        """A photo that a caller asks about, decoded when it is the caller's turn.

        Raises:
            DeadlineExceeded: the caller has gone, or its deadline is over.
        """
        with self._turns.one(caller):
            return photo_from_bytes(0, data, Source(), preprocessing, self.callers_decoders)

    def thumbnail(self, image_id: int, side: int, caller: Caller) -> bytes:
        """A JPEG of at most ``side`` pixels a side, made when it is the caller's turn; empty where no photo is.

        Raises:
            DeadlineExceeded: the caller has gone, or its deadline is over.
            OSError: this process can open no file any more.
        """
        if self.catalogue is None:
            return b""
        with self._turns.one(caller):
            try:
                data = self.catalogue.read(image_id, self.callers_decoders.limits.max_bytes)
                return self.callers_decoders.thumbnail(data, side) if data else b""
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    raise  # says nothing of the photo
                return b""
            except (CorruptImage, ImageTooLarge, DecodingFailed):
                return b""
