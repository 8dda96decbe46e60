"""The input of jobs: requests are read, checked, cut into shards, and sealed in the spool."""
