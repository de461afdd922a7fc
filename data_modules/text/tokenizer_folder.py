"""A tokenizer as the files of a Hugging Face folder, out and in.

`transformers.PreTrainedTokenizerFast` and open_clip's `HFTokenizer` read what is written here and give the same ids.
"""

import json
from pathlib import Path
from typing import Any

from data_modules.errors import DataError
from data_modules.text.tokenizer import BilingualTokenizer, SpecialTokens, read_tokenizer_file

TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"


def tokenizer_files(tokenizer: BilingualTokenizer) -> dict[str, str]:
    """File name -> text of the files that make a tokenizer folder."""
    specials = tokenizer.specials
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": specials.pad,
        "bos_token": specials.start,
        "eos_token": specials.end,
        "model_max_length": tokenizer.context_length,
        "model_input_names": ["input_ids", "attention_mask"],
        # A caption that spells a special token is text.
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        "truncation_side": "right",
    }
    return {TOKENIZER: tokenizer.to_json(), TOKENIZER_CONFIG: json.dumps(settings, indent=2, ensure_ascii=False) + "\n"}


def write_tokenizer_folder(folder: Path, tokenizer: BilingualTokenizer) -> None:
    """Write the files into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in tokenizer_files(tokenizer).items():
        (folder / name).write_text(text, encoding="utf-8")


def read_tokenizer_folder(
    folder: Path, context_length: int | None = None, *, lowercase: bool = False
) -> BilingualTokenizer:
    """The tokenizer of a Hugging Face folder: tokenizer.json, and which of its tokens mean start, end and padding.

    Args:
        folder: With tokenizer.json; tokenizer_config.json and special_tokens_map.json if it has them.
        context_length: Longest caption in tokens; none: the folder's model_max_length.
        lowercase: Whether the tokenizer leaves lower-casing to its user, as the official KELIP's does.

    Raises:
        DataError: A file is missing or damaged, or a special token or the length is not to be found.
    """
    file = folder / TOKENIZER
    tokenizer = read_tokenizer_file(file)
    settings = _read_settings(folder / SPECIAL_TOKENS) | _read_settings(folder / TOKENIZER_CONFIG)
    length = context_length if context_length is not None else settings.get("model_max_length")
    if not isinstance(length, int):
        raise DataError(f"{folder / TOKENIZER_CONFIG} gives no model_max_length; say how long a caption may be")
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
    """The special tokens that the settings name; None unless they name all three."""
    names = [settings.get(key) for key in ("pad_token", "bos_token", "eos_token")]
    names = [name.get("content") if isinstance(name, dict) else name for name in names]
    if not all(isinstance(name, str) for name in names):
        return None
    pad, start, end = (str(name) for name in names)
    return SpecialTokens(pad=pad, start=start, end=end)
