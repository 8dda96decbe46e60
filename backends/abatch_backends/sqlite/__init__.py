"""Results in a SQLite database: one row per request in `results`, visible as soon as it is written.

One connection per database and event loop serves all its jobs in short transactions, so that many drains, jobs and
processes take turns. A unit of work has exclusive use of the connection and runs to completion in a separate task: all
or nothing. So a job that is cancelled or closed leaves no partial work behind for the others. Connections are made when
there is work, and few stay open (`OPEN`), however many databases there are, because each needs a thread. The primary
key `(job, custom_id)` with `ON CONFLICT DO NOTHING` makes every repetition harmless. The seal of a shard is a row of
`abatch_shards` in the transaction of its last lines. Several jobs may share a database, each under its key.

`result` is the JSON text of the API's `result` object, cut from the line and never serialized again: numbers, spaces
and escapes stay as they were received.
"""

from abatch_backends.sqlite.backend import open_

__all__ = ["open_"]
