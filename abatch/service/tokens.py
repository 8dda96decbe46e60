"""Tokens: who may call the service, and what each of them may do.

A token is a file of the journal's folder, `tokens/NAME`, which only its owner can read. Removing the file revokes the
token at once. A session is what a browser keeps in its cookie after it signed in with a token: it is computed from the
token, ends after a week, and ends with its token.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

from abatch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

__all__ = ["OWNER", "RIGHTS", "Right", "Token", "Tokens"]

Right = Literal["read", "submit", "steer"]
"""Read everything; add jobs and requests; cancel, retry and close jobs."""
RIGHTS: Final[tuple[Right, ...]] = get_args(Right)
OWNER: Final = "owner"
"""The token that the service makes itself; it has every right."""
SESSION: Final = 7 * 86_400
"""Seconds after which a session ends."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class _File(msgspec.Struct, frozen=True):
    secret: str
    rights: tuple[Right, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token, without its secret."""

    name: str
    rights: frozenset[Right]


class Tokens:
    """The tokens of a journal. Every method reads or writes files, and blocks.

    Args:
        folder: the folder of the journal.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tokens"
        self._read_at: tuple[int, ...] = ()
        self._known: list[tuple[bytes, Token]] = []

    def secret_of(self, name: str = OWNER, rights: Collection[Right] = RIGHTS) -> str:
        """Return the secret of a token; make the token if it does not exist.

        Raises:
            ConfigError: the name is not allowed, or the token exists with other rights.

        """
        if not NAME.fullmatch(name):
            raise ConfigError(f"a token's name must match {NAME.pattern}, got {name!r}")
        path = self._folder / name
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = _File(secret=f"abatch_{secrets.token_urlsafe(32)}", rights=tuple(sorted(rights)))
        draft = self._folder / f".{name}.{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(made))
                file.flush()
                os.fsync(descriptor)
            os.link(draft, path)  # fails if it exists, and is never seen half-written
        except FileExistsError:
            kept = self._read(path)
            if set(kept.rights) != set(rights):
                raise ConfigError(
                    f"the token {name!r} has the rights {', '.join(kept.rights)}; remove {path} to make another"
                ) from None
            return kept.secret
        finally:
            draft.unlink()
        return made.secret

    def find(self, secret: str) -> Token | None:
        """Return the token with this secret; every token is compared, in a time that does not depend on the secret."""
        asked, found = _digest(secret), None
        for digest, token in self._all():
            if hmac.compare_digest(digest, asked):
                found = token
        return found

    def session(self, secret: str, now: float) -> str | None:
        """Return a new session of the token with this secret; None if there is no such token."""
        if self.find(secret) is None:
            return None
        ends = str(int(now) + SESSION)
        return f"{ends}.{_signed(_digest(secret), ends)}"

    def find_session(self, session: str, now: float) -> Token | None:
        """Return the token of a session; None if it is not valid or not any more."""
        ends, _, signature = session.partition(".")
        found = None
        for digest, token in self._all():
            if hmac.compare_digest(_signed(digest, ends).encode(), signature.encode()):
                found = token
        return found if found is not None and ends.isdecimal() and now < int(ends) else None

    def _all(self) -> list[tuple[bytes, Token]]:
        """Return the digest of each secret with its token; read again after a token was made or removed.

        Raises:
            ConfigError: a file is not a token.

        """
        state = self._folder.stat()
        if self._read_at != (now := (state.st_mtime_ns, state.st_ino)):  # a token was made or removed
            self._known = [
                (_digest(kept.secret), Token(name=path.name, rights=frozenset(kept.rights)))
                for path in sorted(self._folder.iterdir())
                if NAME.fullmatch(path.name)
                for kept in [self._read(path)]
            ]
            self._read_at = now
        return self._known

    def _read(self, path: Path) -> _File:
        try:
            return msgspec.json.decode(path.read_bytes(), type=_File)
        except msgspec.MsgspecError as invalid:
            raise ConfigError(f"{path} is not a token ({invalid}); remove it") from invalid


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _signed(digest: bytes, ends: str) -> str:
    return hmac.new(digest, f"abatch session until {ends}".encode(), hashlib.sha256).hexdigest()
