"""Access to the operating system for the rest of the package: blocking work, names on disk, and lifetimes."""
