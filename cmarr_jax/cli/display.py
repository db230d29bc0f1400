"""Progress of a sweep, as one line and as a block of lanes; pure functions of its state."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.console import ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cmarr_jax.cli.terminal import bar_line
from cmarr_jax.cli.units import duration, size

_GAP = 3  # columns between lanes that lie side by side
_CURVE = 30  # columns that a curve takes at most


class Lane(NamedTuple):
    """Progress of one run."""

    fold: int
    seed: int
    val_uar: Sequence[float]  # after each epoch of this start
    best_uar: float  # below 0 = none yet
    best_epoch: int  # counted from 1
    loss: float
    stopped: Sequence[str] = ()  # where and why it was stopped, from long to short text
    sweep: int = 0  # number among the sweeps trained together, from 1; 0 = there is only one


class State(NamedTuple):
    """Progress of a sweep after an epoch."""

    stage: str  # name of an earlier stage, "" of the last
    number: int  # of the epoch, counted from 1
    total: int  # epochs of the stage
    lanes: Sequence[Lane]
    speed: float  # utterances a second; nan = unknown
    elapsed: float  # seconds since the start
    left: float  # seconds that the stage will still take; nan = unknown
    host: float  # bytes of memory that this process holds; nan = unknown
    device: float  # bytes in use on the fullest device; nan = unknown


def line(state: State) -> str:
    """An epoch as one line, for output that cannot be redrawn."""
    facts = [_loss(state), _best(state), _speed(state), _left(state), *_memory(state)]
    return f"{_epoch(state)}: {', '.join(filter(None, facts))}"


def block(state: State, options: ConsoleOptions) -> RenderableType:
    """An epoch as a block that fits on a terminal and leaves one line free.

    Every run has a lane. If there are too many for one column, they stand in several; the last line
    but one says how many do not fit.

    Args:
      state: what is shown.
      options: of the terminal, at least 60 columns and 10 lines. Without Unicode no curves are
        drawn.
    """
    width, height = options.max_width - 1, options.size.height - 1
    lanes, rows = state.lanes, height - 3  # less the header, the titles and the averages
    seed = max(4, *(len(str(lane.seed)) for lane in lanes))
    titles = f"fold {'seed':>{seed}} val UAR  best epoch     loss"
    if any(lane.sweep for lane in lanes):
        titles = f"sweep {titles}"
    columns = max(1, min(-(-len(lanes) // rows), (width + _GAP) // (len(titles) + _GAP)))
    hidden = ()
    if len(lanes) > rows * columns:
        rows -= 1  # for how many are hidden
        lanes, hidden = lanes[: rows * columns], lanes[rows * columns :]
    breadth = min((width + _GAP) // columns - _GAP, len(titles) + 2 + _CURVE)
    curve = breadth - len(titles) - 2
    if options.ascii_only or curve < 8:
        curve = 0
    else:
        titles += "  by epoch"
    known = [uar for lane in lanes for uar in lane.val_uar if math.isfinite(uar)]
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for _ in range(columns):
        table.add_column(titles, width=breadth, no_wrap=True, overflow="crop")
    cells = [_lane(lane, seed, breadth, curve, known) for lane in lanes]
    for row in range(per_column := -(-len(cells) // columns)):
        table.add_row(*cells[row::per_column])
    lines = [_header(state, width), table]
    if hidden:
        stopped = sum(bool(lane.stopped) for lane in hidden)
        ends = f", {stopped} of them stopped" if stopped else ""
        lines.append(Text(f"and {len(hidden)} more runs{ends}"))
    averages = ", ".join(filter(None, ["mean " + _best(state), *_memory(state)]))
    return Group(*lines, Text(averages[:width], no_wrap=True))


def _header(state: State, width: int) -> RenderableType:
    start = _epoch(state)
    loss, speed, left = _loss(state), _speed(state), _left(state)
    elapsed = f"in {duration(state.elapsed)}"
    # From most to least facts, each with the least columns of its bar: the first that fits.
    choices = (((loss, speed, elapsed, left), 5), ((loss, speed, left), -2), ((loss, left), None))
    for facts, least in choices:
        end = ", ".join(filter(None, facts))
        if least is None or width - len(start) - len(end) - 4 >= least:
            break
    return bar_line(start, state.number / state.total, end, width)


def _lane(lane: Lane, seed: int, width: int, curve: int, known: Sequence[float]) -> Text:
    text = f"{lane.sweep:5} " if lane.sweep else ""
    text += f"{lane.fold:4} {lane.seed:{seed}} "
    if lane.stopped:
        room = width - len(text) - 1
        fitting = [why for why in lane.stopped if len(why) <= room]
        return Text(f"{text} {(*fitting, lane.stopped[-1][:room])[0]}", style="red")
    val_uar = lane.val_uar[-1] if lane.val_uar else math.nan
    best = f"{_percent(lane.best_uar):>5} {lane.best_epoch or '-':>5}"
    text += f"{_percent(val_uar):>7} {best} {_number(lane.loss):>8}"
    return Text(f"{text}  {_sparkline(lane.val_uar, curve, known)}".rstrip())


def _sparkline(values: Sequence[float], width: int, known: Sequence[float]) -> str:
    """The finite `values` as a curve of at most `width` characters, on the scale of `known`."""
    values = [x for x in values if math.isfinite(x)]
    if len(values) > width:
        values = [values[k] for k in np.linspace(0, len(values) - 1, width).round().astype(int)]
    low, span = min(known, default=0), np.ptp(known) if known else 0
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (x - low) / span) if span else 0] for x in values)


def _epoch(state: State) -> str:
    return f"{state.stage} epoch {state.number}/{state.total}".lstrip()


def _loss(state: State) -> str:
    losses = [lane.loss for lane in state.lanes if not lane.stopped]
    return f"loss {_number(float(np.mean(losses))) if losses else '-'}"


def _best(state: State) -> str:
    best = [lane.best_uar for lane in state.lanes if lane.best_uar >= 0]
    return f"best val UAR % {_percent(float(np.mean(best)) if best else -1)}"


def _speed(state: State) -> str:
    return f"utt/s {state.speed:.0f}" if math.isfinite(state.speed) else ""


def _left(state: State) -> str:
    if not math.isfinite(state.left) or state.number == state.total:
        return ""
    return f"{'stage ' if state.stage else ''}ETA {duration(state.left)}"


def _memory(state: State) -> list[str]:
    memory = (("memory", state.host), ("device", state.device))
    return [f"{name} {size(held)}" for name, held in memory if math.isfinite(held)]


def _number(loss: float) -> str:
    return f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.2g}"


def _percent(uar: float) -> str:
    return f"{100 * uar:.1f}" if uar >= 0 else "-"
