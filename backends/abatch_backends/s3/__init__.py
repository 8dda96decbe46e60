"""Results in S3, or what speaks like it: one object per shard under `<prefix>/<job key>/`.

A shard below 5 MiB is one conditional put; a larger one is a multipart upload of parts of one size, which some stores
ask for, completed conditionally. Either is the seal: the object is there, whole, or it is not, and it never
replaces another. It carries lineage and shard number as metadata, so an answer that was lost is settled by
looking: *is it there, and ours?* `_abatch.json` is the claim; `_manifest.json` and `_SUCCESS` come last.

One client per endpoint and credentials serves all jobs of an event loop; it is made for the first of them and closed
with the last. Each call takes a connection of its own, so what is cancelled in one job is not felt in another.

Lines that were sent are not kept: whatever makes an upload begin anew is an error of the sink, and the shard
is drained again. What a run that died left half uploaded is aborted by the next one.
"""

from abatch_backends.s3.backend import open_

__all__ = ["open_"]
