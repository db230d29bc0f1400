"""What a person sees while a sweep runs: bars and a block of lanes in a terminal, else plain lines.

The block has a lane for each run and changes after each epoch. Plain lines are printed if TERM=dumb
or if standard error is a file, a notebook or the terminal of another job.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from rich.console import ConsoleOptions, RenderableType

from cmarr_jax.cli import display
from cmarr_jax.cli.bar import Bar
from cmarr_jax.cli.terminal import Drawing
from cmarr_jax.cli.units import size
from cmarr_jax.runtime import devices, memory


class Silent:
    """Replaces `Progress` in processes that print nothing."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Progress:
    """Writes to standard error, so that standard output has only the table."""

    def __init__(self):
        self._drawing = Drawing()
        self._bar = Bar("")
        self._stage = None
        self._stopped = {}

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._drawing.close()

    def start(self, pack: str) -> None:
        """Says which pack is read: the first time, its preparation takes a while."""
        _say(f"reading {pack} ...")

    def reading(self, done: int, total: int) -> None:
        """Shows how many utterances were read."""
        if self._bar.name != "reading":
            self._show("reading", "utt", total)
        self._bar.done = done
        if done == total:
            self._drawing.close()

    def sweep(self, experiment: Any) -> None:
        """Says what is about to be trained, a `training.experiment.Experiment`."""
        sweeps, corpus, stages = experiment.sweeps, experiment.corpus, experiment.stages
        self._runs = [
            (number if sweeps[1:] else 0, fold.number, seed)
            for number, sweep in enumerate(sweeps, start=1)
            for fold, seed in sweep.run_ids
        ]
        self._began = time.monotonic()
        identity, run_ids = sweeps[0].identity, sweeps[0].run_ids
        folds = len({fold.number for fold, _ in run_ids})
        _say(
            f"{identity['system']} ({experiment.variants}) on {identity['corpus']}: "
            f"{len(corpus.labels)} utterances, {', '.join(corpus.modalities)}; "
            + (f"{len(sweeps)} sweeps x " if sweeps[1:] else "")
            + f"{folds} folds x {len(run_ids) // folds} seeds on {devices.describe()} in "
            + experiment.precision.name
            + "".join(f"; {k}: {stage.name}" for k, stage in enumerate(stages, 1) if stages[1:])
        )
        for line in filter(None, (experiment.scheme, *experiment.gaps, experiment.advice)):
            _say(line)
        there = size(memory.total())
        _say(f"memory: expected at most {size(experiment.memory)} of {there}")
        self._compile()

    def measure(self) -> None:
        """Says that a dry run has begun, which compiles too."""
        _say("compiling and measuring a few steps ...")

    def epoch(self, epoch: Any) -> None:
        """Shows one finished epoch, `training.loop.Epoch`."""
        self._state = self._take(epoch)
        if not self._drawing.show(self._block, keep=True):
            pairs = zip(epoch.trained, epoch.stopped, strict=True)
            going = any(trained and not stopped for trained, stopped in pairs)
            for stopped in filter(None, epoch.stopped):
                _say(f"{stopped}; the other runs go on" if going else str(stopped))
            _say(display.line(self._state))
        if epoch.number == epoch.total:
            self._drawing.close()
            if epoch.stage:  # another stage follows
                self._compile()

    def testing(self, total: int | None = None) -> None:
        """Shows that the best models are tested, with a count if `total` is given."""
        self._show("testing", "runs", total)

    def drawing(self, name: str) -> None:
        """Shows that the figure or page `name` is being drawn."""
        self._show(f"drawing {name}")

    def advance(self, amount: int = 1) -> None:
        """Counts `amount` more as done."""
        self._bar.done += amount

    def done(self, folders: Sequence[str], seconds: float) -> None:
        """Says where the results are."""
        self._drawing.close()
        where = f"results lie in {', '.join(folders)}" if folders else "no run has results"
        _say(f"done in {seconds:.0f} s; {where}")

    def _compile(self) -> None:
        if not self._show("compiling"):
            _say("compiling ...")

    def _show(self, name: str, unit: str = "", total: int | None = None) -> bool:
        self._bar = Bar(name, unit, total)
        return self._drawing.show(self._bar.draw)

    def _block(self, options: ConsoleOptions) -> RenderableType:
        """The block with the present times, which go on while the next epoch is trained."""
        elapsed, left = self._state.elapsed, self._state.left
        since = time.monotonic() - self._began - elapsed
        left = max(left - since, 0.0) if math.isfinite(left) else left
        return display.block(self._state._replace(elapsed=elapsed + since, left=left), options)

    def _take(self, epoch: Any) -> display.State:
        now = time.monotonic()
        if epoch.stage != self._stage:
            self._drawing.close()
            self._stage = epoch.stage
            self._first = (epoch.number, now)  # this epoch compiles, so no rate counts it
            self._val_uar: list[list[float]] = [[] for _ in self._runs]
        for r, s in enumerate(epoch.stopped):
            if s:
                why = f"step {s.step}: {s.reason}"
                self._stopped[r] = (f"stopped at {why}", why)
        lanes = []
        for r, run in enumerate(self._runs):
            earlier = () if epoch.trained[r] else ("stopped in an earlier start",)
            if not (stopped := self._stopped.get(r, earlier)):
                self._val_uar[r].append(epoch.validated.uar[r])
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
