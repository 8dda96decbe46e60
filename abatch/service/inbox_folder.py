"""The inbox folder: a file that is moved into it becomes a job.

    inbox/
      reviews.jsonl          waits to be claimed
      reviews.toml           optional: the key and the destination
      claimed/reviews.jsonl  the input of a job; a link into done/ when the job is done
      results/reviews.jsonl  the results, unless reviews.toml names another destination
      done/reviews.jsonl     the input of a job that is done
      refused/reviews.jsonl  not sent; refused/reviews.jsonl.error.txt gives the reason

A file is claimed by a rename, and only then submitted, so that after a crash every claimed file is submitted again.
That is safe, because the same key with the same content is the same job.
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import os
import signal
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec

import anyio
import msgspec

from abatch.errors import AbatchError, BackendError, ConfigError, JournalError, ManagerClosed
from abatch.log import log
from abatch.system import threads
from abatch.system.paths import folder_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from abatch.job import Job
    from abatch.manager import BatchManager

__all__ = ["InboxFolder"]

SUFFIXES: Final = (".jsonl", ".jsonl.gz", ".jsonl.zst")
SETTINGS: Final = ".toml"
ERROR: Final = ".error.txt"
CLAIMED: Final = "claimed"
RESULTS: Final = "results"
DONE: Final = "done"
REFUSED: Final = "refused"
LOOK_EVERY: Final = 1.0
"""The seconds between two looks into the folder, and at a job that is stopped."""
RETRY_EVERY: Final = 60.0
"""The seconds between two attempts to claim a destination that fails temporarily."""
SUBMITTED_AT_ONCE: Final = 4
"""The number of files that are checked at the same time; each takes a worker thread."""
UNSUPPORTED: Final = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.ENOLCK}
"""The file system has no leases, or the file belongs to another user."""

P = ParamSpec("P")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of NAME.toml."""

    key: str | None = None
    """The key of the job; the name of the file without its suffix if not given."""
    to: str | None = None
    """The destination; a relative path is relative to the inbox folder."""


class InboxFolder:
    """Submits the files of a folder to a manager, for as long as it runs.

    Args:
        folder: the inbox folder; it and its subfolders are created with the mode 0700.
        manager: the manager that runs the jobs.

    """

    def __init__(self, folder: str | os.PathLike[str], manager: BatchManager) -> None:
        self.folder = folder_of(folder)
        self._claimed = self.folder / CLAIMED
        self._manager = manager
        self._seen: dict[str, tuple[int, int]] = {}
        self._has_begun = False
        self._checking = anyio.Semaphore(SUBMITTED_AT_ONCE)

    async def prepare(self) -> None:
        """Create the folder and its subfolders.

        Raises:
            ConfigError: the folder cannot be used.

        """
        await threads.run(self._create)

    async def run(self) -> None:
        """Submit what was claimed before, then look into the folder every second, until it is cancelled."""
        async with anyio.create_task_group() as group:
            reported = ""
            while True:
                found, problem = await threads.run(self._look)
                if problem and problem != reported:
                    log.warning("inbox_unavailable", folder=str(self.folder), error=problem)
                reported = problem
                for path in found:
                    group.start_soon(self._run_job, path)
                await anyio.sleep(LOOK_EVERY)

    async def _run_job(self, path: Path) -> None:
        """Submit one claimed file, and move it when its job is done or was refused."""
        try:
            async with self._checking:
                job = await self._submit(path)
        except (ManagerClosed, JournalError):
            return  # the file stays claimed
        except AbatchError as refused:
            log.warning("inbox_file_refused", file=path.name, error=str(refused))
            await self._move(self._refuse, path, str(refused))
            return
        with suppress(ManagerClosed, JournalError):
            await _until_done(job)
            await self._move(self._finish, path)
            log.info("inbox_file_done", file=path.name, job=job.key)

    async def _submit(self, path: Path) -> Job:
        """Submit a claimed file; a destination that fails temporarily is tried again.

        Raises:
            AbatchError: it cannot be submitted.

        """
        settings = await threads.run(_settings, path)
        stem = _stem(path.name)
        to = self._destination(settings.to or f"{RESULTS}/{stem}.jsonl")
        while True:
            try:
                job = await self._manager.submit(path, to=to, key=settings.key or stem)
            except BackendError as failure:
                if not failure.passes:
                    raise
                log.warning("inbox_file_waits", file=path.name, error=str(failure))
                await anyio.sleep(RETRY_EVERY)
            else:
                log.info("inbox_file_submitted", file=path.name, job=job.key)
                return job

    def _destination(self, to: str) -> str | Path:
        return to if ":" in to else self.folder / to  # an absolute path replaces the folder

    async def _move(self, move: Callable[P, None], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Move a file out of the way; if that fails, it stays claimed, which harms nothing."""
        try:
            await threads.run(move, *args, **kwargs)
        except OSError as failure:
            log.warning("inbox_file_not_moved", error=str(failure))

    # ---- the files; everything below blocks --------------------------------------------------------------------

    def _create(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in (CLAIMED, RESULTS, DONE, REFUSED):
                (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as refused:
            raise ConfigError(f"the inbox folder {self.folder} cannot be used: {refused.strerror}") from refused

    def _look(self) -> tuple[list[Path], str]:
        """Return the claimed files that no task has yet, and why others could not be claimed."""
        found: list[Path] = []
        try:
            if not self._has_begun:
                found += self._unfinished()
                self._has_begun = True
            self._claim(found)
        except OSError as failure:
            return found, str(failure)
        return found, ""

    def _unfinished(self) -> list[Path]:
        """Return the claimed files, without the links to those whose job is done."""
        folders = [self._claimed, *(Path(entry.path) for entry in os.scandir(self._claimed) if entry.is_dir())]
        return sorted(Path(entry.path) for folder in folders for entry in _inputs(folder))

    def _claim(self, claimed: list[Path]) -> None:
        """Claim every file that is complete."""
        before, self._seen = self._seen, {}
        for entry in sorted(_inputs(self.folder), key=lambda entry: entry.name):
            with suppress(FileNotFoundError):  # it was taken back
                now = entry.stat(follow_symlinks=False)
                state = self._seen[entry.name] = (now.st_size, now.st_mtime_ns)
                if before.get(entry.name) == state and not _is_being_written(Path(entry.path)):
                    claimed.append(self._claim_file(Path(entry.path)))

    def _claim_file(self, path: Path) -> Path:
        claimed = self._claimed / path.name
        number = 1
        while os.path.lexists(claimed):  # a file of this name was claimed before
            number += 1
            claimed = self._claimed / str(number) / path.name
        claimed.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):  # first: a claimed file is never submitted without its settings
            path.with_name(_stem(path.name) + SETTINGS).replace(_settings_of(claimed))
        path.replace(claimed)
        return claimed

    def _finish(self, path: Path) -> None:
        """Move the input of a job that is done; a link in its place lets a retry read it again."""
        done = _free(self.folder / DONE, path.name)
        link = path.with_name(f".{path.name}.link")
        os.link(path, done)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(done, link.parent))
        link.replace(path)
        with suppress(FileNotFoundError):
            _settings_of(path).replace(_settings_of(done))

    def _refuse(self, path: Path, why: str) -> None:
        """Move a file that is not sent, with its settings, and write the reason beside it."""
        refused = _free(self.folder / REFUSED, path.name)
        refused.with_name(refused.name + ERROR).write_text(f"{why}\n", encoding="utf-8")
        for old, new in ((_settings_of(path), _settings_of(refused)), (path, refused)):
            with suppress(FileNotFoundError):
                old.replace(new)


async def _until_done(job: Job) -> None:
    """Wait until a job is done, however often it is stopped and continued meanwhile.

    Raises:
        ManagerClosed, JournalError: the manager was left before.

    """
    while True:
        try:
            await job.wait()
        except (ManagerClosed, JournalError):
            raise
        except AbatchError:
            await anyio.sleep(LOOK_EVERY)
        else:
            return


def _settings_of(path: Path) -> Path:
    return path.with_name(path.name + SETTINGS)


def _settings(path: Path) -> Settings:
    """Read the settings of a claimed file.

    Raises:
        ConfigError: they cannot be used.

    """
    shown = _stem(path.name) + SETTINGS
    names = Settings.__struct_fields__
    try:
        table = tomllib.loads(_settings_of(path).read_text(encoding="utf-8"))
        for unknown in table.keys() - set(names):
            near = difflib.get_close_matches(unknown, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"it may hold {' and '.join(names)}"
            raise ConfigError(f"{shown} holds the unknown name {unknown!r}; {hint}")
        return msgspec.convert(table, Settings)
    except FileNotFoundError:
        return Settings()
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as invalid:
        raise ConfigError(f"{shown} cannot be used: {invalid}") from invalid


def _inputs(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the regular files of a folder that may be inputs; links are left alone."""
    with os.scandir(folder) as entries:
        for entry in entries:
            named = entry.name.endswith(SUFFIXES) and not entry.name.startswith(".")
            if named and entry.is_file(follow_symlinks=False):
                yield entry


def _stem(name: str) -> str:
    return name[: name.rindex(".jsonl")]


def _free(folder: Path, name: str) -> Path:
    """Return a path of this name, or with a number before its suffix, that does not exist."""
    stem, number = _stem(name), 1
    path = folder / name
    while os.path.lexists(path):
        number += 1
        path = folder / f"{stem}-{number}{name[len(stem) :]}"
    return path


def _is_being_written(path: Path) -> bool:
    """Return whether a process has the file open for writing, as far as the system knows: on Linux, local files.

    The kernel refuses a read lease on such a file. Elsewhere a file counts as complete when its size and time were the
    same in two looks.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # ignored by default; SIGIO would end the process
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as refused:
        if refused.errno == errno.EAGAIN:
            return True
        if refused.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
    return False
