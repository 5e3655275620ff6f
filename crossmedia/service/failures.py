"""End a failed call with the error's code and sentence, its class name, and the time after which to retry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from crossmedia.errors import ERROR_NAME_KEY, RETRY_AFTER_KEY, CrossMediaError, Overloaded

MAX_SAID = 1000  # bytes of an error: it travels in a header, where one takes up to three, and in the log


def said(error: CrossMediaError) -> str:
    """The message of an error, cut if it is too long, because it may quote what a caller sent."""
    text = str(error)
    cut = text.encode(errors="replace")[:MAX_SAID].decode(errors="ignore")
    return text if cut == text else f"{cut}…"


def end_call(context: Any, error: CrossMediaError, metadata: Sequence[tuple[str, str]] = ()) -> NoReturn:
    """End a gRPC call with one of our errors, so that the client raises the same class.

    Args:
        context: of the call.
        error: why it failed.
        metadata: what else goes back.
    """
    metadata = [*metadata, (ERROR_NAME_KEY, type(error).__name__)]
    if isinstance(error, Overloaded):
        metadata.append((RETRY_AFTER_KEY, str(int(error.retry_after_s * 1000))))
    context.set_trailing_metadata(metadata)
    context.abort(error.grpc_code, said(error))
    raise AssertionError("This is a bug: abort always raises.")
