"""A table for the terminal that draws the rows on the screen as plain segments: a fifth of the work of a `DataTable`,
which lays out each cell on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from console.glance import Cell

GAP = 2


@dataclass(frozen=True)
class Column:
    name: str
    right: bool = False
    most: int = 200
    """Characters; what is longer is cut."""


class Rows(ScrollView, can_focus=True):
    """Rows by name, with a cursor that stays on its name while rows come, go and move."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000000)", show=False),
        Binding("end", "move(1000000)", show=False),
    ]

    class Moved(Message):
        """The cursor is on another row."""

    def __init__(self, columns: Sequence[Column], id: str) -> None:
        super().__init__(id=id)
        self.columns = columns
        self.names: list[str] = []
        self.cells: list[Sequence[Cell]] = []
        self.widths = [len(column.name) for column in columns]
        self.cursor = 0

    def put(self, rows: dict[str, Sequence[Cell]]) -> None:
        chosen = self.chosen
        self.names, self.cells = list(rows), list(rows.values())
        self.cursor = self.names.index(chosen) if chosen in rows else min(self.cursor, max(len(rows) - 1, 0))
        self.widths = [
            min(max([len(column.name), *(cell_len(row[number].text) for row in self.cells)]), column.most)
            for number, column in enumerate(self.columns)
        ]
        self._measure()
        self.refresh()

    @property
    def chosen(self) -> str | None:
        return self.names[self.cursor] if self.cursor < len(self.names) else None

    def on_resize(self, _: Resize) -> None:
        self._measure()

    def _measure(self) -> None:
        self.virtual_size = Size(sum(self.widths) + GAP * (len(self.widths) - 1), len(self.names) + 1)

    # --- drawing ---------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """`y`: of the screen; the first line is the header, which does not scroll."""
        left, top = self.scroll_offset
        number = y - 1 + top
        if y == 0:
            line = self._strip([Cell(column.name, "dim") for column in self.columns], Style.null())
        elif number < len(self.cells):
            line = self._strip(self.cells[number], Style(reverse=True) if number == self.cursor else Style.null())
        else:
            return Strip.blank(self.size.width, self.rich_style)
        return line.crop_extend(left, left + self.size.width, Style.null()).apply_style(self.rich_style)

    def _strip(self, cells: Sequence[Cell], over: Style) -> Strip:
        segments = []
        for cell, width, column in zip(cells, self.widths, self.columns, strict=True):
            text = cell.text if cell_len(cell.text) <= width else set_cell_size(cell.text, width - 1) + "…"
            text = " " * (width - cell_len(text)) + text if column.right else set_cell_size(text, width)
            segments += [Segment(text, Style.parse(cell.style) + over), Segment(" " * GAP, over)]
        return Strip(segments)

    # --- moving ----------------------------------------------------------------------------------------

    def action_move(self, by: int) -> None:
        self._go(self.cursor + by)

    def action_page(self, direction: int) -> None:
        self._go(self.cursor + direction * max(self.size.height - 2, 1))

    def on_click(self, event: Click) -> None:
        if event.y > 0:
            self._go(event.y - 1 + self.scroll_offset.y)

    def _go(self, row: int) -> None:
        self.cursor = min(max(row, 0), max(len(self.names) - 1, 0))
        top, height = self.scroll_offset.y, max(self.size.height - 1, 1)
        if self.cursor < top or self.cursor >= top + height:
            self.scroll_to(y=self.cursor if self.cursor < top else self.cursor - height + 1, animate=False)
        self.refresh()
        self.post_message(self.Moved())
