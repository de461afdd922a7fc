"""The questions that the page answers, each by one embedding and one matrix product.

Shapes: N pictures, E embedding width, k results.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from data_modules.faults import sample_errors
from kelip_lightning.analyses.analogy import analogy_vectors
from kelip_lightning.evaluation.embed import embed_texts, require_finite, unit_rows
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.search.collection import Collection
from kelip_lightning.search.ranking import Hit, nearest, nearest_texts, shared_rows

RESULTS = 12
"""Pictures of a result."""
CAPTIONS = 5
"""Captions of a result, of each language."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureAnswer:
    """What is found for a picture."""

    captions: dict[str, list[tuple[str, float]]]
    """Language -> the nearest captions of the collection and their cosine similarity."""
    pictures: list[Hit]
    """The nearest pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAnswer:
    """What is found for two words."""

    first: list[Hit]
    second: list[Hit]
    both: set[int]
    """Pictures in both results."""
    similarity: float
    """Cosine similarity of the words' embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchEngine:
    """A model and the collection that it searches."""

    encoders: Encoders
    collection: Collection

    def by_text(self, text: str, k: int = RESULTS) -> list[Hit]:
        """The pictures nearest to a text in any language."""
        return nearest(self.embed_words([text])[0], self.collection.rows, k)

    def by_picture(self, data: bytes, k: int = RESULTS) -> PictureAnswer:
        """The captions and pictures nearest to an encoded image; SampleFault if it is none."""
        query = self.embed_picture(data)
        captions = {
            language: nearest_texts(query, one.rows, one.texts, CAPTIONS)
            for language, one in self.collection.captions.items()
        }
        return PictureAnswer(captions=captions, pictures=nearest(query, self.collection.rows, k))

    def by_pair(self, first: str, second: str, k: int = RESULTS) -> PairAnswer:
        """The pictures nearest to each of two texts, for example of one meaning in two languages."""
        rows = self.embed_words([first, second])
        hits = [nearest(row, self.collection.rows, k) for row in rows]
        return PairAnswer(first=hits[0], second=hits[1], both=shared_rows(*hits), similarity=float(rows[0] @ rows[1]))

    def by_analogy(
        self, picture: NDArray[np.float32], minus: str, plus: str, scale: float = 1.0, own_row: int | None = None
    ) -> list[Hit]:
        """The pictures nearest to picture + scale * (plus − minus).

        Args:
            picture: (E,), unit length.
            minus: What the picture shows.
            plus: What the result is to show instead.
            scale: λ of `kelip analyze analogy`.
            own_row: The picture's row, which is no result; `None`: it is not in the collection.
        """
        source, target = self.embed_words([minus, plus])
        image, before, after = (torch.from_numpy(one[None]) for one in (picture, source, target))
        query = analogy_vectors(image, before, after, scale)
        return nearest(query[0].numpy(), self.collection.rows, RESULTS, left_out=own_row)

    def embed_words(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), E), unit rows."""
        rows: NDArray[np.float32] = embed_texts(self.encoders.encode_texts, list(texts)).numpy()
        return rows

    def embed_picture(self, data: bytes) -> NDArray[np.float32]:
        """(E,), unit length; SampleFault if the bytes are no image."""
        with sample_errors("the picture"):
            pixels = self.encoders.preprocess(data)
        with torch.no_grad():
            rows = unit_rows(self.encoders.encode_images(pixels.unsqueeze(0)))
        require_finite(rows, "image")
        row: NDArray[np.float32] = rows[0].numpy()
        return row


TIMED_PICTURES = 10_000
_TIMED_QUERIES = 50
_WORDS = ("사과", "a red apple", "웃는 얼굴", "a dog", "비행기", "a musical instrument")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTime:
    """Milliseconds of a search by text, its embedding included."""

    pictures: int
    median: float
    slowest: float


def time_searches(engine: SearchEngine) -> list[SearchTime]:
    """Times of searches by text in the collection, and in one of `TIMED_PICTURES` pictures, its rows repeated."""
    rows = engine.collection.rows
    many = np.tile(rows, (-(-TIMED_PICTURES // len(rows)), 1))[:TIMED_PICTURES]
    engines = [engine, replace(engine, collection=replace(engine.collection, rows=many))]
    return [_time(one) for one in engines]


def _time(engine: SearchEngine) -> SearchTime:
    engine.by_text(_WORDS[0])
    seconds = []
    for number in range(_TIMED_QUERIES):
        began = time.perf_counter()
        engine.by_text(_WORDS[number % len(_WORDS)])
        seconds.append(time.perf_counter() - began)
    return SearchTime(
        pictures=len(engine.collection.rows), median=1e3 * float(np.median(seconds)), slowest=1e3 * max(seconds)
    )
