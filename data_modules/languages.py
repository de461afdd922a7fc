"""The languages of captions."""

LANGUAGES: tuple[str, ...] = ("ko", "en")
"""Language codes; a language's position here is its index in `ImageTextBatch.languages`."""
