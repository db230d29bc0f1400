"""Progress of one piece of work: a bar in a terminal, elsewhere a plain line every 30 s."""

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar, cast

from rich.console import ConsoleOptions, RenderableType

from cmarr_jax.cli.terminal import Drawing, bar_line
from cmarr_jax.cli.units import duration

_SECONDS_BETWEEN_LINES = 30.0

T = TypeVar("T")


class Bar:
    """Progress of one piece of work; whoever does it sets `done`."""

    def __init__(self, name: str, unit: str = "", total: float | None = None, done: float = 0):
        """Earlier runs have finished `done` of `total`; total = None: unknown."""
        self.name, self.unit, self.total, self.done = name, unit, total, done
        self._before, self._began = done, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def rate(self) -> tuple[float, float]:
        """Units a second, and the seconds that it still takes at this rate."""
        seconds = self.seconds
        rate = (self.done - self._before) / seconds if seconds else 0.0
        return rate, (self.total - self.done) / rate if rate and self.total else math.inf

    def draw(self, options: ConsoleOptions) -> RenderableType:
        """The bar as a line of a terminal."""
        width = options.max_width - 1
        if self.total is None:
            return bar_line(self.name, None, duration(self.seconds), width)
        rate, left = self.rate()
        facts = f"{self.done:,.0f} of {self.total:,.0f}, {rate:,.1f} {self.unit}/s"
        if math.isfinite(left):
            facts += f", ETA {duration(left)}"
        share = self.done / self.total if self.total else 1.0
        return bar_line(f"{self.name}:", share, facts, width)


class Bars:
    """One bar after the other, on standard error; `quiet` shows warnings alone."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet
        self._drawing = Drawing()

    def start(self, name: str, unit: str, total: float, done: float = 0) -> None:
        """Begins the work `name`; earlier runs have finished `done` of `total`."""
        self._bar, self._said = Bar(name, unit, total, done), 0.0
        if done:
            self.say(f"{name}: resuming, {done:,.0f} of {total:,.0f} {unit} are done")
        if not self._quiet:
            self._drawing.show(self._bar.draw)

    def advance(self, amount: float = 1) -> None:
        """Counts `amount` more units as done."""
        bar = self._bar
        bar.done += amount
        if (now := bar.seconds) - self._said >= _SECONDS_BETWEEN_LINES and not self._quiet:
            self._said = now
            if not self._drawing.show(bar.draw):
                rate, left = bar.rate()
                self.say(
                    f"{bar.name}: {bar.done:,.0f} of {bar.total:,.0f} {bar.unit}, "
                    f"{rate:,.1f} a second, {left / 60:.1f} min left"
                )

    def finish(self, summary: str) -> None:
        """Ends the work with one line."""
        self.close()
        self.say(f"{self._bar.name}: {summary} in {self._bar.seconds:.0f} s")

    def close(self) -> None:
        """Ends the work and prints nothing."""
        self._drawing.close()

    def say(self, line: str) -> None:
        """A line of information."""
        if not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def warn(self, line: str) -> None:
        """A line that is shown even if `quiet`."""
        print(f"warning: {line}", file=sys.stderr, flush=True)


def track(
    items: Iterable[T], name: str, unit: str = "utt", total: int | None = None
) -> Iterator[T]:
    """Yields the items and shows a bar of how many were taken; `total` = None: `len(items)`."""
    bars = Bars()
    bars.start(name, unit, len(cast(Sized, items)) if total is None else total)
    try:
        for item in items:
            yield item
            bars.advance()
    finally:
        bars.close()
