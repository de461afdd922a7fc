"""Comparison of finished runs: settings that differ, whether metrics can be compared, differences with intervals."""
