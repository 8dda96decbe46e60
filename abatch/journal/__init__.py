"""The state that survives a crash: the log of facts, the other files of a journal, and the jobs and shards."""
