"""The acting part: the API client, one runner per job, one driver per shard, one watcher per scope, and the drain."""
