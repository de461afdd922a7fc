"""Results as HTML; every text of the user and of the collection is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from kelip_lightning.search.collection import Collection
from kelip_lightning.search.engine import PairAnswer, PictureAnswer
from kelip_lightning.search.ranking import Hit

LANGUAGE_NAMES = {"ko": "한국어", "en": "English"}

STYLE = """
@font-face {
  font-family: "Nanum Square";
  src: url("/font.ttf");
  unicode-range: U+1100-11FF, U+3130-318F, U+AC00-D7A3;
}
.kelip-pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 10px; }
.kelip-pictures figure { margin: 0; padding: 6px; border: 1px solid var(--border-color-primary); border-radius: 8px; }
.kelip-pictures .kelip-both { border: 2px solid var(--color-accent); padding: 5px; }
.kelip-pictures img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: white; }
.kelip-pictures figcaption { font-size: 13px; line-height: 1.35; margin-top: 4px; overflow-wrap: anywhere; }
.kelip-score { color: var(--body-text-color-subdued); font-size: 12px; font-variant-numeric: tabular-nums; }
.kelip-note { color: var(--body-text-color-subdued); margin: 4px 0 10px; }
.kelip-captions td { padding: 3px 12px 3px 0; vertical-align: top; }
.kelip-captions h4 { margin: 4px 0; }
"""
"""CSS of the results."""


def pictures_html(collection: Collection, hits: Iterable[Hit], both: Iterable[int] = ()) -> str:
    """A grid of pictures with their captions or keys, and the cosine similarity; those in `both` are framed."""
    framed = set(both)
    figures = "".join(_figure(collection, hit, hit.row in framed) for hit in hits)
    return f'<div class="kelip-pictures">{figures}</div>'


def _figure(collection: Collection, hit: Hit, framed: bool) -> str:
    title = escape(collection.title(hit.row))
    frame = ' class="kelip-both"' if framed else ""
    return (
        f'<figure{frame} data-key="{escape(collection.keys[hit.row])}"><img src="/pictures/{hit.row}" alt="{title}">'
        f'<figcaption>{title} <span class="kelip-score">{hit.score:.2f}</span></figcaption></figure>'
    )


def first_pictures_html(collection: Collection, number: int) -> str:
    """The first pictures of a collection, before anything is searched."""
    rows = range(min(number, len(collection)))
    figures = "".join(
        f'<figure><img src="/pictures/{row}" alt=""><figcaption>{escape(collection.title(row))}</figcaption></figure>'
        for row in rows
    )
    return note_html(f"{len(collection):,} pictures, for example") + f'<div class="kelip-pictures">{figures}</div>'


def note_html(text: str) -> str:
    """A remark."""
    return f'<p class="kelip-note">{escape(text)}</p>'


def picture_answer_html(collection: Collection, answer: PictureAnswer) -> str:
    """The captions in both languages, then the nearest pictures."""
    parts = [captions_html(answer.captions)]
    if not answer.captions:
        parts.append(note_html("The collection has no captions: start kelip search with --captions FILE."))
    return "".join([*parts, "<h4>Nearest pictures</h4>", pictures_html(collection, answer.pictures)])


def captions_html(captions: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """A table of captions with their cosine similarity for each language."""
    tables = []
    for language, found in captions.items():
        rows = "".join(
            f'<tr><td>{escape(text)}</td><td class="kelip-score">{score:.2f}</td></tr>' for text, score in found
        )
        tables.append(f'<div lang="{language}"><h4>{LANGUAGE_NAMES[language]}</h4><table>{rows}</table></div>')
    return f'<div class="kelip-captions">{"".join(tables)}</div>' if tables else ""


def pair_note_html(answer: PairAnswer) -> str:
    """How alike the two results are."""
    return note_html(
        f"{len(answer.both)} of {len(answer.first)} pictures are in both results (framed); cosine similarity of the "
        f"two texts: {answer.similarity:.2f}"
    )
