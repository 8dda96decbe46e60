"""Results in a SQLite database: a row per request in `results`, there as soon as it came.

One connection per database and event loop serves all its jobs, in short transactions, so that many drains, jobs and
processes take turns. A unit of work has the connection for itself and runs to its end in a task of its own: all or
nothing, and whoever is cancelled or closed leaves nothing of it behind for the others. Connections are made when there
is work, and few stay open (`OPEN`), however many databases there are, because each has a thread. The primary key
`(job, custom_id)` with `ON CONFLICT DO NOTHING` makes every repetition harmless; the seal of a shard is a row of
`abatch_shards` in the transaction of its last lines. Several jobs may share a database, each under its key.

`result` is the JSON text of the API's `result` object, cut from the line, never written anew: numbers, spaces
and escapes stand as they came.
"""

from abatch_backends.sqlite.backend import open_

__all__ = ["open_"]
