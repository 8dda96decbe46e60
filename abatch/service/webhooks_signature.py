"""Sign messages as Standard Webhooks defines it: HMAC-SHA256 over the id, the time and the body.

The package `standardwebhooks` signs with one secret; a rotation needs a signature for each. It is five lines of `hmac`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import stat
from typing import TYPE_CHECKING, Final

from abatch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Secrets"]

PREFIX: Final = "whsec_"
SHORTEST: Final = 24
LONGEST: Final = 64
"""The bytes of a secret."""
MAKE_ONE: Final = "`echo whsec_$(openssl rand -base64 32)` prints a new one"
LARGEST_FILE: Final = 16_384
"""Bytes of a file with secrets that are read."""


class Secrets:
    """The secrets of one endpoint: a message is signed with each, so that a receiver may know any of them."""

    __slots__ = ("_keys",)

    def __init__(self, text: str, /, *, place: str) -> None:
        """Read secrets that are separated by white space.

        Args:
            text: secrets of the form `whsec_` and base64.
            place: the place of the text, for messages.

        Raises:
            ConfigError: there is no secret, or one does not have this form.

        """
        if not (words := text.split()):
            raise ConfigError(f"{place} holds no secret; {MAKE_ONE}")
        self._keys = tuple(_key(word, place) for word in words)

    @classmethod
    def from_env(cls, name: str, /) -> Secrets:
        """Read the secrets in an environment variable.

        Raises:
            ConfigError: it is not set, or holds no usable secret.

        """
        if (text := os.environ.get(name)) is None:
            raise ConfigError(f"the environment variable {name} is not set; {MAKE_ONE}")
        return cls(text, place=f"the environment variable {name}")

    @classmethod
    def from_file(cls, path: Path, /) -> Secrets:
        """Read the secrets in a file, which no other user may read.

        Raises:
            ConfigError: the file cannot be read, other users can read it, or it holds no usable secret.

        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(LARGEST_FILE).decode("ascii", "replace")
        except OSError as failure:
            raise ConfigError(f"the secret {path} cannot be read: {failure.strerror}") from failure
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise ConfigError(f"other users can read the secret {path}: chmod 600 {path}")
        return cls(text, place=str(path))

    def __repr__(self) -> str:
        return f"<Secrets: {len(self._keys)}>"

    def sign(self, message_id: str, timestamp: int, body: bytes) -> str:
        """Return the value of the header `webhook-signature`: a signature with each secret."""
        content = b".".join((message_id.encode(), str(timestamp).encode(), body))
        digests = (hmac.digest(key, content, hashlib.sha256) for key in self._keys)
        return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def _key(word: str, place: str) -> bytes:
    try:
        key = base64.b64decode(word.removeprefix(PREFIX), validate=True)
    except ValueError:  # also of characters beyond ASCII
        key = b""
    if not word.startswith(PREFIX) or not SHORTEST <= len(key) <= LONGEST:
        raise ConfigError(
            f"{place} holds a secret that is not {PREFIX} and the base64 of {SHORTEST} to {LONGEST} bytes; {MAKE_ONE}"
        )
    return key
