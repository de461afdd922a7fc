"""The tokenizer as a folder that transformers and open_clip read, and folders of other tokenizers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_modules.errors import DataError
from data_modules.text.tokenizer import read_tokenizer_folder, train_tokenizer, write_tokenizer_folder

TEXTS = ["사과", "빨간 사과", "풋사과 이모지", "red apple", "green apple"] * 5
TOKENIZER = train_tokenizer(TEXTS, 300, 12)
CAPTIONS = ["빨간 사과", "Red   APPLE\n", "", "사과 " * 30, "see [EOT] &amp; [PAD]", "漢字 👩🏽‍🚀\u0000", "가각"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer_folder(tmp_path / "tokenizer", TOKENIZER)
    return tmp_path / "tokenizer"


@pytest.mark.parametrize("kind", [AutoTokenizer, PreTrainedTokenizerFast])
def test_folder__transformers_gives_the_same_ids(folder: Path, kind: Any) -> None:
    theirs = kind.from_pretrained(folder)
    batch = theirs(CAPTIONS, padding=True, truncation=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert torch.equal(batch["input_ids"], TOKENIZER.encode(CAPTIONS))
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (
        TOKENIZER.pad_id,
        TOKENIZER.sot_id,
        TOKENIZER.eot_id,
    )
    assert len(theirs) == TOKENIZER.vocab_size
    assert theirs.decode(batch["input_ids"][0], skip_special_tokens=True) == "빨간 사과"


def test_folder__transformers_can_save_it_and_ids_stay(folder: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert torch.equal(read_tokenizer_folder(tmp_path / "again").encode(CAPTIONS), TOKENIZER.encode(CAPTIONS))


def test_folder__open_clip_gives_the_same_ids(folder: Path) -> None:
    theirs = HFTokenizer(str(folder), context_length=12)
    captions = [caption for caption in CAPTIONS if "\u0000" not in caption]  # its own clean-up drops control characters
    assert torch.equal(theirs(captions), TOKENIZER.encode(captions, context_length=12))


def test_folder__comes_back(folder: Path) -> None:
    again = read_tokenizer_folder(folder)
    assert again.context_length == 12
    assert again.to_json() == TOKENIZER.to_json()
    assert read_tokenizer_folder(folder, 5).encode(CAPTIONS).shape == (len(CAPTIONS), 5)


def _foreign(folder: Path, specials: list[str], settings: dict[str, Any]) -> None:
    """A tokenizer of letters with its special tokens first, which neither lower-cases nor adds special tokens."""
    letters = [*specials, *"abcdefgh", "?"]
    tokenizer = Tokenizer(models.WordLevel({letter: place for place, letter in enumerate(letters)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(specials)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize(
    ("specials", "settings", "expected"),
    [
        (["<s>", "<pad>", "</s>"], {}, [0, 3, 4, 2, 1]),
        (["<|startoftext|>", "<|endoftext|>"], {}, [0, 2, 3, 1, 1]),
        (
            ["[CLS]", "[SEP]", "[PAD]"],
            {"bos_token": "[CLS]", "eos_token": {"content": "[SEP]"}, "pad_token": "[PAD]"},
            [0, 3, 4, 1, 2],
        ),
    ],
    ids=["xlm-r", "openai", "named in the folder"],
)
def test_read__special_tokens_of_other_tokenizers(
    tmp_path: Path, specials: list[str], settings: dict[str, Any], expected: list[int]
) -> None:
    _foreign(tmp_path / "foreign", specials, settings)
    tokenizer = read_tokenizer_folder(tmp_path / "foreign", 8)
    assert tokenizer.encode("a b", context_length=5).tolist() == [expected]


def test_read__lower_case_where_the_user_has_to(tmp_path: Path) -> None:
    _foreign(tmp_path / "foreign", ["[PAD]", "[SOT]", "[EOT]"], {"model_max_length": 8})
    assert read_tokenizer_folder(tmp_path / "foreign").encode("A b").tolist() == [[1, 11, 4, 2]]
    assert read_tokenizer_folder(tmp_path / "foreign", lowercase=True).encode("A b").tolist() == [[1, 3, 4, 2]]


def test_read__what_is_missing_or_damaged(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/tokenizer\.json does not exist"):
        read_tokenizer_folder(tmp_path / "nowhere")
    (folder / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"tokenizer_config\.json is not valid JSON"):
        read_tokenizer_folder(folder)
    (folder / "tokenizer_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="must hold a mapping"):
        read_tokenizer_folder(folder)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(DataError, match="gives no model_max_length"):
        read_tokenizer_folder(folder)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="is not a tokenizer file"):
        read_tokenizer_folder(folder, 12)


def test_read__special_tokens_that_are_not_there(tmp_path: Path) -> None:
    _foreign(tmp_path / "foreign", ["<unk>"], {"model_max_length": 8})
    with pytest.raises(DataError, match=r"foreign/tokenizer\.json: the tokenizer has no \[PAD\] token"):
        read_tokenizer_folder(tmp_path / "foreign")
