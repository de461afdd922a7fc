"""Settings of captions and tokenizer: values that are refused."""

from typing import Any

import pytest

from data_modules.text.config import CaptionConfig, TokenizerConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": 0.5}, "must sum to 1, not 0.5"),
        ({"name": 1.5, "keywords": -0.5}, "name = 1.5 must be in"),
        ({"min_keywords": 0}, "min_keywords = 0 must be at least 1"),
        ({"min_keywords": 6, "max_keywords": 5}, "min_keywords = 6 must not exceed max_keywords = 5"),
        ({"plain": 1.2}, "plain = 1.2 must be in"),
    ],
)
def test_caption_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptionConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"), [({"vocab_size": 258}, "vocab_size = 258"), ({"context_length": 2}, "context_length = 2")]
)
def test_tokenizer_config__bad_values(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**options)
