"""A joint, case-insensitive Korean and English byte-level BPE, as an object, a file and a Hugging Face folder.

Reference: Ko & Gu 2022 (arXiv:2203.14463): joint lower-cased BPE, `[PAD]` = 0, start and end tokens at the two
highest ids, captions truncated before the end token. Whether it is byte-level is unpublished; here it is, so that no
input is out of vocabulary.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from data_modules.errors import DataError
from data_modules.paths import resolve_path
from data_modules.text.config import TokenizerConfig
from data_modules.text.normalization import (
    NORMALIZATION,
    caption_normalizer,
    straight_text_normalizer,
    straighten,
    version_of,
)

TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
PAD, START, END = "[PAD]", "[SOT]", "[EOT]"


class SpecialTokens(NamedTuple):
    """Names of the special tokens."""

    pad: str = PAD
    start: str = START
    end: str = END


KNOWN_SPECIALS = (
    SpecialTokens(),
    SpecialTokens("<pad>", "<s>", "</s>"),
    SpecialTokens("<|endoftext|>", "<|startoftext|>", "<|endoftext|>"),
)
"""Of this package and the official KELIP, of XLM-R, of OpenAI CLIP."""


class BilingualTokenizer:
    """Captions to token ids: start, text, end, then padding.

    Args:
        tokenizer: A tokenizer of the `tokenizers` library with the special tokens; it is modified.
        context_length: Maximum caption length in tokens, start and end included.
        specials: Names of its special tokens; `None`: those that its file states, by its padding and its template,
            else the first of `KNOWN_SPECIALS` that it has.
        lowercase: Lower-case texts first, for another library's tokenizer that does not; the step becomes part of the
            file.

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
        self._tokenizer, self.context_length = tokenizer, context_length
        known = (one for one in KNOWN_SPECIALS if None not in map(tokenizer.token_to_id, one))
        usual = next(known, SpecialTokens())
        self.specials = specials or _stated_specials(tokenizer) or usual
        self._states_specials = self.specials != usual
        """Whether the file states the special tokens, since they are not those that would be assumed."""
        self.pad_id, self.sot_id, self.eot_id = map(self._special, self.specials)
        _, start, end = self.specials
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}", special_tokens=[(start, self.sot_id), (end, self.eot_id)]
        )
        tokenizer.enable_truncation(max_length=context_length)
        tokenizer.no_padding()
        # A special token's name in a caption is text; the file does not store this setting.
        tokenizer.encode_special_tokens = True
        if lowercase and version_of(tokenizer.normalizer) is None:
            tokenizer.normalizer = _after_lower_case(tokenizer.normalizer)
        self.normalization = version_of(tokenizer.normalizer)
        """Version of its caption normalisation; `None`: another library's."""
        if self.normalization == NORMALIZATION:
            # `straighten` takes less than a hundredth of the time of the file's steps, one per character.
            tokenizer.normalizer = straight_text_normalizer()

    def _special(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise DataError(f"the tokenizer has no {token} token; use one trained by this package")
        return int(token_id)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        """Tokenize one or more texts.

        Args:
            texts: A text or a list of N texts.
            context_length: Width of the result; `None`: that of the longest text.

        Returns:
            Token ids, int64 (N, T). Longer texts are truncated before the end token.

        Raises:
            DataError: An entry is not a text, or the context length is too short for start and end.
        """
        batch = self._prepared(texts)
        if context_length is not None and context_length < 2:
            raise DataError(f"context_length = {context_length} must hold start and end: at least 2")
        limit = min(context_length or self.context_length, self.context_length)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(batch)]
        ids = [row if len(row) <= limit else [*row[: limit - 1], self.eot_id] for row in ids]
        width = context_length or max((len(row) for row in ids), default=0)
        tokens = np.full((len(ids), width), self.pad_id, dtype=np.int64)
        for row, row_ids in zip(tokens, ids, strict=True):
            row[: len(row_ids)] = row_ids
        return torch.from_numpy(tokens)

    def count_encoded(self, tokens: Tensor) -> list[int]:
        """Tokens of each encoded text, start and end included; `tokens` as from `encode`."""
        counts: list[int] = ((tokens == self.eot_id).int().argmax(dim=1) + 1).tolist()
        return counts

    def _prepared(self, texts: object) -> list[str]:
        batch = _checked_texts(texts)
        return [straighten(text) for text in batch] if self.normalization == NORMALIZATION else batch

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Number of tokens of each text without start and end, not truncated."""
        self._tokenizer.no_truncation()
        try:
            encodings = self._tokenizer.encode_batch_fast(self._prepared(texts), add_special_tokens=False)
        finally:
            self._tokenizer.enable_truncation(max_length=self.context_length)
        return [len(one.ids) for one in encodings]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def to_json(self) -> str:
        """The text of a `tokenizers` JSON file, with the whole normalisation."""
        tokenizer, own = self._tokenizer, self.normalization == NORMALIZATION
        if own:
            tokenizer.normalizer = caption_normalizer()
        if self._states_specials:
            tokenizer.enable_padding(pad_id=self.pad_id, pad_token=self.specials.pad)
        try:
            return str(tokenizer.to_str(pretty=True))
        finally:
            tokenizer.no_padding()
            if own:
                tokenizer.normalizer = straight_text_normalizer()

    def with_context_length(self, context_length: int) -> "BilingualTokenizer":
        """The tokenizer that its file gives with this context length.

        Raises:
            DataError: Its special tokens cannot be told from the file.
        """
        copy = BilingualTokenizer(Tokenizer.from_str(self.to_json()), context_length)
        if copy.specials != self.specials:
            raise DataError(
                f"the special tokens {', '.join(self.specials)} cannot be told from {TOKENIZER}, which gives "
                f"{', '.join(copy.specials)}; give a tokenizer that encodes an empty text as start and end"
            )
        return copy

    @classmethod
    def from_file(cls, path: Path, context_length: int) -> "BilingualTokenizer":
        """Read a `tokenizers` JSON file.

        Raises:
            DataError: The file is missing or not a tokenizer.
        """
        return cls(_read_tokenizer_file(path), context_length)


def _stated_specials(tokenizer: Tokenizer) -> SpecialTokens | None:
    """The special tokens of a file with a padding and a template of start and end; `None`: of any other file."""
    if tokenizer.padding is None:
        return None
    pad, ends = str(tokenizer.padding["pad_token"]), tokenizer.encode("").tokens
    ends = [token for token in ends if token != pad] if len(ends) > 2 else ends
    return SpecialTokens(pad, *ends) if len(ends) == 2 else None


def _after_lower_case(normalizer: normalizers.Normalizer | None) -> normalizers.Normalizer:
    """Deviation: a capital sigma at the end of a word becomes σ, not ς as in Python's `str.lower`."""
    return normalizers.Sequence([normalizers.Lowercase(), *([] if normalizer is None else [normalizer])])


def _read_tokenizer_file(path: Path) -> Tokenizer:
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
    for index, text in enumerate(batch):
        if not isinstance(text, str):
            raise DataError(f"texts[{index}] = {text!r:.60} is {type(text).__name__}, not a text; give strings")
    return list(batch)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, context_length: int, normalization: int = NORMALIZATION
) -> BilingualTokenizer:
    """Train a tokenizer of at most `vocab_size` >= 259 tokens; the same texts in the same order give the same one."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = caption_normalizer(1) if normalization == 1 else straight_text_normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        special_tokens=[PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts if normalization == 1 else map(straighten, texts), trainer)
    tokenizer.normalizer = caption_normalizer(normalization)
    tokenizer.add_special_tokens([START, END])
    return BilingualTokenizer(tokenizer, context_length)


def build_tokenizer(
    config: TokenizerConfig, captions: Iterable[str], normalization: int = NORMALIZATION
) -> BilingualTokenizer:
    """The configured tokenizer: read from its file, or trained on the captions with this version of normalisation."""
    if config.file is not None:
        return BilingualTokenizer.from_file(resolve_path(config.file), config.context_length)
    return train_tokenizer(captions, config.vocab_size, config.context_length, normalization)


def tokenizer_files(tokenizer: BilingualTokenizer) -> dict[str, str]:
    """File name -> text of a Hugging Face folder.

    `transformers.PreTrainedTokenizerFast` and open_clip's `HFTokenizer` read it and give the same ids.
    """
    specials = tokenizer.specials
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": specials.pad,
        "bos_token": specials.start,
        "eos_token": specials.end,
        "model_max_length": tokenizer.context_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "split_special_tokens": True,  # a special token's name in a caption is text
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        "truncation_side": "right",
    }
    return {TOKENIZER: tokenizer.to_json(), TOKENIZER_CONFIG: json.dumps(settings, indent=2, ensure_ascii=False) + "\n"}


def write_tokenizer_folder(folder: Path, tokenizer: BilingualTokenizer) -> None:
    """Write the tokenizer as a Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in tokenizer_files(tokenizer).items():
        (folder / name).write_text(text, encoding="utf-8")


def read_tokenizer_folder(
    folder: Path, context_length: int | None = None, *, lowercase: bool = False
) -> BilingualTokenizer:
    """Read a Hugging Face folder: tokenizer.json, and optionally tokenizer_config.json and special_tokens_map.json.

    Args:
        folder: The folder.
        context_length: Maximum caption length in tokens; `None`: the folder's model_max_length.
        lowercase: Lower-case texts first, as the official KELIP's tokenizer requires.

    Raises:
        DataError: A file is missing or damaged, or a special token or the maximum length is missing.
    """
    return read_foreign_tokenizer(folder / TOKENIZER, context_length, lowercase=lowercase)


def read_foreign_tokenizer(
    file: Path, context_length: int | None = None, *, lowercase: bool = False
) -> BilingualTokenizer:
    """As `read_tokenizer_folder`, with a tokenizer file of any name; the other files are looked for beside it."""
    tokenizer = _read_tokenizer_file(file)
    settings = _read_settings(file.with_name(SPECIAL_TOKENS)) | _read_settings(file.with_name(TOKENIZER_CONFIG))
    length = context_length if context_length is not None else settings.get("model_max_length")
    if not isinstance(length, int):
        raise DataError(f"{file.with_name(TOKENIZER_CONFIG)} gives no model_max_length; set the context length")
    try:
        return BilingualTokenizer(tokenizer, length, _specials(settings), lowercase=lowercase)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise DataError(f"{file} must hold a mapping")
    return settings


def _specials(settings: dict[str, Any]) -> SpecialTokens | None:
    """The special tokens of the settings; `None` unless there are all three."""
    names: list[Any] = [settings.get(key) for key in ("pad_token", "bos_token", "eos_token")]
    names = [name.get("content") if isinstance(name, dict) else name for name in names]
    return SpecialTokens(*names) if all(isinstance(name, str) for name in names) else None
