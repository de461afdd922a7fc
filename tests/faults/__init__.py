"""Runs that are killed, starved, stopped or poisoned on purpose."""
