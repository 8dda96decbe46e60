"""Every error that abatch raises: each carries its facts as attributes, and its text says what to do.

    AbatchError
    ├── ConfigError (also a ValueError)   a setting, key or destination that cannot work
    │   ├── BackendNotFound               no backend is registered for this URL
    │   ├── BackendUnavailable            its package is not installed
    │   └── JobNotFound (a LookupError)   the journal has no job with this key
    ├── BadRequest                        a request that must be changed before it can be sent
    ├── BadAnswer (also a ValueError)     an answer that `Result.parse` cannot parse
    ├── JobConflict                       this key already names another job
    ├── RequestConflict                   an open job has another request with this custom_id
    ├── InboxClosed                       the job takes no further requests
    ├── RequestNotFound                   no request with this custom_id was put
    ├── NoResult                          a request of an open job ended without a result
    ├── JobStopped                        the job cannot continue until an operator acts
    │   └── LimitReached                  the requests that its limit allows are done
    ├── ManagerClosed                     the manager was left while a task waited for the job
    ├── StillInDoubt                      shards wait for an operator's decision
    ├── JobFailed                         raised only by `wait(check=True)`
    ├── BackendError                      the storage refused or failed
    │   └── TooManyOpenFiles              no descriptor was left; temporary
    ├── ApiError                          a call to the API failed; translated once, in client.py
    ├── JournalError                      the journal cannot be written or read
    │   ├── JournalLocked                 another process drives it
    │   ├── JournalCorrupt                its content is not what abatch wrote
    │   └── IllegalTransition             a fact that its state does not allow
    ├── Overtaken                         another process appended to the journal first
    ├── SpoolDamaged                      a spool file is not the one that was sealed
    ├── SpoolUnusable                     the disk under the spool failed
    └── LineTooLong                       a line of the input or of results is longer than 64 MiB

The last four are raised and caught inside the engine: a job that they end is stopped, with a remedy. A failed request
is not an exception: it is counted in the job's summary and has its line in the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from abatch.result import Summary

__all__ = [
    "AbatchError",
    "ApiError",
    "BackendError",
    "BackendNotFound",
    "BackendUnavailable",
    "BadAnswer",
    "BadRequest",
    "ConfigError",
    "IllegalTransition",
    "InboxClosed",
    "JobConflict",
    "JobFailed",
    "JobNotFound",
    "JobStopped",
    "JournalCorrupt",
    "JournalError",
    "JournalLocked",
    "LimitReached",
    "LineTooLong",
    "ManagerClosed",
    "NoResult",
    "Overtaken",
    "RequestConflict",
    "RequestNotFound",
    "SpoolDamaged",
    "SpoolUnusable",
    "StillInDoubt",
    "TooManyOpenFiles",
]


KEYS_SHOWN: Final = 20
"""Keys of jobs that the text of JobNotFound lists."""


class AbatchError(Exception):
    """The base class of every error that abatch raises on purpose."""


class ConfigError(AbatchError, ValueError):
    """A setting, job key or destination that cannot work; nothing was sent."""


class BackendNotFound(ConfigError):
    """No backend is registered for the destination's scheme."""

    def __init__(self, url: str, forms: Sequence[str]) -> None:
        super().__init__(url, forms)
        self.url = url
        self.forms = tuple(forms)

    def __str__(self) -> str:
        return f"no backend accepts {self.url!r}; use one of these forms: {', '.join(self.forms)}"


class BackendUnavailable(ConfigError):
    """The backend exists, but a package that it needs is not installed."""

    def __init__(self, url: str, extra: str) -> None:
        super().__init__(url, extra)
        self.url = url
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.url} needs packages that are not installed: pip install 'abatch[{self.extra}]'"


class JobNotFound(ConfigError, LookupError):
    """The journal has no job with this key."""

    def __init__(self, journal: Path, key: str, known: Sequence[str] = ()) -> None:
        super().__init__(journal, key, known)
        self.journal = journal
        self.key = key
        self.known = tuple(known)
        """The keys of the jobs that the journal has."""

    def __str__(self) -> str:
        shown = ", ".join(self.known[:KEYS_SHOWN]) or "none"
        more = len(self.known) - KEYS_SHOWN
        others = f", and {more:,} more" if more > 0 else ""
        advice = "Use one of these keys, or name another journal." if self.known else "Name another journal."
        return f"journal {self.journal} has no job {self.key!r}; it has: {shown}{others}. {advice}"


@dataclass(frozen=True, slots=True)
class Alike:
    """Problems of one kind."""

    count: int
    """The number of requests with this problem."""
    examples: tuple[BadRequest, ...]
    """The first three of them."""

    def __str__(self) -> str:
        first, *_ = self.examples
        if self.count == 1:
            return first.describe()
        more = ", …" if self.count > len(self.examples) else ""
        if all(each.why == first.why for each in self.examples):
            return f"{self.count:,} lines: {first.why}: {', '.join(each.place() for each in self.examples)}{more}"
        return f"{self.count:,} lines: {'; '.join(each.describe() for each in self.examples)}{more.replace(',', ';')}"


class BadRequest(AbatchError):
    """A request that must be changed before it can be sent.

    `problems` holds up to twenty of them, `alike` all of them by kind.
    """

    def __init__(
        self,
        line: int,
        custom_id: str | None,
        why: str,
        *,
        more: Sequence[BadRequest] = (),
        total: int = 1,
        alike: Sequence[Alike] = (),
        file: str | None = None,
    ) -> None:
        super().__init__(line, custom_id, why)
        self.line = line
        """The number of the line, or of the request in an iterable, from 1."""
        self.custom_id = custom_id
        self.why = why
        self.total = total
        self.file = file
        """The file of the line, if the input is several files."""
        self.unit: Literal["line", "request"] = "line"
        """What `line` counts: the lines of a file or of stdin, or the requests of an iterable."""
        self.job: str | None = None
        """The key of the job that has begun with the iterable of this request; None if no job has begun."""
        self._more = tuple(more)
        self._alike = tuple(alike)

    @property
    def problems(self) -> tuple[BadRequest, ...]:
        """This problem and the others that were found with it, at most twenty, in the order of the input."""
        return (self, *self._more)

    @property
    def alike(self) -> tuple[Alike, ...]:
        """The problems by kind: the number of requests with each, and the first three of them."""
        return self._alike or tuple(Alike(1, (problem,)) for problem in self.problems)

    def place(self) -> str:
        """Name the line or request, and the custom_id if it is known."""
        named = "" if self.custom_id is None else f" (custom_id {self.custom_id[:80]!r})"
        return f"{'' if self.file is None else f'{self.file} '}{self.unit} {self.line}{named}"

    def describe(self) -> str:
        """Describe only this problem, on one line."""
        return f"{self.place()}: {self.why}"

    def listed(self) -> str:
        """Describe all problems, a line for each kind, without what to do."""
        text = "\n".join(map(str, self.alike))
        unseen = self.total - sum(alike.count for alike in self.alike)
        return text if unseen <= 0 else f"{text}\nand {unseen} more"

    def __str__(self) -> str:
        if self.job is None:
            return self.listed()
        return (
            f"{self.listed()}\njob {self.job!r} has begun, and keeps its destination. Correct the request, then submit "
            "all requests again under this key: the job continues. Another key needs another destination"
        )


class BadAnswer(AbatchError, ValueError):
    """The answer of a request cannot be parsed as the type that was passed to `Result.parse`."""

    def __init__(self, custom_id: str, why: str) -> None:
        super().__init__(custom_id, why)
        self.custom_id = custom_id
        self.why = why

    def __str__(self) -> str:
        return f"the answer of request {self.custom_id[:80]!r} cannot be parsed: {self.why}"


Why: TypeAlias = Literal["destination", "content", "headers", "selection", "change"]
_ANOTHER_JOB = "use another key and another destination, which sends and pays for all requests"


def cancel_and_skip(key: str) -> str:
    """Return the remedy for an unfinished job whose input must change, but which cannot take a changed input."""
    return (
        f"Cancel the job with `abatch cancel {key}` (`Job.cancel()` in Python), and run the same command until it "
        "ends. Then run the new input under another key, to another "
        f"destination, with --skip-answered {key} (`skip_answered={key!r}`)."
    )


class JobConflict(AbatchError):
    """The key already names a job with other content or another destination; nothing was changed.

    `why` is the kind of difference: the `destination`, the requests (`content`), the betas, user profile or workspace
    (`headers`), or `skip_answered` (`selection`); or `change`: the job cannot take the changed input.
    """

    def __init__(
        self,
        key: str,
        difference: str,
        *,
        why: Why = "content",
        remedy: str = "",
    ) -> None:
        super().__init__(key, difference)
        self.key = key
        self.difference = difference
        self.why: Why = why
        self.names_a_way = bool(remedy)
        """Whether the remedy is specific to this conflict."""
        self.remedy = remedy or _ANOTHER_JOB

    def __str__(self) -> str:
        if self.why != "change":
            submit = f"submit what the job was started with, or {self.remedy}"
            return f"job {self.key!r} exists with {self.difference}; {submit}"
        remedy = self.remedy if self.names_a_way else f"submit what the job was started with, or {self.remedy}"
        return f"job {self.key!r} cannot take the changed input: {self.difference}. {remedy[0].upper()}{remedy[1:]}"


class RequestConflict(AbatchError):
    """An open job has a request with this custom_id and other params; nothing of the call was put."""

    def __init__(self, key: str, custom_id: str) -> None:
        super().__init__(key, custom_id)
        self.key = key
        self.custom_id = custom_id

    def __str__(self) -> str:
        return (
            f"job {self.key!r} has another request with custom_id {self.custom_id!r}; nothing of this call was put. "
            "Give the changed request another custom_id"
        )


class RequestNotFound(AbatchError):
    """No request with this custom_id was put into the open job."""

    def __init__(self, key: str, custom_id: str) -> None:
        super().__init__(key, custom_id)
        self.key = key
        self.custom_id = custom_id

    def __str__(self) -> str:
        return f"no request with custom_id {self.custom_id!r} was put into job {self.key!r}"


class NoResult(AbatchError):
    """A request ended without a result, and `reason` is why; it was not answered, or its answer is lost."""

    def __init__(self, key: str, custom_id: str, reason: str) -> None:
        super().__init__(key, custom_id, reason)
        self.key = key
        self.custom_id = custom_id
        self.reason = reason

    def __str__(self) -> str:
        return f"request {self.custom_id!r} of job {self.key!r} has no result: {self.reason}"


class InboxClosed(AbatchError):
    """The job takes no further requests: it was closed or cancelled, or it is not an open job."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"job {self.key!r} takes no further requests; put them into another open job"


CORRECT_FILE: Final = (
    "Correct what the message names in the input, then run the same command again with --changed-input "
    "(`changed_input=True` in Python)."
)
"""The remedy for a job of files that stopped at a request that the API refused."""


class JobStopped(AbatchError):
    """The job cannot continue until an operator acts; submitting it again retries.

    `failing` means that its first results failed: the job continues only when `Config.failing` is `go-on`.
    """

    def __init__(self, key: str, reason: str, remedy: str, *, failing: bool = False) -> None:
        super().__init__(key, reason, remedy)
        self.key = key
        self.reason = reason
        self.remedy = remedy
        self.failing = failing

    @property
    def takes_changed_input(self) -> bool:
        """Whether the remedy is to correct the input, and submit it with `changed_input=True`."""
        return self.remedy == CORRECT_FILE

    def __str__(self) -> str:
        return f"job {self.key!r} stopped: {self.reason.removesuffix('.')}. {self.remedy}"


class LimitReached(JobStopped):
    """The requests that the job's limit allows are done, and the others are held back: the job is not finished."""

    def __init__(self, key: str, limit: int) -> None:
        super().__init__(
            key,
            f"only its first {limit:,} requests were to be sent",
            f"Submit it without a limit to send the rest; the first {limit:,} are not sent again.",
        )
        self.args = (key, limit)
        self.limit = limit


class ManagerClosed(AbatchError):
    """The manager was left while a task waited for one of its jobs, or read its results; nothing is lost."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"the manager was closed while a task waited for job {self.key!r} or read its results; nothing is lost: "
            "submit the job under the same key in the next manager, then wait for it or read its results again"
        )


class StillInDoubt(AbatchError):
    """Shards of the job are held: only an operator can determine whether they were submitted."""

    def __init__(self, key: str, held: Sequence[tuple[int, str]]) -> None:
        super().__init__(key, held)
        self.key = key
        self.held = tuple(held)

    def __str__(self) -> str:
        shards = "\n".join(f"  shard {shard}: {reason}" for shard, reason in self.held)
        return (
            f"job {self.key!r} waits for your decision on {len(self.held)} shard(s):\n{shards}\n"
            "Look for each batch in the Console, then run: abatch resolve SHARD --adopt BATCH_ID, or --not-created, "
            "or --lost"
        )


class JobFailed(AbatchError):
    """Some requests of a finished job did not succeed; raised only by `wait(check=True)`."""

    def __init__(self, summary: Summary) -> None:
        super().__init__(summary)
        self.summary = summary

    def __str__(self) -> str:
        s = self.summary
        left = "" if s.not_sent == 0 else f", and {'some' if s.not_sent is None else s.not_sent} were not sent"
        failed = f"job {s.key!r}: {s.requests - s.succeeded} of {s.requests} requests did not succeed{left}"
        return f"{failed}; `await job.failures()` groups the reasons"


class BackendError(AbatchError):
    """The storage behind a destination refused or failed; it stops its own job, not the others.

    `passes` marks a temporary failure (a server that is busy or cannot be reached): a running job then retries until
    `Config.storage_patience` is over. Without it the job ends at once.
    """

    def __init__(self, url: str, why: str, *, passes: bool = False) -> None:
        super().__init__(url, why)
        self.url = url
        self.why = why
        self.passes = passes

    def __str__(self) -> str:
        return f"{self.url}: {self.why}"


class TooManyOpenFiles(BackendError):
    """No descriptor was left to open a file or connection of a job's storage, or of its spool; this is temporary."""

    def __init__(self, url: str) -> None:
        why = "too many open files; raise the limit (`ulimit -n`), or run fewer jobs at once"
        super().__init__(url, why, passes=True)
        self.args = (url,)


class ApiError(AbatchError):
    """A call to the API failed.

    `status` is None if there was no answer; `kind` is the `error.type` of the API's envelope, None without one;
    `error_code` is the code in its details, if it has one; `retry_after` is in seconds.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int | None = None,
        kind: str | None = None,
        error_code: str | None = None,
        message: str = "",
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.status = status
        self.kind = kind
        self.error_code = error_code
        self.message = message
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        answer = "no answer" if self.status is None else f"answered {self.status}"
        kind = f" {self.kind}" if self.kind else ""
        message = f": {self.message}" if self.message else ""
        trace = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.what}: {answer}{kind}{message}{trace}"


class JournalError(AbatchError):
    """The journal cannot be written or read; the manager ends, because nothing is safe without it."""


class JournalLocked(JournalError):
    """Another process drives this journal."""

    def __init__(self, path: Path, pid: int) -> None:
        super().__init__(path, pid)
        self.path = path
        self.pid = pid

    def __str__(self) -> str:
        driver = f"process {self.pid}" if self.pid else "another process"
        return (
            f"{driver} drives this journal ({self.path}); stop it or wait until it ends, then run the same command "
            "again. A new job can also use another journal"
        )


class JournalCorrupt(JournalError):
    """The journal's content is not valid."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}; keep a copy of it, restore no backup over it, and see docs/recover.md"


class IllegalTransition(JournalError):
    """A fact that the shard's state does not allow; the journal was left as it is."""

    def __init__(self, state: object, fact: object) -> None:
        super().__init__(state, fact)
        self.state = state
        self.fact = fact

    def __str__(self) -> str:
        return (
            f"{type(self.fact).__name__} cannot follow {type(self.state).__name__}; the journal was not changed. "
            "Run again; if this error returns, report it"
        )


class Overtaken(AbatchError):
    """Another process appended a fact at this position first; read the facts again."""

    def __str__(self) -> str:
        return (
            "another process appended a fact at this position first; nothing was recorded. Read the facts again, "
            "and decide the next step from them"
        )


class SpoolDamaged(AbatchError):
    """A spool file does not match its shard's `Planned` fact; nothing of it was sent."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.reason}. Put the file back from a copy, then run again"

    @property
    def reason(self) -> str:
        """The text without the advice: the reason of a job that stops, which has its own remedy."""
        return f"spool file {self.path} {self.why}"


class SpoolUnusable(AbatchError):
    """The disk of the spool did not store a file, or did not return it."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(folder, why)
        self.folder = folder
        self.why = why

    def __str__(self) -> str:
        return f"{self.reason}. Free space on this disk or repair it, then run again"

    @property
    def reason(self) -> str:
        """The text without the advice: the reason of a job that stops, which has its own remedy."""
        return f"the spool in {self.folder} cannot be written or read ({self.why})"


class LineTooLong(AbatchError):
    """A line is longer than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit
        """The most bytes that a line may have."""

    def __str__(self) -> str:
        return f"{self.reason}, the most that abatch reads. Read this line with other tools"

    @property
    def reason(self) -> str:
        """The text without the advice: the reason of a job that stops, which has its own remedy."""
        return f"a line is longer than {self.limit} bytes"
