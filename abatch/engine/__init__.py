"""What acts: the client of the API, one runner per job, one driver per shard, one watcher per scope, and the drain."""
