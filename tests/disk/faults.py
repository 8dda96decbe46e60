"""A disk that fails from the nth effect of a run on, by the kernel's own hand and without installing anything.

A seccomp filter, put over all threads of the run at a place of `tests.harness.places`, lets chosen system calls fail
with ENOSPC or EIO, also those of SQLite, which no patch in Python reaches. Standard streams and sockets go on. A
*short* disk is RLIMIT_FSIZE: a write that crosses the limit is cut there, and the next one fails.

What the kernel refuses once it refuses for ever: a failing disk does not come back under a running process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from tests.harness.processes import Deed

EFFECTS = tuple(
    f"before {effect}"
    for effect in ("COMMIT", "fsync", "rename", "link", "unlink", "copy_file_range", "claim", "sqlite", "SpoolWriter",
                   "Planner._fill", "_Sink", "_write_new", "SqliteLog._open", "SqliteLog._add_job")
)  # fmt: skip
"""Places before what touches the disk."""
AGAIN = b"the journal was written again after it had failed\n"

_NUMBERS = {
    # write, pwrite64, writev, ftruncate, fsync, fdatasync, copy_file_range, link, linkat, rename, renameat, renameat2,
    # openat, seccomp
    "x86_64": (1, 18, 20, 77, 74, 75, 326, 86, 265, 82, 264, 316, 257, 317),
    "aarch64": (64, 68, 66, 46, 82, 83, 285, None, 37, None, 38, 276, 56, 277),
}
_NAMES = ("write", "pwrite64", "writev", "ftruncate", "fsync", "fdatasync", "copy_file_range", "link", "linkat",
          "rename", "renameat", "renameat2", "openat", "seccomp")  # fmt: skip


class Fault(Enum):
    """What fails, and how."""

    FULL = "disk full", errno.ENOSPC, ("write", "pwrite64", "writev", "ftruncate", "copy_file_range", "openat")
    BROKEN = "writes fail", errno.EIO, ("write", "pwrite64", "writev", "copy_file_range")
    UNSYNCED = "fsync fails", errno.EIO, ("fsync", "fdatasync")
    NAMELESS = "no new names", errno.EIO, ("link", "linkat", "rename", "renameat", "renameat2", "openat")

    def __init__(self, label: str, code: int, calls: Sequence[str]) -> None:
        self.label, self.code, self.calls = label, code, calls

    @property
    def ends_journal(self) -> bool:
        """Whether the next transaction of the journal meets it."""
        return self is not Fault.NAMELESS


@dataclass(frozen=True)
class FailAt(Deed):
    """The disk fails from the nth effect on."""

    fault: Fault
    number: int

    _seen: Counter[str] = field(default_factory=Counter, compare=False)
    """In the child."""

    def at(self, place: str, nth: int, total: int) -> None:
        if self._seen["failing"] and place == "before COMMIT":
            self._seen["commits"] += 1
            if self.fault.ends_journal and self._seen["commits"] > self._seen["allowed"]:
                os.write(2, AGAIN)
        if not place.startswith(EFFECTS):
            return
        self._seen["effects"] += 1
        if self._seen["effects"] == self.number:
            try:
                let_fail(self.fault)
            except Exception as failure:  # noqa: BLE001 - it must not be taken for a fault of the disk
                os.write(2, f"no fault can be made: {failure!r}\n".encode())
                os._exit(99)
            self._seen["failing"] = 1
            self._seen["allowed"] = int(place != "before COMMIT")  # that one fails; no other is tried

    def __str__(self) -> str:
        return f"{self.fault.label} from effect {self.number} on"


@dataclass(frozen=True)
class ShortOf(Deed):
    """No file grows beyond so many bytes: a write is cut there, and then refused."""

    size: int

    def prepare(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))

    def __str__(self) -> str:
        return f"no file beyond {self.size} bytes"


# ---- the filter -----------------------------------------------------------------------------------------------

_LOAD, _IS, _MORE, _HAS, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARGUMENTS = 0, 16
_STDERR = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def let_fail(fault: Fault) -> None:
    """From now on these calls fail in every thread of this process.

    Raises:
        OSError: the kernel takes no filter.

    """
    numbers = dict(zip(_NAMES, _NUMBERS[platform.machine()], strict=True))
    steps: list[bytes] = []
    for name in fault.calls:
        number = numbers[name]
        if number is None:
            continue
        conditions: list[bytes] = []
        if name in ("write", "writev"):  # standard streams are not the disk
            conditions = [_step(_LOAD, _ARGUMENTS), _step(_MORE, _STDERR, 0, 1)]
        if name == "openat":  # only what makes a file
            conditions = [_step(_LOAD, _ARGUMENTS + 16), _step(_HAS, os.O_CREAT, 0, 1)]
        steps += [_step(_LOAD, _NUMBER), _step(_IS, number, 0, len(conditions) + 1), *conditions]
        steps.append(_step(_RETURN, _ERRNO | fault.code))
    steps.append(_step(_RETURN, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(steps))
    program = _Program(len(steps), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter, all_threads = 38, 1, 1
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.syscall(
        numbers["seccomp"], set_filter, all_threads, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter")


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
