"""The bilingual tokenizer: special tokens, truncation, normal forms, round trips, and folders of Hugging Face."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from ftfy.fixes import fix_character_width, fix_latin_ligatures
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_modules.errors import DataError
from data_modules.text.config import TokenizerConfig
from data_modules.text.tokenizer import (
    BilingualTokenizer,
    build_tokenizer,
    read_tokenizer_folder,
    train_tokenizer,
    write_tokenizer_folder,
)
from tests.paths import FIXTURES

TEXTS = ["사과", "빨간 사과", "풋사과 이모지", "red apple", "green apple", "사과: 과일, 빨강", "flag: South Korea"] * 5
LENGTH = 16
TOKENIZER = train_tokenizer(TEXTS, 320, LENGTH)
LONG = train_tokenizer(TEXTS, 320, 4096)
STRAIGHT_QUOTES = str.maketrans("ʼ‘’‚‛“”„‟", "'''''\"\"\"\"")
CAPTIONS = ["빨간 사과", "Red   APPLE\n", "", "사과 " * 30, "see [EOT] &amp; [PAD]", "漢字 👩🏽‍🚀\u0000", "가각"]
CAPTIONS += ["woman’s “ＢＡＧ”", "ﾡￂ　ﬁ &amp;rsquo;"]
OLDER_FILE = FIXTURES / "run_of_e16296c" / "runs" / "finished" / "contrastive" / "dual_encoder" / "tokenizer.json"
# As revision 4572106 encoded them with that file.
OLDER_IDS = {
    "woman’s “red” bo": [
        87,
        79,
        77,
        65,
        78,
        159,
        223,
        248,
        83,
        221,
        159,
        223,
        251,
        261,
        68,
        159,
        223,
        252,
        221,
        66,
        79,
    ],
    "ＡＢ１！　ﬁ": [172, 122, 224, 172, 122, 225, 172, 121, 240, 172, 121, 224, 221, 172, 106, 224],
    "ﾡￂ &rsquo;&amp;amp;": [172, 123, 95, 172, 124, 225, 221, 159, 223, 248, 6, 65, 77, 80, 27],
}


def _normalised(text: str) -> str:
    straight = fix_character_width(fix_latin_ligatures(text)).translate(STRAIGHT_QUOTES)
    nfc = unicodedata.normalize("NFC", unicodedata.normalize("NFC", straight).lower())
    return re.sub(r"\s+", " ", nfc).strip()


def test_specials__padding_first_start_and_end_last() -> None:
    assert TOKENIZER.pad_id == 0
    assert (TOKENIZER.sot_id, TOKENIZER.eot_id) == (TOKENIZER.vocab_size - 2, TOKENIZER.vocab_size - 1)
    assert 259 <= TOKENIZER.vocab_size <= 320


def test_encode__start_text_end_padding() -> None:
    tokens = TOKENIZER.encode(["사과", "빨간 사과 red apple"])
    assert tokens.dtype == torch.int64
    assert tokens[:, 0].tolist() == [TOKENIZER.sot_id] * 2
    first = tokens[0].tolist()
    end = first.index(TOKENIZER.eot_id)
    assert set(first[end + 1 :]) == {TOKENIZER.pad_id}
    assert TOKENIZER.pad_id not in first[:end]
    assert tokens[1, -1] == TOKENIZER.eot_id, "padded to the longest, no further"


def test_encode__one_text_and_no_text() -> None:
    assert torch.equal(TOKENIZER.encode("사과"), TOKENIZER.encode(["사과"]))
    assert TOKENIZER.encode([]).shape == (0, 0)
    assert TOKENIZER.encode([], context_length=7).shape == (0, 7)
    assert TOKENIZER.encode("").tolist() == [[TOKENIZER.sot_id, TOKENIZER.eot_id]]


@pytest.mark.parametrize("context_length", [3, 8, LENGTH, 40])
def test_encode__fixed_width_keeps_the_end_token(context_length: int) -> None:
    tokens = TOKENIZER.encode(["zebra " * 50, "사과"], context_length=context_length)
    assert tokens.shape == (2, context_length)
    limit = min(context_length, LENGTH)
    assert tokens[0, limit - 1] == TOKENIZER.eot_id
    assert (tokens == TOKENIZER.eot_id).sum(dim=1).tolist() == [1, 1]
    assert torch.equal(tokens[0, : limit - 1], LONG.encode("zebra " * 50)[0, : limit - 1])


def test_encode__does_not_depend_on_the_rest_of_the_batch() -> None:
    alone = TOKENIZER.encode("red apple", context_length=LENGTH)[0]
    assert torch.equal(TOKENIZER.encode(["x" * 99, "red apple", ""], context_length=LENGTH)[1], alone)


def test_encode__case_and_white_space_do_not_matter() -> None:
    expected = TOKENIZER.encode("red apple").tolist()
    for text in ("Red APPLE", "  red apple\n", "red \t\n apple", "red\u3000apple", "red\u00a0apple"):
        assert TOKENIZER.encode(text).tolist() == expected, repr(text)


def test_encode__straightens_quotes_and_widths() -> None:
    expected = TOKENIZER.encode('it\'s "red" 가').tolist()
    for text in ("it’s “red” 가", "ＩＴ＇ｓ „red‟　ﾡￂ", "it&rsquo;s &amp;ldquo;Red&#8221; 가"):
        assert TOKENIZER.encode(text).tolist() == expected, text
        assert TOKENIZER.count_tokens([text]) == [len(expected[0]) - 2]


def test_encode__names_of_special_tokens_in_a_caption_are_text() -> None:
    tokens = LONG.encode("see [EOT] and [PAD] and [SOT] now")[0].tolist()
    assert tokens.count(LONG.eot_id) == 1
    assert tokens.count(LONG.sot_id) == 1
    assert LONG.pad_id not in tokens
    assert LONG.decode(tokens) == "see [eot] and [pad] and [sot] now"


@pytest.mark.parametrize("text", ["🍎", "👩🏽‍🚀", "漢字", "ㄱㅏ ㅋㅋㅋ", "🇰🇷", "ﬁ İ ß", "\\s+", "a\u0000b", "각"])
def test_decode__unusual_text_comes_back(text: str) -> None:
    assert LONG.decode(LONG.encode(text)[0].tolist()) == _normalised(text)


# Hangul in all its forms, Latin and Hanja, signs, emoji, controls: whatever a caption may hold.
ANY_TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs", "Cn"]),
        st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3),
        st.characters(min_codepoint=0x1100, max_codepoint=0x11FF, exclude_categories=["Cn"]),
        st.sampled_from("abcXYZ &;<>[]\n\t\u0000\u200d🍎漢"),
    ),
    max_size=40,
)


@given(ANY_TEXT)
@settings(max_examples=200, deadline=None)
def test_encode__properties_of_any_text(text: str) -> None:
    rows = TOKENIZER.encode([text, "사과"])
    assert rows.shape[1] <= LENGTH
    row = rows[0].tolist()
    end = row.index(TOKENIZER.eot_id)
    assert row[0] == TOKENIZER.sot_id
    assert set(row[end + 1 :]) <= {TOKENIZER.pad_id}, "the end token is last"
    assert not {TOKENIZER.sot_id, TOKENIZER.eot_id, TOKENIZER.pad_id} & set(row[1:end])
    assert TOKENIZER.encode(unicodedata.normalize("NFD", text)).tolist() == TOKENIZER.encode(text).tolist()
    assert TOKENIZER.encode(unicodedata.normalize("NFC", text)).tolist() == TOKENIZER.encode(text).tolist()


@given(ANY_TEXT)
@settings(max_examples=100, deadline=None)
def test_encode__what_ids_decode_to_gives_the_same_ids(text: str) -> None:
    ids = LONG.encode(text)[0].tolist()
    assert LONG.encode(LONG.decode(ids))[0].tolist() == ids


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        *((texts, "texts must be a text or a list of texts, not") for texts in (5, None, b"apple", {"a": 1})),
        (["apple", 7], r"texts\[1\] = 7 is int, not a text"),
    ],
)
def test_encode__no_text_and_no_list(texts: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TOKENIZER.encode(texts)  # type: ignore[arg-type]


def test_encode__no_room() -> None:
    with pytest.raises(DataError, match="context_length = 1 must hold start and end"):
        TOKENIZER.encode("apple", context_length=1)


@pytest.mark.parametrize("width", [None, 5, LENGTH, LENGTH + 3])
def test_count_encoded__start_and_end_and_what_is_not_cut(width: int | None) -> None:
    limit = min(width or LENGTH, LENGTH)
    expected = [min(number + 2, limit) for number in TOKENIZER.count_tokens(CAPTIONS)]
    assert TOKENIZER.count_encoded(TOKENIZER.encode(CAPTIONS, width)) == expected
    assert limit in expected
    assert 2 in expected


def test_count_encoded__padding_by_the_end_token() -> None:
    """As OpenAI's tokenizer pads."""
    specials = TOKENIZER.specials._replace(pad=TOKENIZER.specials.end)
    tokenizer = BilingualTokenizer(Tokenizer.from_str(TOKENIZER.to_json()), LENGTH, specials)
    assert tokenizer.pad_id == tokenizer.eot_id == TOKENIZER.eot_id
    assert tokenizer.count_encoded(tokenizer.encode(CAPTIONS)) == TOKENIZER.count_encoded(TOKENIZER.encode(CAPTIONS))


def test_count_tokens__nothing_is_cut_and_encode_still_cuts() -> None:
    long = "zebra " * 50
    assert TOKENIZER.count_tokens([long, ""]) == [LONG.encode(long).shape[1] - 2, 0]
    assert TOKENIZER.encode(long).shape == (1, LENGTH)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Z"]), max_size=60))
@settings(max_examples=200, deadline=None)
def test_decode__text_comes_back(text: str) -> None:
    words = " ".join(text[i : i + 7] for i in range(0, len(text), 7))
    decoded = LONG.decode(LONG.encode(words)[0].tolist())
    # Python's and the tokenizer's Unicode tables may differ in the newest letters' case.
    assert decoded == _normalised(words) or decoded.casefold() == _normalised(words).casefold()


def test_train_tokenizer__same_texts_give_the_same_file() -> None:
    assert train_tokenizer(TEXTS, 320, LENGTH).to_json() == TOKENIZER.to_json()


def test_train_tokenizer__korean_words_become_single_tokens() -> None:
    assert TOKENIZER.encode("사과").shape == (1, 3)
    assert LONG.encode("굷").shape == (1, 5), "three bytes"


def test_train_tokenizer__no_text_leaves_bytes_and_specials() -> None:
    assert train_tokenizer([], 400, LENGTH).vocab_size == 259


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(TOKENIZER.to_json(), encoding="utf-8")
    return path


def test_from_file__round_trip(file: Path) -> None:
    loaded = BilingualTokenizer.from_file(file, LENGTH)
    texts = [*TEXTS, "🍎 [EOT]", "x " * 40]
    assert torch.equal(loaded.encode(texts), TOKENIZER.encode(texts))
    assert loaded.to_json() == TOKENIZER.to_json()
    assert BilingualTokenizer.from_file(file, 5).encode(["x " * 40]).shape == (1, 5)


def test_from_file__of_an_older_run_straightens_nothing(tmp_path: Path) -> None:
    older = BilingualTokenizer.from_file(OLDER_FILE, 24)
    (tmp_path / "tokenizer.json").write_text(older.to_json(), encoding="utf-8")
    again = BilingualTokenizer.from_file(tmp_path / "tokenizer.json", 24)
    trained = train_tokenizer(TEXTS, 320, 24, normalization=1)
    assert older.to_json() == OLDER_FILE.read_text(encoding="utf-8")
    assert [one.normalization for one in (older, again, trained, TOKENIZER)] == [1, 1, 1, 2]
    for text, ids in OLDER_IDS.items():
        for tokenizer in (older, again):
            assert tokenizer.encode(text).tolist() == [[older.sot_id, *ids, older.eot_id]]
        assert trained.decode(trained.encode(text)[0].tolist()) == older.decode(ids)


def test_to_json__the_file_itself_straightens(file: Path) -> None:
    theirs = Tokenizer.from_file(str(file))
    theirs.encode_special_tokens = True
    for _ in range(2):  # writing the file leaves the tokenizer as it was
        for text in CAPTIONS:
            assert theirs.encode(text).ids == TOKENIZER.encode(text)[0].tolist()
        assert TOKENIZER.to_json() == file.read_text(encoding="utf-8")


def test_from_file__missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer file .*none\.json does not exist"):
        BilingualTokenizer.from_file(tmp_path / "none.json", LENGTH)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((content, "is not a tokenizer file") for content in (b"", b"{}", b"\xff\xfe\x00", b'{"model": 3}')),
        (TOKENIZER.to_json().replace("[EOT]", "</s>").encode(), r"no \[EOT\] token"),
    ],
    ids=["empty", "mapping", "bytes", "model", "other tokens"],
)
def test_from_file__garbage(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        BilingualTokenizer.from_file(file, LENGTH)


def test_build_tokenizer__trained_or_read(file: Path) -> None:
    trained = build_tokenizer(TokenizerConfig(vocab_size=320, context_length=LENGTH), TEXTS)
    read = build_tokenizer(TokenizerConfig(file=str(file), context_length=LENGTH), ["never read"])
    assert trained.to_json() == read.to_json() == TOKENIZER.to_json()


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
    again = read_tokenizer_folder(tmp_path / "again")
    assert torch.equal(again.encode(CAPTIONS), TOKENIZER.encode(CAPTIONS))
    assert again.normalization == 2


def test_folder__open_clip_gives_the_same_ids(folder: Path) -> None:
    theirs = HFTokenizer(str(folder), context_length=LENGTH)
    captions = [caption for caption in CAPTIONS if "\u0000" not in caption]  # its own clean-up drops control characters
    assert torch.equal(theirs(captions), TOKENIZER.encode(captions, context_length=LENGTH))


def test_folder__comes_back(folder: Path) -> None:
    again = read_tokenizer_folder(folder)
    assert again.context_length == LENGTH
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


def test_read__other_tokenizers_see_curly_quotes_as_they_are(tmp_path: Path) -> None:
    _foreign(tmp_path / "foreign", ["[PAD]", "[SOT]", "[EOT]", "’", "'", "ａ"], {"model_max_length": 9})
    tokenizer = read_tokenizer_folder(tmp_path / "foreign", lowercase=True)
    assert tokenizer.normalization is None
    assert tokenizer.encode("’ ' Ａ").tolist() == [[1, 3, 4, 5, 2]]


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
