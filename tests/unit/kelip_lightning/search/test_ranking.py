"""Rankings against a full sort in numpy."""

import numpy as np
import pytest

from kelip_lightning.search.ranking import Hit, nearest, nearest_texts, shared_rows


def unit_rows(number: int, width: int = 8) -> np.ndarray:
    rows = np.random.default_rng(number).normal(size=(number, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 40, 100])
@pytest.mark.parametrize("left_out", [None, 3])
def test_nearest__as_a_full_sort(k: int, left_out: int | None) -> None:
    rows = unit_rows(40)
    query = 7 * np.random.default_rng(1).normal(size=8).astype(np.float32)
    cosines = rows.astype(float) @ query / np.linalg.norm(query)
    order = [row for row in np.argsort(-cosines) if row != left_out][:k]
    found = nearest(query, rows, k, left_out)
    assert [hit.row for hit in found] == order
    np.testing.assert_allclose([hit.score for hit in found], cosines[order], atol=1e-6)


def test_nearest__of_equal_rows_the_first() -> None:
    rows = np.tile(np.array([1, 0], np.float32), (9, 1))
    assert [hit.row for hit in nearest(np.array([2, 0], np.float32), rows, 3)] == [0, 1, 2]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_nearest__refuses_queries_without_direction(value: float) -> None:
    with pytest.raises(ValueError, match="finite and not zero"):
        nearest(np.full(8, value, np.float32), unit_rows(4), 2)


def test_nearest_texts__equal_texts_once() -> None:
    rows = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]], np.float32)
    found = nearest_texts(np.array([1, 0], np.float32), rows, ["a", "b", "c", "a"], 3)
    assert [text for text, _ in found] == ["a", "b", "c"]
    np.testing.assert_allclose([score for _, score in found], [1, 0.8, 0], atol=1e-6)


def test_shared_rows() -> None:
    assert shared_rows([Hit(1, 0.9), Hit(2, 0.8)], [Hit(2, 0.7), Hit(3, 0.6)]) == {2}
