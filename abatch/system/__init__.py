"""Blocking work, names on disk and lifetimes: what the operating system offers, for the rest of the package."""
