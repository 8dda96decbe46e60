"""Requests on their way in: read, checked, cut into shards, and sealed in the spool."""
