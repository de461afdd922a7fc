"""Checks of the source itself that no linter makes."""
