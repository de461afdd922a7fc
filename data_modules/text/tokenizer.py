"""A joint, case-insensitive Korean and English byte-level BPE.

Reference: Ko & Gu 2022 (arXiv:2203.14463): joint lower-cased BPE, `[PAD]` = 0, start and end tokens at the two
highest ids, captions cut so that the end token stays. Whether it is byte-level is unpublished; ours is, so that no
input is ever unknown.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from data_modules.config_roles import at_least, check_ranges
from data_modules.errors import DataError
from data_modules.paths import resolve_path
from data_modules.text.normalizer import caption_normalizer

PAD, START, END = "[PAD]", "[SOT]", "[EOT]"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """The tokens that no text gives."""

    pad: str = PAD
    start: str = START
    end: str = END


KNOWN_SPECIALS = (
    SpecialTokens(),
    SpecialTokens(pad="<pad>", start="<s>", end="</s>"),
    SpecialTokens(pad="<|endoftext|>", start="<|startoftext|>", end="<|endoftext|>"),
)
"""Ours and the official KELIP's, XLM-R's, OpenAI CLIP's."""


@dataclass(kw_only=True, slots=True)
class TokenizerConfig:
    """The tokenizer of a run."""

    vocab_size: int = field(default=4000, metadata=at_least(259, "256 bytes and 3 special tokens"))
    """Largest vocabulary (paper: 98,818); a small corpus may give fewer tokens."""
    context_length: int = field(default=32, metadata=at_least(3, "start, one token and end"))
    """Longest caption in tokens, start and end included (paper: 77)."""
    file: str | None = None
    """A `tokenizer.json` to use, copied into the run; none: trained on the run's own training captions."""
    max_training_pairs: int = field(default=2_000_000, metadata=at_least(1))
    """Of a larger pair set, every n-th row of each source trains the tokenizer, so that they are at most about this."""

    def __post_init__(self) -> None:
        check_ranges(self)


class BilingualTokenizer:
    """Captions to token ids: start, text, end, then padding.

    Args:
        tokenizer: Any of the `tokenizers` library that has the special tokens; it becomes this object's own.
        context_length: Longest caption in tokens, start and end included.
        specials: Names of its special tokens; none: the first of the known ones that it has.
        lowercase: Whether texts are lower-cased first, for a tokenizer that does not do it itself.

    Raises:
        DataError: The tokenizer lacks a special token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context_length: int,
        specials: SpecialTokens | None = None,
        *,
        lowercase: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._lowercase = lowercase
        self.context_length = context_length
        self.specials = specials or _known_specials(tokenizer)
        self.pad_id = self._special(self.specials.pad)
        self.sot_id = self._special(self.specials.start)
        self.eot_id = self._special(self.specials.end)
        start, end = self.specials.start, self.specials.end
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}", special_tokens=[(start, self.sot_id), (end, self.eot_id)]
        )
        tokenizer.enable_truncation(max_length=context_length)
        tokenizer.no_padding()
        # A caption that spells a special token is text; not kept in the file, hence set on every start.
        tokenizer.encode_special_tokens = True

    def _special(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise DataError(f"the tokenizer has no {token} token; use one trained by this suite")
        return int(token_id)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        """Token ids of one or more texts.

        Args:
            texts: A text or a list of N texts.
            context_length: Width of the result; none: the longest text's.

        Returns:
            int64 (N, T). Text beyond the context length is cut; the end token stays.

        Raises:
            DataError: Something is no text, or the context length has no room for start and end.
        """
        batch = _checked_texts(texts)
        if context_length is not None and context_length < 2:
            raise DataError(f"context_length = {context_length} must hold start and end: at least 2")
        if self._lowercase:
            batch = [text.lower() for text in batch]
        limit = min(context_length or self.context_length, self.context_length)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(batch)]
        ids = [row if len(row) <= limit else [*row[: limit - 1], self.eot_id] for row in ids]
        width = context_length or max((len(row) for row in ids), default=0)
        tokens = np.full((len(ids), width), self.pad_id, dtype=np.int64)
        for row, row_ids in zip(tokens, ids, strict=True):
            row[: len(row_ids)] = row_ids
        return torch.from_numpy(tokens)

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Number of tokens of each text, start and end not counted, nothing cut."""
        self._tokenizer.no_truncation()
        try:
            encodings = self._tokenizer.encode_batch_fast(_checked_texts(texts), add_special_tokens=False)
        finally:
            self._tokenizer.enable_truncation(max_length=self.context_length)
        return [len(one.ids) for one in encodings]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def to_json(self) -> str:
        """The tokenizer as the text of a `tokenizers` JSON file."""
        return str(self._tokenizer.to_str(pretty=True))

    @classmethod
    def from_file(cls, path: Path, context_length: int) -> "BilingualTokenizer":
        """Read a `tokenizers` JSON file.

        Raises:
            DataError: The file is missing or no tokenizer.
        """
        return cls(read_tokenizer_file(path), context_length)


def read_tokenizer_file(path: Path) -> Tokenizer:
    """The content of a `tokenizers` JSON file.

    Raises:
        DataError: The file is missing or no tokenizer.
    """
    if not path.is_file():
        raise DataError(f"tokenizer file {path} does not exist; give an existing tokenizer.json")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception on a malformed file
        raise DataError(f"{path} is not a tokenizer file: {error}") from error


def _checked_texts(texts: object) -> list[str]:
    batch = [texts] if isinstance(texts, str) else texts
    if not isinstance(batch, list | tuple):
        raise DataError(f"texts must be a text or a list of texts, not {type(texts).__name__}")
    for place, text in enumerate(batch):
        if not isinstance(text, str):
            raise DataError(f"texts[{place}] = {text!r:.60} is {type(text).__name__}, not a text; give strings")
    return list(batch)


def _known_specials(tokenizer: Tokenizer) -> SpecialTokens:
    """The first known set of special tokens that a tokenizer has in full; ours, if it has none."""
    for known in KNOWN_SPECIALS:
        if None not in map(tokenizer.token_to_id, (known.pad, known.start, known.end)):
            return known
    return SpecialTokens()


def train_tokenizer(texts: Iterable[str], vocab_size: int, context_length: int) -> BilingualTokenizer:
    """A tokenizer trained on the texts; the same texts in the same order give the same tokenizer.

    Args:
        texts: Training captions, each used as often as it comes.
        vocab_size: Largest vocabulary, special tokens included, >= 259.
        context_length: Longest caption in tokens, start and end included.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = caption_normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        special_tokens=[PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([START, END])
    return BilingualTokenizer(tokenizer, context_length)


def build_tokenizer(config: TokenizerConfig, captions: Iterable[str]) -> BilingualTokenizer:
    """The configured tokenizer: read from its file, or trained on the captions."""
    if config.file is not None:
        return BilingualTokenizer.from_file(resolve_path(config.file), config.context_length)
    return train_tokenizer(captions, config.vocab_size, config.context_length)
