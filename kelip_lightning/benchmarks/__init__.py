"""Benchmarks: measurements that anyone can repeat, as JSON and one plot each; nothing here decides about a model."""
