"""Claims of speed and memory, each measured as a ratio or a bound in one run; `python -m benchmarks` runs them all."""
