"""Tables of numbers that keep every word and number whole in 80 columns."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MIN_COLUMNS = 80
"""Narrower tables would cut words and numbers; in a narrower terminal its lines break instead."""


def table_console() -> "Console":
    """Standard output, at least `MIN_COLUMNS` wide."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = max(console.width, MIN_COLUMNS)
    return console


def number_table(title: str, caption: str, *columns: str) -> "Table":
    """A table whose first column breaks between words where the width asks for it; numbers never break."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
    )
    for index, name in enumerate(columns):
        if index:
            table.add_column(name, justify="right", min_width=max(map(len, name.split())))
        else:
            table.add_column(name, overflow="fold")
    return table
