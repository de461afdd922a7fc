"""Errors of the data path."""


class DataError(ValueError):
    """Data or a data setting is unusable; the message names the file or key, the rule and the remedy."""
