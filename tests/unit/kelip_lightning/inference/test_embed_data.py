"""Embedding into a file: values, resuming, updating, broken images, other models."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_modules.errors import DataError
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.inference.embed_data import EmbedSettings, embed_to_file
from kelip_lightning.inference.embed_items import folder_items, text_items
from kelip_lightning.inference.embedding_file import OtherEmbeddingsError, read_embeddings
from tests.unit.kelip_lightning.stand_in_encoders import expected_row, letters, png, stand_in

COLOURS = {f"{'deep/' if number % 2 else ''}{number}.png": (number * 20, 255 - number * 10, 7) for number in range(10)}
SETTINGS = EmbedSettings(batch_size=3, num_workers=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures, five of them in a folder below, and hidden files."""
    found = tmp_path / "pictures"
    (found / "deep").mkdir(parents=True)
    for name, colour in COLOURS.items():
        (found / name).write_bytes(png(colour))
    (found / ".hidden.png").write_bytes(b"")
    (found / "notes.txt").write_text("no picture", encoding="utf-8")
    return found


def counting() -> tuple[list[int], Encoders]:
    """Sizes of the batches of images, and a model that notes them."""
    sizes: list[int] = []
    return sizes, stand_in(on_images=sizes.append)


def test_images__keys_and_rows(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    report = embed_to_file(folder_items(folder), stand_in(), output, SETTINGS)
    found = read_embeddings(output)
    assert (report.total, report.reused, report.rows, report.broken) == (10, 0, 10, {})
    assert found.keys == sorted(COLOURS)
    np.testing.assert_allclose(found.rows, [expected_row(COLOURS[key]) for key in found.keys], atol=1e-6)
    assert found.identity.model == "stand-in"
    assert (found.identity.kind, found.identity.embed_dim, found.identity.logit_scale) == ("images", 6, 10.0)
    assert not (tmp_path / "out.parquet.parts").exists()


def test_texts__half_precision(tmp_path: Path) -> None:
    texts = ["사과", "a red apple", "배"]
    items = text_items("texts", ["a", "b"], [texts[:2], texts[2:]])
    embed_to_file(items, stand_in(), tmp_path / "out.parquet", EmbedSettings(dtype="float16"))
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["key", "text", "embedding"]
    assert table["key"].to_pylist() == ["a", "a#2", "b"]
    assert table["text"].to_pylist() == texts
    rows = np.stack(table["embedding"].to_numpy())
    assert rows.dtype == np.float16
    np.testing.assert_allclose(rows, [letters(text) for text in texts], atol=1e-3)


def test_interrupted__goes_on_with_what_is_missing(folder: Path, tmp_path: Path) -> None:
    output, done = tmp_path / "out.parquet", 0

    def interrupt(_: int) -> None:
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_to_file(folder_items(folder), stand_in(on_images=interrupt), output, SETTINGS)
    assert not output.exists()
    sizes, model = counting()
    report = embed_to_file(folder_items(folder), model, output, SETTINGS)
    assert (report.reused, sum(sizes)) == (6, 4)
    whole = tmp_path / "whole.parquet"
    embed_to_file(folder_items(folder), stand_in(), whole, SETTINGS)
    assert pq.read_table(output).equals(pq.read_table(whole))


def test_update__new_changed_and_removed(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    embed_to_file(folder_items(folder), stand_in(), output, SETTINGS)
    (folder / "0.png").unlink()
    (folder / "1a.png").write_bytes(png((1, 2, 3)))
    (folder / "2.png").write_bytes(png((200, 0, 0)))
    os.utime(folder / "2.png", ns=(1, 1))
    sizes, model = counting()
    report = embed_to_file(folder_items(folder), model, output, SETTINGS)
    found = read_embeddings(output)
    assert (report.reused, sum(sizes)) == (8, 2)
    assert found.keys == sorted({*COLOURS, "1a.png"} - {"0.png"})
    colours = COLOURS | {"1a.png": (1, 2, 3), "2.png": (200, 0, 0)}
    np.testing.assert_allclose(found.rows, [expected_row(colours[key]) for key in found.keys], atol=1e-6)


def test_up_to_date__leaves_the_file(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    embed_to_file(folder_items(folder), stand_in(), output, SETTINGS)
    written = output.stat().st_mtime_ns, output.stat().st_ino
    sizes, model = counting()
    assert embed_to_file(folder_items(folder), model, output, SETTINGS).reused == 10
    assert (output.stat().st_mtime_ns, output.stat().st_ino) == written
    assert sizes == []


def test_broken_images__are_left_out_and_tried_again(folder: Path, tmp_path: Path) -> None:
    output, bad = tmp_path / "out.parquet", folder / "deep" / "bad.png"
    bad.write_bytes(b"no image")
    report = embed_to_file(folder_items(folder), stand_in(), output, SETTINGS)
    assert report.broken == {"deep/bad.png": "no image"}
    assert (report.rows, read_embeddings(output).keys) == (10, sorted(COLOURS))
    bad.write_bytes(png((9, 9, 9)))
    report = embed_to_file(folder_items(folder), stand_in(), output, SETTINGS)
    assert (report.reused, report.rows, report.broken) == (10, 11, {})


def test_broken_images__too_many(folder: Path, tmp_path: Path) -> None:
    (folder / "bad.png").write_bytes(b"no image")
    settings = EmbedSettings(batch_size=3, num_workers=0, max_broken_share=0.05)
    with pytest.raises(DataError, match=r"1 of 11 images of .* --max-broken 0.05, the first is bad.png \(no image"):
        embed_to_file(folder_items(folder), stand_in(), tmp_path / "out.parquet", settings)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("sign", "dtype", "reason"), [(-1.0, "float32", "another model"), (1.0, "float16", "its dtype is float32")]
)
def test_other_model_or_dtype__is_refused(folder: Path, tmp_path: Path, sign: float, dtype: str, reason: str) -> None:
    output = tmp_path / "out.parquet"
    embed_to_file(folder_items(folder), stand_in(), output, SETTINGS)
    with pytest.raises(OtherEmbeddingsError, match=reason):
        embed_to_file(folder_items(folder), stand_in(sign), output, EmbedSettings(dtype=dtype, num_workers=0))


def test_parts_of_another_model__are_refused(folder: Path, tmp_path: Path) -> None:
    def interrupt(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_to_file(folder_items(folder), stand_in(on_images=interrupt), tmp_path / "out.parquet", SETTINGS)
    with pytest.raises(OtherEmbeddingsError, match=r"out\.parquet\.parts .*another model"):
        embed_to_file(folder_items(folder), stand_in(-1.0), tmp_path / "out.parquet", SETTINGS)


def test_damaged_part__is_named(folder: Path, tmp_path: Path) -> None:
    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    (parts / "00000000.arrow").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"00000000\.arrow is damaged; remove it"):
        embed_to_file(folder_items(folder), stand_in(), tmp_path / "out.parquet", SETTINGS)


def test_another_parquet_file__is_left_alone(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    pq.write_table(pq.read_table(_some_table(tmp_path)), output)
    with pytest.raises(DataError, match=r"out\.parquet is no file of `kelip embed`"):
        embed_to_file(folder_items(folder), stand_in(), output, SETTINGS)


def _some_table(folder: Path) -> Path:
    file = folder / "some.parquet"
    embed_to_file(text_items("texts", ["a"], [["b"]]), stand_in(), file, EmbedSettings())
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata(None), file)
    return file
