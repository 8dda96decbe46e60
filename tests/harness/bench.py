"""Where trials are played and by whom: a folder in memory, a server for S3, several workers side by side."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from tests.harness.media import BUCKET, S3, Folder, Jsonl, Medium, Sqlite, s3_client
from tests.harness.processes import fork
from tests.servers import SeaweedS3

T = TypeVar("T")

NAMES = ("jsonl", "folder", "sqlite", "s3")
ROOMY = 2 * 2**30


def side_by_side(works: Sequence[Callable[[], Iterator[T]]]) -> Iterator[T]:
    """What each work gives, as it comes; each in a child of its own.

    Raises:
        RuntimeError: a child ended before its work did.

    """
    children: dict[Any, int] = {}
    for work in works:
        ours, theirs = Pipe(duplex=False)
        children[ours] = fork(lambda work=work, theirs=theirs: _give(work, theirs))  # type: ignore[misc]
        theirs.close()
    while children:
        for ready in wait(list(children)):
            try:
                yield ready.recv()  # type: ignore[union-attr]
            except EOFError:
                _, status = os.waitpid(children.pop(ready), 0)
                if status:
                    raise RuntimeError(f"a worker ended with {os.waitstatus_to_exitcode(status)}") from None


def _give(work: Callable[[], Iterator[Any]], theirs: Connection[Any, Any]) -> int:
    for each in work():
        theirs.send(each)
    return 0


def medium_of(name: str, server: SeaweedS3 | None) -> Medium:
    if name == "s3":
        assert server is not None
        return S3(server)
    return {"jsonl": Jsonl, "folder": Folder, "sqlite": Sqlite}[name]()


def memory() -> Path | None:
    """A folder in memory, if there is one with room."""
    folder = Path("/dev/shm")
    roomy = folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > ROOMY
    return folder if roomy else None


def quick_folder() -> Path:
    """A new folder, in memory where there is room: a kill loses nothing that was written, synced or not."""
    return Path(tempfile.mkdtemp(prefix="abatch-kill-", dir=memory()))


@contextmanager
def s3_server(folder: Path, media: Sequence[str]) -> Iterator[SeaweedS3 | None]:
    if "s3" not in media:
        yield None
        return
    server = SeaweedS3(folder)
    server.start()
    try:
        s3_client(server).create_bucket(Bucket=BUCKET)
        yield server
    finally:
        server.stop()
