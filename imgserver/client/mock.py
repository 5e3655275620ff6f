"""A transport for tests, which needs no server and no store."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.concepts import ConceptCard
from crossmedia.errors import NotReady, VersionMismatch
from crossmedia.imgserver.client.transports import Pending
from crossmedia.imgserver.wire import DTYPES, GET_CONCEPTS, GET_INFO, GET_THUMBNAILS, SEARCH, Method, VectorsReply
from crossmedia.status import Status
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.version import Version


class MockTransport:
    """Vectors from a dictionary, for tests: an id that is not in it is NOT_FOUND.

    Args:
        vectors: image id -> vector; all of one length.
        version: the version that every reply names; empty: one of vectors of that length, of 8 where there are none.
        generation: the generation that every reply names.
        status: image id -> status byte, for ids that are to fail.
        max_ids_per_call: the limit that it tells.
        card: what the numbers of its vectors mean; None: they are no concepts.

    Example:
        >>> import numpy as np
        >>> from crossmedia import ImageClient
        >>> from crossmedia.imgserver.client import MockTransport
        >>> with ImageClient(MockTransport({7: np.ones(4)})) as client:
        ...     client.get([7, 8]).ok.tolist()
        [True, False]
    """

    address = "(a mock)"

    def __init__(
        self,
        vectors: Mapping[int, npt.NDArray[Any]],
        *,
        version: str = "",
        generation: int = 1,
        status: Mapping[int, int] | None = None,
        max_ids_per_call: int = 10_000,
        card: ConceptCard | None = None,
    ):
        self.vectors, self.generation = dict(vectors), generation
        self.status, self.max_ids_per_call = dict(status or {}), max_ids_per_call
        self.dim = len(next(iter(self.vectors.values()))) if self.vectors else Version.parse(version).dim or 8
        self.version = version or f"mock@000000000000+none@000000000000/{self.dim}"
        self.card = card
        self.requests: list[pb.GetVectorsRequest] = []

    def call(self, method: Method[Any], request: Any, timeout_s: float) -> Any:
        """Tell what is served here, and that no photo has a thumbnail.

        Raises:
            NotReady: for ``Search``, as a server without a similarity index does.
            VersionMismatch: for what takes a CNN or features, as a server of imported vectors does.
        """
        if method == GET_INFO:
            return self._info()
        if method == GET_THUMBNAILS:
            return pb.GetThumbnailsResponse(jpegs=[b""] * (len(request.image_ids) // 8))
        if method == GET_CONCEPTS and self.card is not None:
            return pb.GetConceptsResponse(version=self.version, card=self.card.to_bytes())
        if method == SEARCH:
            raise NotReady("The mock has no similarity index.")
        raise VersionMismatch(f"The mock cannot answer {method.name}: it has neither a CNN nor features.")

    def _info(self) -> pb.GetInfoResponse:
        return pb.GetInfoResponse(
            server_version="mock",
            version=self.version,
            dim=self.dim,
            stored_dtype=pb.DTYPE_FLOAT16,
            generation=self.generation,
            versions=[self.version],
            limits=pb.Limits(
                max_ids_per_call=self.max_ids_per_call,
                max_thumbnails_per_call=256,
                max_put_per_call=256,
                max_image_bytes=20 << 20,
                max_image_pixels=50_000_000,
                max_message_bytes=64 << 20,
            ),
            contents=pb.Contents(images_stored=len(self.vectors)),
        )

    def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
        """Look the ids up in the dictionary."""
        self.requests.append(request)
        done: Future[VectorsReply] = Future()
        if request.version and request.version != self.version:
            done.set_exception(VersionMismatch(f"The mock serves {self.version}, not {request.version}."))
            return done
        ids = np.frombuffer(request.image_ids, dtype="<i8")
        dtype = request.dtype or pb.DTYPE_FLOAT16
        values = np.zeros((len(ids), self.dim), dtype=DTYPES[dtype])
        status = np.full(len(ids), Status.NOT_FOUND, dtype=np.uint8)
        for row, image_id in enumerate(ids.tolist()):
            if image_id in self.status:
                status[row] = self.status[image_id]
            elif image_id in self.vectors:
                values[row], status[row] = self.vectors[image_id], Status.OK
        done.set_result(VectorsReply(self.version, self.generation, values, status))
        return done

    def close(self) -> None:
        """Nothing to give up."""
