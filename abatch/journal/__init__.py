"""What survives a crash: the log of facts, the files beside it, and every job and shard as the facts leave it."""
