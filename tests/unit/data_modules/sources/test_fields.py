"""Any content of a field gives a usable pair or a counted fault with its key, in every format."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_modules.config import ImageTextDataConfig
from data_modules.errors import DataError
from data_modules.faults import SKIPPED, FaultReport
from data_modules.image_text import ImageTextDataModule
from data_modules.images.config import MultiCropConfig
from data_modules.loading import PairDataset
from data_modules.order.sampling import Draw
from data_modules.records import ImageTextBatch
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.rows import PairSource
from data_modules.sources.streaming import StreamSource
from data_modules.text.config import TokenizerConfig
from tests.unit.data_modules.corpora import members, picture, samples, write_csv, write_tar

GOOD = samples(3)
ALL_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)  # lone surrogates too
TEXTS = st.one_of(ALL_TEXT, st.sampled_from(["", " \n", "x" * 30_000, "\ud800", "\0", "\u2028", "글 a"]))
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
JSON_VALUES = st.recursive(PLAIN, lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXTS, one, max_size=2))
OBJECTS = st.one_of(
    JSON_VALUES,
    st.binary(max_size=40),
    st.lists(st.one_of(st.none(), st.binary(max_size=9), TEXTS), max_size=4),
    st.sampled_from(
        [np.arange(3), np.array(["a", "b"]), decimal.Decimal(1), datetime.date(2020, 1, 1), object(), (1,)]
    ),
    st.fixed_dictionaries({"bytes": JSON_VALUES, "path": JSON_VALUES}),
)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FIELDS: dict[str, Any] = {
    "caption_fields": ["caption", "title"],
    "keywords": {"ko": "words", "en": "words"},
    "language": "detect",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageTextDataModule:
    """Processes samples and batches of any source."""
    file = write_csv(tmp_path_factory.mktemp("good"), GOOD)
    config = ImageTextDataConfig(sources={"good": SourceConfig(files=[file], caption_fields=["caption"])})
    config.captions.name, config.captions.name_keywords = 0.2, 0.8
    transform = MultiCropConfig(image_size=8, num_global_crops=1, num_local_crops=0)
    return ImageTextDataModule(config, transform, TokenizerConfig(vocab_size=270), seed=1, max_steps=1)


def serve(source: PairSource, data: ImageTextDataModule) -> tuple[ImageTextBatch, list[FaultReport]]:
    """Every pair of a source in one batch; also reads all captions."""
    dataset = PairDataset([source], data.new_batch, seed=1)
    batch = dataset.load([Draw(0, sample_id) for sample_id in range(len(source))])
    for report in batch.faults:
        assert report.key, report
        assert len(json.dumps(report._asdict(), ensure_ascii=False).encode()) < 10_000, "fits into bad_samples.jsonl"
    for language, text in source.captions():
        assert language in ("ko", "en")
        text.encode()
    return batch, batch.faults


def parquet(folder: Path, rows: list[dict[str, Any]]) -> SourceConfig:
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return SourceConfig(files=[str(folder / "a.parquet")], captions={"en": "caption"}, keywords={"en": "words"})


def test_keywords__a_null_among_them_is_counted_and_the_rest_is_used(tmp_path: Path, data: ImageTextDataModule) -> None:
    rows = [
        {"image": picture(0), "key": "a", "caption": "cat", "words": ["x", None, "y"]},
        {"image": picture(1), "key": "b", "caption": "dog", "words": ["z"]},
    ]
    source = open_source("s", parquet(tmp_path, rows))
    assert source[0].keywords == ("x", "y")
    _, faults = serve(source, data)
    assert [(one.kind, one.key, one.is_skipped) for one in faults] == [("text_entry_empty", "a", False)]


@given(caption=JSON_VALUES, title=JSON_VALUES, words=JSON_VALUES, rest=JSON_VALUES)
@FUZZ
def test_shards__any_json_beside_an_image(
    data: ImageTextDataModule, tmp_path: Path, caption: Any, title: Any, words: Any, rest: Any
) -> None:
    odd = {"caption": caption, "title": title, "words": words, "lang": rest}
    number = len(list(tmp_path.glob("*.tar")))
    content = [*members(GOOD), ("odd.jpg", picture(9)), ("odd.json", json.dumps(odd).encode())]
    file = write_tar(tmp_path / f"{number}.tar", content)
    for changes in ({}, {"language_field": "lang"}):
        source = open_source("s", SourceConfig(files=[str(file)], **FIELDS | changes))
        batch, faults = serve(source, data)
        assert len(batch.sample_ids) == 4
        skipped = [one for one in faults if one.is_skipped]
        assert {one.key for one in skipped} <= {"odd"}
        kinds = {"caption_missing", "caption_not_text", "language_unknown", "metadata_undecodable"}
        if not is_utf8(odd):  # half of a surrogate pair, which JSON can spell
            kinds.add("caption_not_utf8")
        assert {one.kind for one in skipped} <= kinds


def is_utf8(value: Any) -> bool:
    """Whether all texts in a JSON value can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(
    row=st.fixed_dictionaries({}, optional=dict.fromkeys(["image", "key", "caption", "title", "words", "l"], OBJECTS))
)
@FUZZ
def test_streams__any_objects_in_a_row(data: ImageTextDataModule, row: dict[str, Any]) -> None:
    good = {"image": picture(0), "key": "good", "caption": "고양이 cat", "title": None, "words": ["a", "b"], "l": "ko"}
    for odd in (row, good | row, good | {"image": picture(1)} | {k: v for k, v in row.items() if k != "image"}):
        for changes in ({}, {"language_field": "l"}):
            config = SourceConfig(files=["hub/name"], stream_length=3, **FIELDS | changes)
            source = StreamSource("s", config, lambda odd=odd: iter([good, odd, good]), 3)
            batch, faults = serve(source, data)
            assert len(batch.sample_ids) == 3
            assert {one.kind for one in faults if one.is_skipped} <= set(SKIPPED) - {"read_failed"}
            assert {one.sample_id for one in faults if one.is_skipped} <= {1}


@given(cells=st.lists(TEXTS, min_size=5, max_size=5))
@FUZZ
def test_text_tables__any_cells(data: ImageTextDataModule, tmp_path: Path, cells: list[str]) -> None:
    number = len(list(tmp_path.glob("*.?sv")))
    (tmp_path / "a.jpg").write_bytes(picture(0))
    for ending, separator in (("csv", ","), ("tsv", "\t")):
        quoted = separator.join('"' + cell.replace('"', '""') + '"' for cell in cells)
        good = separator.join(["good", "a.jpg", "cat", "", "x;y"])
        text = "\n".join([separator.join(["key", "image", "caption", "title", "words"]), good, quoted, good]) + "\n"
        file = tmp_path / f"{number}.{ending}"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            source = open_source("s", SourceConfig(files=[str(file)], keyword_separator=";", **FIELDS))
        except DataError:
            continue  # a table that cannot be read as one
        batch, _ = serve(source, data)
        assert len(batch.sample_ids) == len(source)


def arrow_columns() -> st.SearchStrategy[pa.Array]:
    """Three cells of many types, the second one odd; texts need not be UTF-8."""
    raw = st.one_of(st.none(), st.binary(max_size=20), st.just(b"\xff\xfe"))
    return st.one_of(
        raw.map(lambda cell: pa.Array.from_buffers(pa.string(), 3, pa.array([b"cat", cell, b"dog"]).buffers())),
        raw.map(lambda cell: pa.array([b"cat", cell, b"dog"])),
        st.lists(st.one_of(st.none(), st.just(""), st.just("y")), max_size=3).map(
            lambda cell: pa.array([["a"], cell, None], pa.list_(pa.string()))
        ),
        st.just(pa.array([1, None, 3])),
        st.just(pa.array([1.5, float("nan"), None])),
        st.just(pa.array([{"a": 1}, None, {"a": 2}])),
        st.just(pa.array([[["a"]], [None], None], pa.list_(pa.list_(pa.string())))),
        st.just(pa.array([0, 1 << 53, None], pa.timestamp("ms"))),
        st.just(pa.nulls(3)),
    )


@given(caption=arrow_columns(), title=arrow_columns(), words=arrow_columns(), other=arrow_columns())
@FUZZ
def test_parquet__columns_of_any_type(
    data: ImageTextDataModule, tmp_path: Path, caption: pa.Array, title: pa.Array, words: pa.Array, other: pa.Array
) -> None:
    table = pa.table(
        {
            "image": [picture(0), picture(1), picture(2)],
            "caption": caption,
            "title": title,
            "words": words,
            "other": other,
            "plain": ["고양이", "cat", "dog"],
        }
    )
    file = tmp_path / f"{len(list(tmp_path.glob('*.parquet')))}.parquet"
    pq.write_table(table, file)
    fields = FIELDS | {"caption_fields": ["caption", "title"], "keyword_separator": ","}
    for changes in ({}, {"language_field": "other"}, {"caption_fields": ["plain"]}, {"where": {"other": ["cat"]}}):
        try:
            source = open_source("s", SourceConfig(files=[str(file)], **fields | changes))
            source.rows_of("ko")
        except DataError:
            continue  # a column that can hold no text, or no row that is asked for
        try:
            batch, _ = serve(source, data)
        except DataError as error:  # every row is bad
            if "others cannot be used" not in str(error):
                raise
        else:
            assert len(batch.sample_ids) == len(source)


def streamed(*rows: dict[str, Any], **settings: Any) -> StreamSource:
    """A stream of these rows, with a picture and an English caption field by default."""
    fields = {} if "caption_fields" in settings else {"captions": {"en": "caption"}}
    config = SourceConfig(files=["hub/name"], stream_length=len(rows), **fields, **settings)
    return StreamSource("s", config, lambda: iter([{"image": picture(0)} | row for row in rows]), len(rows))


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ("a cat", ("a cat",)),
        (["a cat", "the cat"], ("a cat", "the cat")),
        (["a cat", None, " ", "the cat"], ("a cat", "the cat")),
        (("a cat", b"the cat"), ("a cat", "the cat")),
    ],
)
def test_captions__a_list_is_several_captions(value: object, captions: tuple[str, ...]) -> None:
    record = streamed({"caption": value})[0]
    assert (record.caption, *record.more_captions) == captions
    assert record.repairs == (("text_entry_empty",) if "None" in str(value) else ())


@pytest.mark.parametrize("title", [None, "", "  ", [], [None], b"\n"])
def test_captions__an_empty_field_among_others_leaves_the_sample(title: object) -> None:
    record = streamed({"caption": "a cat", "title": title}, caption_fields=["title", "caption"])[0]
    assert (record.caption, record.more_captions, record.language) == ("a cat", (), "en")


@pytest.mark.parametrize("field", ["caption", "words"])
@pytest.mark.parametrize("value", [3, 2.5, float("nan"), True, {"a": "b"}, ["a", 3], ["a", ["b"]], [{"a": "b"}]])
def test_fields__what_is_no_text_is_a_fault_with_its_key(field: str, value: object, data: ImageTextDataModule) -> None:
    good = {"key": "good", "caption": "a cat", "words": ["x"]}
    _, faults = serve(streamed(good, good | {"key": "odd", field: value}, keywords={"en": "words"}), data)
    assert [(one.kind, one.key, one.sample_id) for one in faults] == [("caption_not_text", "odd", 1)]
    assert f"'{field}'" in faults[0].detail


@pytest.mark.parametrize(
    ("separator", "value", "keywords"),
    [
        (",", "red, round fruit ,, apple", ("red", "round fruit", "apple")),
        (";", b"red; 1,5 kg", ("red", "1,5 kg")),
        (",", ["red, green", "round"], ("red, green", "round")),
        (",", " , ", ()),
        (None, ["red", "round"], ("red", "round")),
        (None, "", ()),
        (None, None, ()),
    ],
)
def test_keywords__a_text_is_taken_apart_at_the_separator(
    separator: str | None, value: object, keywords: tuple[str, ...]
) -> None:
    source = streamed({"caption": "a cat", "words": value}, keywords={"en": "words"}, keyword_separator=separator)
    assert source[0].keywords == keywords


def test_keywords__a_text_without_a_separator_is_refused(tmp_path: Path, data: ImageTextDataModule) -> None:
    rows = [{"image": picture(0), "key": "a", "caption": "cat", "words": "red, round"}]
    with pytest.raises(DataError, match=r"source 's': .* 'words' holds texts, .*keyword_separator"):
        open_source("s", parquet(tmp_path, rows))
    with pytest.raises(DataError, match=r"caption_not_text .*'words'.* keyword_separator"):
        serve(streamed(rows[0], keywords={"en": "words"}), data)


@pytest.mark.parametrize("field", ["caption", "words"])
def test_table__a_column_that_can_hold_no_text_is_refused_when_it_is_opened(tmp_path: Path, field: str) -> None:
    row = {"image": picture(0), "caption": "cat", "words": ["a"]} | {field: 3 if field == "caption" else [3]}
    with pytest.raises(DataError, match=f"source 's': column '{field}' holds .*int64"):
        open_source("s", parquet(tmp_path, [row]))


def test_repairs__are_reported_once_per_sample() -> None:
    record = streamed({"caption": ["\u1112\u1161\u11ab", "\u1100\u1173\u11af", None, ""]})[0]
    assert record.repairs == ("caption_not_nfc", "text_entry_empty")
