"""The errors that CrossMedia raises on purpose: one class for each, with its gRPC code and its exit code.

    CrossMediaError
      BadInput               a file, column, flag or value of the user is wrong
      InvalidRequest         a call that can never succeed as it is            INVALID_ARGUMENT
      NotReady               nothing has been precomputed yet                  FAILED_PRECONDITION
      VersionMismatch        vectors of another version were asked for         FAILED_PRECONDITION
      WrongShard             another server owns the image                     FAILED_PRECONDITION
      Overloaded             the server has more work than it admits           RESOURCE_EXHAUSTED
      Unauthenticated        no token, or one that the server does not know    UNAUTHENTICATED
      PermissionDenied       the token's scope does not reach                  PERMISSION_DENIED
      DeadlineExceeded       the answer did not come in time                   DEADLINE_EXCEEDED
      ServerUnavailable      nobody answers at the address                     UNAVAILABLE
      StoreError             the store, or a file, cannot be read or written   DATA_LOSS
        DamagedIndex         the index of a store is not what was written      DATA_LOSS
        NoStore              a folder that was named holds no store            DATA_LOSS
      ServerFault            the server failed in a way nobody foresaw         INTERNAL
      TooManyMissingImages   more images are missing than the run allows
      NothingEmbedded        precompute ended without a single vector
      TrainingDiverged       the loss of a model that is trained is no number any more

The server puts the class name into the trailing metadata of a failed call; the client raises the same class.
Messages are full sentences: what went wrong, with which value, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

import grpc

ERROR_NAME_KEY = "crossmedia-error"
RETRY_AFTER_KEY = "retry-after-ms"


class CrossMediaError(Exception):
    """Root of all errors that CrossMedia raises on purpose.

    Attributes:
        request_id: of the call that failed, by which the server's log names it; empty where no server failed.
        tried_s: for how long the call was tried again before it was given up.

    Example:
        >>> import crossmedia
        >>> try:
        ...     crossmedia.ImageClient("localhost:1", timeout_s=0.5).get([1])
        ... except crossmedia.CrossMediaError as error:
        ...     type(error).__name__, error.exit_code
        ('ServerUnavailable', 3)
    """

    request_id: str = ""
    tried_s: float = 0.0
    grpc_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    exit_code: ClassVar[int] = 1


class BadInput(CrossMediaError):
    """A file, column, flag or value that the user gave is wrong."""

    grpc_code = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 2


class InvalidRequest(CrossMediaError):
    """A call that can never succeed as it is: too many ids, a broken id block, an unknown dtype."""

    grpc_code = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 2


class NotReady(CrossMediaError):
    """The server is up, but it has no vectors yet."""

    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4


class VersionMismatch(CrossMediaError):
    """A call asked for a version that the server does not serve, or a run found a version that is not its own."""

    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4


class WrongShard(CrossMediaError):
    """A server was asked for an image that it does not own, or client and servers have different lists of servers."""

    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4


class Overloaded(CrossMediaError):
    """The server has admitted as much work as it can; try again after ``retry_after_s`` seconds."""

    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    exit_code = 3

    def __init__(self, message: str, retry_after_s: float = 0.1):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unauthenticated(CrossMediaError):
    """The server answers only calls with a token; this call had none, or one that the server does not know."""

    grpc_code = grpc.StatusCode.UNAUTHENTICATED
    exit_code = 2


class PermissionDenied(CrossMediaError):
    """The server knows the token, but its scope does not allow the call."""

    grpc_code = grpc.StatusCode.PERMISSION_DENIED
    exit_code = 2


class DeadlineExceeded(CrossMediaError):
    """The answer did not come within the deadline."""

    grpc_code = grpc.StatusCode.DEADLINE_EXCEEDED
    exit_code = 3


class ServerUnavailable(CrossMediaError):
    """Nobody answers at the address, or the server is starting or draining."""

    grpc_code = grpc.StatusCode.UNAVAILABLE
    exit_code = 3


class StoreError(CrossMediaError):
    """The store, or a file that is to be written, cannot be opened, read or written."""

    grpc_code = grpc.StatusCode.DATA_LOSS
    exit_code = 1


class DamagedIndex(StoreError):
    """The store's index is not what was written; callers of a server see a ``StoreError``."""


class NoStore(StoreError):
    """There is no store in a folder that somebody named: a slip of the pen, mostly."""

    exit_code = 2

    def __init__(self, store: object):
        self.store = str(store)
        super().__init__(
            f"There is no store in {store}. Check the name; 'imgserver precompute --store {store} --catalogue FOLDER' "
            f"makes one of photos, 'imgserver import' of vectors that there are."
        )

    def __reduce__(self) -> tuple[type[NoStore], tuple[str]]:
        return NoStore, (self.store,)  # across processes, too


class ServerFault(CrossMediaError):
    """The server failed in an unexpected way; its log says more."""

    grpc_code = grpc.StatusCode.INTERNAL
    exit_code = 1


class TooManyMissingImages(CrossMediaError):
    """More images are permanently missing than ``max_missing`` allows."""

    exit_code = 5


class NothingEmbedded(CrossMediaError):
    """Precompute found photos but embedded none, or it found none at all."""

    exit_code = 5


class TrainingDiverged(CrossMediaError):
    """The loss of a model in training is no longer a finite number."""


_BY_NAME: dict[str, type[CrossMediaError]] = {
    cls.__name__: cls for cls in CrossMediaError.__subclasses__() if cls.grpc_code != CrossMediaError.grpc_code
}
_BY_CODE: dict[grpc.StatusCode, type[CrossMediaError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: VersionMismatch,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
    grpc.StatusCode.DATA_LOSS: StoreError,
}


def error_class(name: str | None, code: grpc.StatusCode) -> type[CrossMediaError]:
    """The class that a failed call stands for: the one that the server named, if the code is that class's.

    So a server can say of itself what servers can say, and not that the caller's training has diverged.
    """
    named = _BY_NAME.get(name or "")
    return named if named is not None and named.grpc_code == code else _BY_CODE.get(code, ServerFault)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` behind a sentence that refuses ``given``; empty where nothing known is near."""
    near = nearest(given, known)
    return f" Did you mean {near!r}?" if near else ""


def nearest(given: str, known: Iterable[str]) -> str:
    """What is known that is spelled most like ``given``, or alone begins with it, whatever the case of its letters.

    Empty: nothing is near.
    """
    lower, by_lower = str(given).lower(), {name.lower(): name for name in known}
    near = difflib.get_close_matches(lower, by_lower, n=1, cutoff=0.6)
    if not near and lower:
        begun = [name for name in by_lower if name.startswith(lower)]
        near = begun if len(begun) == 1 else []
    return by_lower[near[0]] if near else ""
