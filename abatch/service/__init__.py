"""The service: one process that drives a journal for others, and takes work from outside of it."""
