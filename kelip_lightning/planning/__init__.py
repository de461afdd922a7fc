"""What an experiment costs before it runs: FLOPs, memory, time and disk; nothing is executed on data."""
