"""The command line: `abatch run`, `status`, `results`, `cancel`, `retry`, `resolve`, `id`, `estimate`, `sandbox`.

Messages, the progress bar and logs go to stderr; results and JSON go to stdout. Nothing here is imported by the
rest of abatch, and everything a command does can be done with the public API.
"""
