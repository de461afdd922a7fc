"""Processes that train together: collectives, consensus, strategies, precision, devices."""
