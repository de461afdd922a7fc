"""A joint, case-insensitive Korean and English byte-level BPE.

Reference: Ko & Gu 2022 (arXiv:2203.14463): joint lower-cased BPE, `[PAD]` = 0, start and end tokens at the two
highest ids, captions cut so that the end token stays. Whether it is byte-level is unpublished; ours is, so that no
input is ever unknown.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from data_modules.errors import DataError
from data_modules.sources.paths import resolve_path

PAD, START, END = "[PAD]", "[SOT]", "[EOT]"


@dataclass(kw_only=True, slots=True)
class TokenizerConfig:
    """The tokenizer of a run."""

    vocab_size: int = 4000
    """Largest vocabulary (paper: 98,818); a small corpus may give fewer tokens."""
    context_length: int = 32
    """Longest caption in tokens, start and end included (paper: 77)."""
    file: str | None = None
    """A `tokenizer.json` to use; none: trained on the run's own training captions."""

    def __post_init__(self) -> None:
        if self.vocab_size < 259:
            raise ValueError(f"vocab_size = {self.vocab_size} must hold 256 bytes and 3 special tokens: at least 259")
        if self.context_length < 3:
            raise ValueError(f"context_length = {self.context_length} must hold start, one token and end: at least 3")


class BilingualTokenizer:
    """Captions to token ids: start, text, end, then padding."""

    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        self._tokenizer = tokenizer
        self.context_length = context_length
        self.pad_id = self._special(PAD)
        self.sot_id = self._special(START)
        self.eot_id = self._special(END)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}", special_tokens=[(START, self.sot_id), (END, self.eot_id)]
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
        """
        batch = [texts] if isinstance(texts, str) else list(texts)
        limit = min(context_length or self.context_length, self.context_length)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(batch)]
        ids = [row if len(row) <= limit else [*row[: limit - 1], self.eot_id] for row in ids]
        width = context_length or max((len(row) for row in ids), default=0)
        tokens = np.full((len(ids), width), self.pad_id, dtype=np.int64)
        for row, row_ids in zip(tokens, ids, strict=True):
            row[: len(row_ids)] = row_ids
        return torch.from_numpy(tokens)

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
        if not path.is_file():
            raise DataError(f"tokenizer file {path} does not exist; give an existing tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception on a malformed file
            raise DataError(f"{path} is not a tokenizer file: {error}") from error
        return cls(tokenizer, context_length)


def train_tokenizer(texts: Iterable[str], vocab_size: int, context_length: int) -> BilingualTokenizer:
    """A tokenizer trained on the texts; the same texts in the same order give the same tokenizer.

    Args:
        texts: Training captions, each used as often as it comes.
        vocab_size: Largest vocabulary, special tokens included, >= 259.
        context_length: Longest caption in tokens, start and end included.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = Tokenizer(models.BPE())
    # Lower-casing can decompose a letter, hence NFC on both sides of it.
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
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
