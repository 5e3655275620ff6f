"""How photos are read: where they are, and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass

from crossmedia.imgserver.storage.catalogue import READ_TIMEOUT_S, Catalogue, names_in, open_catalogue
from crossmedia.imgserver.vision.decode import ImageLimits
from crossmedia.names import ImageNames


@dataclass(frozen=True)
class PhotoSource:
    """How photos are read.

    Attributes:
        catalogue: path or URL of them, see ``open_catalogue``; empty: there are none but those that callers bring.
        limits: of a photo.
        timeout_s: for one read behind a URL.
        roots: folders that links and manifests of the catalogue may lead to, beside its own.
    """

    catalogue: str = ""
    limits: ImageLimits = ImageLimits()
    timeout_s: float = READ_TIMEOUT_S
    roots: tuple[str, ...] = ()

    @classmethod
    def of_options(
        cls, catalogue: str | None, max_image_mb: int, read_timeout_s: float, roots: tuple[str, ...]
    ) -> PhotoSource:
        """As options say it: a photo has so many MiB at most."""
        return cls(catalogue or "", ImageLimits(max_image_mb << 20), read_timeout_s, roots)

    def open(self) -> Catalogue:
        """List the catalogue.

        Raises:
            BadInput: there is none, or it is wrong; see ``open_catalogue``.
        """
        return open_catalogue(self.catalogue, self.timeout_s, self.roots)

    def names(self) -> ImageNames | None:
        """What a manifest calls the photos, without listing them; see ``names_in``."""
        return names_in(self.catalogue, self.timeout_s, self.roots)
