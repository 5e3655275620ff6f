"""Bearer tokens from a file: who calls, and what they may call. No message shows a token or a line of the file."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from crossmedia.errors import BadInput, PermissionDenied, Unauthenticated
from crossmedia.secret_files import Followed, read_private

# Each scope has the rights of those before it.
SCOPES = ("read", "write", "admin")
LEAST_CHARACTERS = 20  # a hash of less could be guessed
LOOK_EVERY_S = 1.0
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_HASHED = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Token:
    """One line of the file.

    Attributes:
        name: of the caller; two lines of one name are one caller, so that a token can be replaced without a gap.
        scope: one of ``SCOPES``.
        digest: SHA-256 of the token.
    """

    name: str
    scope: str
    digest: bytes = field(repr=False)


class Tokens:
    """All tokens of a file.

    Args:
        tokens: the lines.
    """

    def __init__(self, tokens: Iterable[Token]):
        self._tokens = tuple(tokens)

    def caller(self, metadata: Iterable[tuple[str, str | bytes]], needed: str) -> str:
        """Name of the caller.

        Args:
            metadata: of the call.
            needed: scope that the call needs.

        Raises:
            Unauthenticated: there is no token, or it is none of the file's.
            PermissionDenied: its scope is not enough.
        """
        brought = next((value for key, value in metadata if key == "authorization"), "")
        kind, _, secret = (brought.decode("latin-1") if isinstance(brought, bytes) else brought).partition(" ")
        if kind.lower() != "bearer" or not secret:
            raise Unauthenticated(
                "This server answers only calls with a token, and none was sent. Set CROSSMEDIA_TOKEN_FILE to "
                "the file that holds yours."
            )
        digest = hashlib.sha256(secret.strip().encode()).digest()
        found: Token | None = None
        for token in self._tokens:  # all of them, each in the same time
            if hmac.compare_digest(token.digest, digest):
                found = token
        if found is None:
            raise Unauthenticated(
                "This server does not know this token. It may have been replaced: ask for the new one."
            )
        if SCOPES.index(found.scope) < SCOPES.index(needed):
            raise PermissionDenied(
                f"The token of {found.name} has the scope {found.scope!r}; this call needs {needed!r}."
            )
        return found.name


def followed_tokens(path: Path) -> Followed[Tokens]:
    """The tokens of a file, read again within a second when it changes.

    Raises:
        BadInput: the file cannot be read, can be read by others, or a line is wrong.
    """
    return Followed(f"the tokens {path}", [path], lambda: read_tokens(path), LOOK_EVERY_S)


def read_tokens(path: Path) -> Tokens:
    """Tokens of a file of lines ``name scope token``, where ``sha256:<64 hex digits>`` may stand for the token.

    Empty lines, and those that begin with ``#``, are passed over.

    Raises:
        BadInput: the file cannot be read, can be read by others, or a line is wrong.
    """
    found: dict[bytes, Token] = {}
    text = read_private(path, "file of tokens").decode(errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        # A wrong line may have the token in any of its places: the message holds nothing of it.
        where = f"Line {number} of the tokens {path}"
        if len(words) != 3:
            raise BadInput(f"{where} has {len(words)} words; it must be: name scope token.")
        name, scope, secret = words
        if not _NAME.fullmatch(name):
            raise BadInput(f"{where} begins with no name: letters, digits, '.', '_' and '-', at most 64.")
        if scope not in SCOPES:
            raise BadInput(f"{where} has no scope in the second place: one of {', '.join(SCOPES)}.")
        if _HASHED.fullmatch(secret):
            digest = bytes.fromhex(secret.partition(":")[2])
        elif _TOKEN.fullmatch(secret) and len(secret) >= LEAST_CHARACTERS:
            digest = hashlib.sha256(secret.encode()).digest()
        else:
            raise BadInput(
                f"{where} has no token in the third place: at least {LEAST_CHARACTERS} letters and digits, such as "
                f"'openssl rand -hex 32' gives."
            )
        if digest in found:
            raise BadInput(f"{where} has the token of an earlier line; a token belongs to one name.")
        found[digest] = Token(name, scope, digest)
    if not found:
        raise BadInput(f"The file of tokens {path} has no token, so that nobody could call.")
    return Tokens(found.values())
