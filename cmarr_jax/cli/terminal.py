"""A drawing at the bottom of a terminal that is kept up to date, by rich.

The cursor stays visible in an empty line below, so that the terminal is in order however the
process ends, even if it is killed.
"""

import os
import sys
import threading
from collections.abc import Callable

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_SECONDS = 0.5  # between two drawings, so that times go on even if nothing else changes
_BAR = 40  # columns that a bar takes at most

Draw = Callable[[ConsoleOptions], RenderableType]


def screen() -> os.terminal_size | None:
    """The size of standard error's terminal; None if nothing can be drawn there."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return None
    try:
        size = os.get_terminal_size(sys.stderr.fileno())
        ours = os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()  # not in the background
    except (OSError, ValueError):
        return None
    return size if ours and size.columns >= 60 and size.lines >= 10 else None


class Drawing:
    """One thing at a time, kept up to date at the bottom of the terminal.

    What others write to standard error meanwhile appears above it.
    """

    def __init__(self):
        self._lock = threading.RLock()
        self._live = self._draw = None

    def show(self, draw: Draw, keep: bool = False) -> bool:
        """Draws what `draw` returns, now and every half second, in place of an earlier drawing.

        Args:
          draw: returns what is shown; is also called in another thread.
          keep: whether the last state stays on the screen after `close`.

        Returns:
          False if nothing can be drawn: to a file, in the background, on a small terminal.
        """
        with self._lock:
            if draw != self._draw:
                self.close()
            self._refresh()
            if self._live is None and (size := screen()):
                self._start(draw, keep, size)
            return self._live is not None

    def close(self) -> None:
        """Ends the drawing."""
        with self._lock:
            if self._live is not None:
                sys.stderr.flush()  # rich holds back half a line
            self._refresh()
            if self._live is not None:
                self._live.console.quiet = self._keep  # it is drawn to its end already
                self._stop()

    def _start(self, draw: Draw, keep: bool, size: os.terminal_size) -> None:
        console = Console(
            file=sys.stderr,
            force_terminal=True,
            force_interactive=True,
            force_jupyter=False,
            width=size.columns,
            height=size.lines,
        )
        self._draw, self._keep, self._size = draw, keep, size
        self._live = Live(
            get_renderable=lambda: Group(draw(console.options), Text()),
            console=console,
            auto_refresh=False,
            transient=not keep,
            redirect_stdout=False,
        )
        self._live.start(refresh=True)
        console.show_cursor(True)
        self._ended = threading.Event()
        threading.Thread(target=self._tick, args=(self._ended,), daemon=True).start()

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(_SECONDS):
            with self._lock:
                if not ended.is_set():
                    self._refresh()

    def _refresh(self) -> None:
        if self._live is None:
            return
        if screen() == self._size:
            self._live.refresh()
        else:  # after a resize the place of its lines is unknown: leave it, begin another below
            self._live.console.quiet = True
            self._stop()

    def _stop(self) -> None:
        self._ended.set()
        self._live.stop()
        self._live.console.quiet = False  # others may still hold the stream that it redirected
        self._live = self._draw = None


def bar_line(name: str, share: float | None, facts: str, width: int, least: int = 5) -> Table:
    """A line with a name, a bar and facts; the bar fills the rest of the width.

    Args:
      name: what the bar is about.
      share: how much is done, 0 to 1; None = unknown, so the bar moves.
      facts: the text after the bar.
      width: columns of the line.
      least: a bar with fewer columns is left out.
    """
    room = min(_BAR, width - len(name) - len(facts) - 4)
    cells: list[RenderableType] = [Text(name), Text(facts)]
    if room >= least:
        total = None if share is None else 1.0
        cells.insert(1, ProgressBar(total, share or 0.0, width=room))
    line = Table.grid(padding=(0, 2))
    for _ in cells:
        line.add_column(no_wrap=True, overflow="crop")
    line.add_row(*cells)
    return line
