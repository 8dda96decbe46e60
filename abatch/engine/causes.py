"""Describe why a connection failed, and how to fix it. Pure.

The HTTP libraries wrap the operating system's error several times, even in groups, so every level is searched for it.
The description never repeats a library's text about headers, because headers hold the key.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["in_words"]

WRONG_HOST: Final = frozenset({62, 64})
"""OpenSSL codes for a certificate that is for another host name or another address."""
UNREACHABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
TRUST: Final = (
    "If a proxy or gateway of your own signs it, set SSL_CERT_FILE to a PEM file with the certificates of its "
    "authority and of all others that you need, or SSL_CERT_DIR to a folder of them"
)


def in_words(error: BaseException) -> str | None:
    """Describe why a connection failed; return None if the error holds nothing more specific than its name."""
    for each in _all(error):
        if (words := _one(each)) is not None:
            return words
    return None


def _one(error: BaseException) -> str | None:
    match error:
        case ssl.SSLCertVerificationError() if error.verify_code in WRONG_HOST:
            return f"the certificate is for another host name ({error.verify_message}); check the host in the base URL"
        case ssl.SSLCertVerificationError():
            return f"the certificate is not trusted ({error.verify_message}). {TRUST}"
        case ssl.SSLError():
            reason = (error.reason or "unknown").replace("_", " ").lower()
            return f"TLS failed ({reason}); check that https is spoken at the base URL's host and port, and the proxy's"
        case socket.gaierror():
            return f"the host name cannot be resolved ({error.strerror}); check it, and the DNS"
        case ConnectionRefusedError():
            return "the connection was refused: nothing listens at this host and port"
        case OSError() if error.errno in UNREACHABLE:
            return f"the host cannot be reached ({os.strerror(error.errno)})"
        case _:
            pass
    match type(error).__name__:
        case "LocalProtocolError":
            return "a header holds a character that HTTP does not allow; check the API key and ANTHROPIC_CUSTOM_HEADERS"
        case "ProxyError" | "ClientHttpProxyError":
            return _of_proxy(error)
        case _:
            return None


def _of_proxy(error: BaseException) -> str:
    """Describe a proxy's refusal; only its status is repeated."""
    status = getattr(error, "status", None) or next(
        (word for word in str(error).replace(",", " ").split() if word.isdecimal() and len(word) == 3), ""
    )
    remedy = "; name user and password in the proxy's URL" if str(status) == "407" else ""
    return f"the proxy refused the connection{f' with status {status}' if status else ''}{remedy}"


def _all(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its causes and the members of groups, innermost first: the system's error is the innermost."""
    seen: set[int] = set()

    def below(each: BaseException | None) -> Iterator[BaseException]:
        if each is None or id(each) in seen:
            return
        seen.add(id(each))
        if isinstance(each, BaseExceptionGroup):
            for member in cast("BaseExceptionGroup[BaseException]", each).exceptions:
                yield from below(member)
        yield from below(each.__cause__)
        yield from below(each.__context__)
        yield each

    return below(error)
