"""What a person sees while a sweep runs: a block of lanes in a terminal, plain lines elsewhere.

The block is redrawn in place after each epoch; in between nothing moves, as an epoch is one
program. The cursor rests below it, is never hidden, and there are no colours: however a sweep
ends, the terminal is as it was. TERM=dumb asks for plain lines.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import jax
import tqdm

from cmarr_jax.cli import display
from cmarr_jax.runtime import devices, memory


class Silent:
    """Stands in for `Progress` in a process that leaves the telling to another."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Progress:
    """Writes to standard error, so that standard output holds the table alone."""

    def __init__(self):
        self._bar = self._block = self._stage = None
        self._stopped = {}

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._close()

    def start(self, pack: str) -> None:
        """Says what is being read; preparing a pack for the first time takes a while."""
        _say(f"reading {pack} ...")

    def reading(self, done: int, total: int) -> None:
        """Shows how many utterances were read."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = tqdm.tqdm(total=total, desc="reading", unit="utt", leave=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()
            self._bar = None

    def sweep(self, experiment: Any) -> None:
        """Says what will be trained, a `training.experiment.Experiment`, before it is."""
        parts, corpus, stages = experiment.sweeps, experiment.corpus, experiment.stages
        self._runs = [
            (number if parts[1:] else 0, fold.number, seed)
            for number, part in enumerate(parts, start=1)
            for fold, seed in part.run_ids
        ]
        self._began = time.monotonic()
        identity, run_ids = parts[0].identity, parts[0].run_ids
        folds = len({fold.number for fold, _ in run_ids})
        _say(
            f"{identity['system']} ({experiment.variants}) on {identity['corpus']}: "
            f"{len(corpus.labels)} utterances, {', '.join(corpus.modalities)}; "
            + (f"{len(parts)} sweeps x " if parts[1:] else "")
            + f"{folds} folds x {len(run_ids) // folds} seeds on {devices.describe()}"
            + "".join(f"; {k}: {stage.name}" for k, stage in enumerate(stages, 1) if stages[1:])
        )
        there = display.size(memory.total())
        _say(f"memory: expected at most {display.size(experiment.memory)} of {there}")
        _say("compiling ...")

    def measure(self) -> None:
        """Says that a dry run has begun, which compiles too."""
        _say("compiling and measuring a few steps ...")

    def epoch(self, epoch: Any) -> None:
        """Shows one finished epoch, `training.loop.Epoch`."""
        state = self._take(epoch)
        if screen := _screen():
            if self._block is None:
                self._block = _Block(sys.stderr)
            self._block.draw(state, screen)
        else:
            self._close()
            for stopped in filter(None, epoch.stopped):
                _say(f"{stopped}; the other runs go on")
            _say(display.line(state))
        if epoch.number == epoch.total:
            self._close()
            if epoch.stage:  # another one follows
                _say("compiling ...")

    def done(self, folders: Sequence[str], seconds: float) -> None:
        """Says where the results lie."""
        self._close()
        _say(f"done in {seconds:.0f} s; results lie in {', '.join(folders)}")

    def _take(self, epoch: Any) -> display.State:
        now = time.monotonic()
        if epoch.stage != self._stage:
            self._close()
            self._stage = epoch.stage
            self._first = (epoch.number, now)  # that epoch compiled, it is in no rate
            self._val_uar = [[] for _ in self._runs]
        for r, s in enumerate(epoch.stopped):
            if s:
                why = f"step {s.step}: {s.reason}"
                self._stopped[r] = (f"stopped at {why}", why)
        lanes = []
        for r, run in enumerate(self._runs):
            earlier = () if epoch.trained[r] else ("stopped in an earlier start",)
            if not (stopped := self._stopped.get(r, earlier)):
                self._val_uar[r].append(epoch.val_uar[r])
            shown = epoch.best_uar[r], epoch.best_epoch[r], epoch.terms["loss"][r]
            lanes.append(display.Lane(*run[1:], self._val_uar[r], *shown, stopped, run[0]))
        number, since = self._first
        rate = (now - since) / (epoch.number - number) if epoch.number > number else math.nan
        return display.State(
            epoch.stage,
            epoch.number,
            epoch.total,
            lanes,
            speed=epoch.utterances_per_second,
            elapsed=now - self._began,
            left=rate * (epoch.total - epoch.number),
            host=_host_bytes(),
            device=_device_bytes(),
        )

    def _close(self) -> None:
        if self._block is not None:
            self._block.close()
            self._block = None


class _Block:
    """Lines at the bottom of a terminal that are drawn over until something else is written."""

    def __init__(self, stream: TextIO):
        self._stream, self._height, self._screen, self._at_start = stream, 0, None, True
        # What others write meanwhile (warnings, say) lies below the block and stays there.
        self._others = contextlib.redirect_stderr(_Watched(stream, self._leave))
        self._others.__enter__()

    def draw(self, state: display.State, screen: os.terminal_size) -> None:
        """Draws over the last block, or below it where it may have moved."""
        width, height = screen.columns - 1, screen.lines - 1  # the cursor rests below, unwrapped
        unicode = (self._stream.encoding or "").lower().replace("-", "") == "utf8"
        lines = display.block(state, width, height, unicode)
        if screen != self._screen:  # a terminal of another size may have wrapped its lines anew
            self._height = 0
        over = f"\x1b[{self._height}A" if self._height else "" if self._at_start else "\n"
        text = "".join(f"{line}\x1b[K\n" for line in lines)
        self._stream.write(f"{over}\r{text}\x1b[J")  # at once, so that nothing flickers
        self._stream.flush()
        self._height, self._screen, self._at_start = len(lines), screen, True

    def close(self) -> None:
        """Leaves the block; the next one is another."""
        self._others.__exit__(None, None, None)

    def _leave(self, text: str) -> None:
        self._height, self._at_start = 0, text.endswith("\n")


class _Watched:
    """A stream that tells what is written to it."""

    def __init__(self, stream: TextIO, tell: Callable[[str], None]):
        self._stream, self._tell = stream, tell

    def write(self, text: str) -> int:
        if text:
            self._tell(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _screen() -> os.terminal_size | None:
    """The size of the terminal that standard error is, if a block can be drawn there."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return None
    try:
        screen = os.get_terminal_size(sys.stderr.fileno())
        ours = os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()  # not in the background
    except (OSError, ValueError):
        return None
    return screen if ours and screen.columns >= 60 and screen.lines >= 10 else None


def _host_bytes() -> float:
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux
        return math.nan


def _device_bytes() -> float:
    try:
        held = [device.memory_stats() or {} for device in jax.local_devices()]
    except jax.errors.JaxRuntimeError:  # a platform that does not count
        return math.nan
    return max(float(statistics.get("bytes_in_use", math.nan)) for statistics in held)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
