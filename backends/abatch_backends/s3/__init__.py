"""Results in S3 or a compatible store: one object per shard under `<prefix>/<job key>/`.

A shard below 5 MiB is one conditional put. A larger one is a multipart upload that is completed conditionally; its
parts have one size, because some stores require that. Both are the seal: the object appears completely or not at all,
and never replaces another. Its metadata holds lineage and shard number. So if an answer is lost, one look at the object
shows whether it exists and is ours. `_abatch.json` is the claim; `_manifest.json` and `_SUCCESS` are written last.

One client per endpoint and credentials serves all jobs of an event loop. It is made for the first job and closed with
the last. Each call uses a separate connection, so a cancellation in one job does not affect another.

Lines that were sent are not kept. So if an upload has to start again, the sink fails and the shard is drained again.
An unfinished upload of a run that died is aborted by the next run.
"""

from abatch_backends.s3.backend import open_

__all__ = ["open_"]
