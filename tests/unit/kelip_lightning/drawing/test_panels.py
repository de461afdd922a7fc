"""Images, words and frames of a row; top matches; confused classes."""

import numpy as np
import pytest

from kelip_lightning.drawing.panels import (
    ConfusedPair,
    ImageRow,
    PanelRow,
    RankedCaption,
    draw_confusion_panel,
    draw_image_rows,
    draw_labelled_columns,
    draw_top_matches_panel,
)

GREEN, BAR = (0, 150, 70), (228, 238, 250)
LONG = "아주 길어서 한 열에 다 들어가지 않는 한국어 분류 이름을 가진 전통 목조 건축물과 그 주변의 정원 풍경"


def plain(red: int) -> np.ndarray:
    return np.full((16, 16, 3), (red, 0, 0), dtype=np.uint8)


def test_draw_image_rows__images_from_left_to_right_and_a_frame_around_the_right_one() -> None:
    row = ImageRow(words=["밥"], lead=plain(50), images=[plain(100), plain(150)], right=frozenset({1}))
    drawn = draw_image_rows([row], "title")
    places = [np.flatnonzero((drawn == (red, 0, 0)).all(axis=2).any(axis=0)) for red in (50, 100, 150)]
    assert all(len(place) == 64 for place in places)
    assert places[0].max() < places[1].min() < places[1].max() < places[2].min()
    frame = np.flatnonzero((drawn == GREEN).all(axis=2).any(axis=0))
    assert frame.min() < places[2].min()
    assert frame.min() > places[1].max()
    assert frame.max() > places[2].max()


def test_draw_image_rows__rows_below_one_another_with_their_words() -> None:
    rows = [ImageRow(words=[word], lead=plain(red), images=[plain(9)]) for word, red in (("집", 50), ("house", 60))]
    drawn = draw_image_rows(rows, "집 house")
    first, second = (np.flatnonzero((drawn == (red, 0, 0)).all(axis=2).any(axis=1)) for red in (50, 60))
    assert first.max() < second.min()
    assert (drawn[first, :300] < 128).any()  # the word beside it
    assert (drawn[second, :300] < 128).any()


def _where(drawn: np.ndarray, colour: tuple[int, int, int], axis: int) -> np.ndarray:
    return np.flatnonzero((drawn == colour).all(axis=2).any(axis=axis))


def _matches(right: int | None, languages: tuple[str, ...] = ("ko", "en"), text: str = "배") -> PanelRow:
    ranked = [RankedCaption(text=text, probability=0.0, right=place == right) for place in range(5)]
    return PanelRow(image=plain(50), true_captions=["사과", "apple"], ranked=dict.fromkeys(languages, ranked))


def test_draw_top_matches_panel__five_lines_fit_a_row_and_the_true_one_is_marked() -> None:
    panels = [draw_top_matches_panel([_matches(right)], "t") for right in (0, 4, None)]
    first, last, nowhere = (_where(panel, GREEN, axis=1) for panel in panels)
    assert last.min() - first.min() == 4 * 23
    assert last.max() < panels[1].shape[0] - 12
    assert not len(nowhere)
    assert (panels[1][last.min() - 4 : last.max() + 5] < 100).any()  # the text beside the mark is inside the panel


def test_draw_top_matches_panel__a_language_that_a_row_lacks_stays_empty() -> None:
    both, ko = _matches(1), _matches(1, ("ko",))
    panels = [draw_top_matches_panel(rows, "t") for rows in ([both, both], [both, ko], [ko, ko])]
    marks = [_where(panel, GREEN, axis=1) for panel in panels]
    of_a_mark = len(marks[0]) // 4
    assert marks[1].tolist() == marks[0][: 3 * of_a_mark].tolist()
    assert len(marks[2]) == 2 * of_a_mark
    block = 5 * 23 + 12
    assert (panels[1][-block:] == 255).all()
    assert panels[1].shape[0] - panels[2].shape[0] == 2 * block
    assert draw_top_matches_panel([_matches(1, text=LONG), ko], LONG).shape == panels[1].shape
    with pytest.raises(ValueError, match="at least one row"):
        draw_top_matches_panel([], "t")


def _pair(share: float, language: str = "ko", name: str = "사과", **names: str) -> ConfusedPair:
    true = names or {"ko": name, "en": "apple"}
    return ConfusedPair(language=language, true=true, predicted={"ko": "배", "en": "pear"}, count=3, share=share)


def test_panels__fit_the_width_of_tensorboards_images_page() -> None:
    """350 pixels; 4 more make the text 1 % smaller."""
    panels = [draw_top_matches_panel([_matches(1, text=LONG)] * 8, LONG), draw_confusion_panel([_pair(1.0)], LONG)]
    assert [panel.shape[1] for panel in panels] == [354, 354]


def test_draw_labelled_columns__images_below_their_labels() -> None:
    drawn = draw_labelled_columns({"one": [plain(50), plain(60)], "두 번째": [plain(70), plain(80)]}, 40)
    places = {red: (_where(drawn, (red, 0, 0), 1), _where(drawn, (red, 0, 0), 0)) for red in (50, 60, 70, 80)}
    assert all(len(rows) == len(columns) == 40 for rows, columns in places.values())
    assert places[50][1].tolist() == places[60][1].tolist() and places[50][0].max() < places[60][0].min()
    assert places[50][0].tolist() == places[70][0].tolist() and places[50][1].max() < places[70][1].min()
    above = drawn[: places[50][0].min()]
    assert (above[:, :40] < 128).any() and (above[:, 44:] < 128).any()


def test_draw_confusion_panel__bars_are_the_shares() -> None:
    drawn = draw_confusion_panel([_pair(1.0), _pair(0.25)], "제목")
    assert drawn.dtype == np.uint8
    bars = (drawn == BAR).all(axis=2)
    rows = np.flatnonzero(bars.any(axis=1))
    upper, lower = rows[rows < rows.mean()], rows[rows > rows.mean()]
    lengths = [np.ptp(np.flatnonzero(bars[part].any(axis=0))) + 1 for part in (upper, lower)]
    assert lengths == [88, 22]
    assert not (draw_confusion_panel([_pair(0.0)], "t") == BAR).all(axis=2).any()


def test_draw_confusion_panel__grows_by_pairs_and_languages_and_works_without_any() -> None:
    one, ten = (draw_confusion_panel([_pair(0.5)] * count, "t") for count in (1, 10))
    both = draw_confusion_panel([_pair(0.5), _pair(0.5, "en")], "t")
    none = draw_confusion_panel([], "t")
    assert ten.shape[0] - one.shape[0] == 9 * (2 * 23 + 12)
    assert both.shape[0] > draw_confusion_panel([_pair(0.5)] * 2, "t").shape[0]
    assert {panel.shape[1] for panel in (one, ten, both, none)} == {one.shape[1]}
    assert (none[36:] < 128).any()


def test_draw_confusion_panel__long_names_stay_in_their_column_and_a_language_may_miss() -> None:
    short, long = (draw_confusion_panel([_pair(0.5, name=name)], "t") for name in ("사과", LONG))
    changed = np.flatnonzero((short != long).any(axis=(0, 2)))
    assert 12 <= changed.min() < changed.max() < 12 + 230
    only_en = draw_confusion_panel([_pair(0.5, "en", en="apple")], "t")
    assert only_en.shape == draw_confusion_panel([_pair(0.5, "en")], "t").shape
