"""Read a destination's URL: bucket, prefix, and the parameters of the endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from abatch.errors import ConfigError

__all__ = ["FORM", "WHEN_REQUIRED", "Place", "parse"]

FORM: Final = "s3://bucket/prefix?endpoint_url=https://…&region=…&compression=zstd&checksums=when_required"
PARAMETERS: Final = frozenset({"endpoint_url", "region", "compression", "checksums"})
WHEN_REQUIRED: Final = "when_required"
WHEN: Final = (WHEN_REQUIRED, "when_supported")
"""When a request carries a checksum of its body, as the AWS libraries name it; the latter is their default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The content of a destination's URL."""

    bucket: str
    prefix: str
    endpoint_url: str | None = None
    region: str | None = None
    compression: str | None = None
    checksums: str | None = None


def parse(url: str) -> Place:
    """Read a destination's URL.

    Raises:
        ConfigError: the URL is invalid, or carries credentials.

    """
    path, _, query = url.removeprefix("s3://").partition("?")
    bucket, _, prefix = path.partition("/")
    prefix = prefix.rstrip("/")
    pairs = parse_qsl(query, keep_blank_values=True)
    if "@" in bucket or any("@" in text for pair in pairs for text in pair):
        # The text does not include the URL, because the URL holds a secret.
        raise ConfigError("an S3 destination must not carry credentials; give them in the environment or in ~/.aws")
    parameters = dict(pairs)
    try:
        endpoint = urlsplit(parameters.get("endpoint_url", "https://aws"))
    except ValueError:
        endpoint = urlsplit("")
    problem = ""
    if not url.startswith("s3://") or not bucket:
        problem = "names no bucket"
    elif prefix and not {"", ".", ".."}.isdisjoint(prefix.split("/")):
        problem = "has an empty segment, '.' or '..' in its prefix, which servers read differently"
    elif unknown := parameters.keys() - PARAMETERS:
        problem = f"has the unknown parameter {min(unknown)!r}"
    elif endpoint.scheme not in {"http", "https"} or not endpoint.hostname:
        problem = "has an endpoint_url that is not an http address"
    elif parameters.get("compression") not in {None, "zstd"}:
        problem = f"has the unknown compression {parameters['compression']!r}"
    elif parameters.get("checksums") not in {None, *WHEN}:
        problem = f"has unknown checksums {parameters['checksums']!r}, not {' or '.join(WHEN)}"
    if problem:
        raise ConfigError(f"{url!r} {problem}; write {FORM}")
    return Place(bucket=bucket, prefix=prefix, **parameters)
