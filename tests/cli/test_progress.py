import codecs
import contextlib
import io
import math
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from types import SimpleNamespace

import numpy as np
import pytest

from cmarr_jax.cli import progress as progress_lib
from cmarr_jax.cli import terminal as terminal_lib
from cmarr_jax.cli.progress import Progress
from cmarr_jax.cli.units import size
from cmarr_jax.runtime import memory
from cmarr_jax.training.evaluation import Validated
from cmarr_jax.training.loop import Epoch
from cmarr_jax.workdir.status import Stopped

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"  # the cursor


def left(text):
    """The lines that are left: rich goes up line by line and erases each; colours are taken off."""
    rows = [""]
    for part in re.findall(r"\x1b\[[?\d;]*[a-zA-Z]|[\r\n]|[^\x1b\r\n]+", text):
        if part == "\x1b[1A":
            rows.pop()
        elif part == "\x1b[2K":
            rows[-1] = ""
        elif part == "\n":
            rows.append("")
        elif part.isprintable():
            rows[-1] += part
        else:
            assert part in ("\r", SHOW, HIDE) or part.endswith("m"), repr(part)
    return [row.rstrip() for row in rows]


class Terminal:
    """A pseudo-terminal that standard error writes to."""

    def __init__(self):
        self.master, self.slave = pty.openpty()
        file = io.FileIO(self.slave, "w", closefd=False)
        self.stream = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
        self.text = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def resize(self, columns, lines):
        termios.tcsetwinsize(self.slave, (lines, columns))

    def read(self, until=lambda rows: True):
        """The lines that are left; waits for them to be as `until` says."""
        end = time.monotonic() + 60
        while select.select([self.master], [], [], 0)[0] or not until(left(self.text)):
            assert time.monotonic() < end, left(self.text)
            if select.select([self.master], [], [], 0.05)[0]:
                self.text += self._decode(os.read(self.master, 65536))
        return left(self.text)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(progress_lib.devices, "describe", lambda: "1 x cpu")


@pytest.fixture
def terminal(monkeypatch):
    made = Terminal()
    made.resize(80, 24)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    # The test's own process belongs to another terminal, if to any.
    monkeypatch.setattr(terminal_lib.os, "tcgetpgrp", lambda fd: os.getpgrp())
    monkeypatch.setattr(progress_lib, "_host_bytes", lambda: 1.5e9)
    yield made
    made.stream.close()
    os.close(made.master)
    os.close(made.slave)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_lib.time, "monotonic", lambda: now[0])
    return now


def epoch(number, val_uar, best_uar=None, best_epoch=None, total=5, stage="", ends=(), on=None):
    val_uar = np.array(val_uar, np.float32)
    best_uar = val_uar if best_uar is None else np.array(best_uar, np.float32)
    return Epoch(
        stage=stage,
        number=number,
        total=total,
        terms={"loss": np.full(len(val_uar), 2.0 / number, np.float32)},
        validated=Validated(val_uar, 2 - val_uar),
        best_uar=best_uar,
        best_epoch=np.full(len(val_uar), best_epoch or number, np.int32),
        utterances_per_second=math.nan if number == 1 else 200.0,
        trained=np.full(len(val_uar), True) if on is None else np.array(on),
        stopped=list(ends) or [None] * len(val_uar),
    )


def begun(runs=2, variants=("default",)):
    """A progress of sweeps of some folds, one seed each."""
    progress = Progress()
    corpus = SimpleNamespace(labels=[0] * 60, modalities=("text", "video"))
    run_ids = [(SimpleNamespace(number=k + 1), 0) for k in range(runs)]
    parts = [
        SimpleNamespace(identity=dict(system="cmarr", variant=v, corpus="demo"), run_ids=run_ids)
        for v in variants
    ]
    progress.sweep(
        SimpleNamespace(
            sweeps=parts,
            corpus=corpus,
            stages=(SimpleNamespace(name="cmarr"),),
            precision=SimpleNamespace(name="tf32"),
            memory=10**9,
            scheme="",
            advice="",
            variants="; ".join(variants),
            gaps=[],
        )
    )
    return progress


@contextlib.contextmanager
def shown(terminal, runs=2):
    with contextlib.redirect_stderr(terminal.stream):
        with begun(runs) as progress:
            yield progress
        assert sys.stderr is terminal.stream


SWEEP = "cmarr (default) on demo: 60 utterances, text, video; 2 folds x 1 seeds on 1 x cpu in tf32"
MEMORY = f"memory: expected at most 1.00 GB of {size(memory.total())}"
TITLES = "fold seed val UAR  best epoch     loss  by epoch"


def test_without_a_terminal_an_epoch_is_a_line(monkeypatch, clock, capsys):
    monkeypatch.setattr(progress_lib, "_host_bytes", lambda: 1.5e9)
    monkeypatch.setattr(progress_lib, "_device_bytes", lambda: math.nan)
    with begun() as progress:
        clock[0] += 60  # it compiled
        for number in (3, 4, 5):  # resumed
            ends = [None, Stopped(2, 0, "", 4, 17, "rec", "nan")] if number == 4 else []
            progress.epoch(epoch(number, [0.5, 0.25], ends=ends, on=[True, number < 5]))
            clock[0] += 10
    assert capsys.readouterr().err.splitlines() == [
        SWEEP,
        MEMORY,
        "compiling ...",
        "epoch 3/5: loss 0.667, best val UAR % 37.5, utt/s 200, memory 1.50 GB",
        "fold 2, seed 0: stopped at step 17 (epoch 4), where rec became nan; the other runs go on",
        "epoch 4/5: loss 0.500, best val UAR % 37.5, utt/s 200, ETA 10 s, memory 1.50 GB",
        "epoch 5/5: loss 0.400, best val UAR % 37.5, utt/s 200, memory 1.50 GB",
    ]


def test_in_a_terminal_the_block_is_drawn_in_place(terminal, clock):
    terminal.resize(100, 24)
    with shown(terminal) as progress:
        assert terminal.read()[2].startswith("compiling  ")
        clock[0] += 60
        progress.epoch(epoch(1, [0.5, 0.25]))
        assert len(terminal.read()) == 2 + 5 + 1
        clock[0] += 10
        os.write(terminal.master, b"typed")
        terminal.read(until=lambda rows: rows[-1] == "typed")
        ends = [None, Stopped(2, 0, "", 2, 17, "rec", "nan")]
        progress.epoch(epoch(2, [0.4, 0.3], [0.5, 0.25], 1, ends=ends))
        clock[0] += 10
        progress.epoch(epoch(3, [0.6, 0.3], [0.6, 0.25], 3, on=[True, False]))
    assert terminal.read() == [
        SWEEP,
        MEMORY,
        "epoch 3/5  " + "━" * 24 + " " * 16 + "  loss 0.667, utt/s 200, in 80 s, ETA 20 s",
        TITLES,
        "   1    0    60.0  60.0     3    0.667  ▆▄█",
        "   2    0  stopped at step 17: rec became nan",
        "mean best val UAR % 42.5, memory 1.50 GB",
        "",
    ]


def test_fifteen_lanes_and_the_line_below_fit_80_by_24(terminal, clock):
    with shown(terminal, 15) as progress:
        for number in (1, 2, 3):
            clock[0] += 1
            progress.epoch(epoch(number, [0.5] * 15))
        rows = terminal.read()
        assert [row.split()[0] for row in rows[-17:-2]] == [str(k + 1) for k in range(15)]
        assert "\n".join(rows).count("epoch 3/5") == 1 and "epoch 2/5" not in "\n".join(rows)


def test_more_lanes_than_fit_do_not_scroll(terminal, clock):
    terminal.resize(60, 24)
    with shown(terminal, 50) as progress:
        for number in (1, 2, 3):
            clock[0] += 1
            progress.epoch(epoch(number, [0.5] * 50))
            frames = re.split(r"\x1b\[[12][AK]", "".join(terminal.text))
            assert max(frame.count("\n") for frame in frames) <= 23
    rows = terminal.read()
    assert len(rows) == 2 + 24
    assert rows[-24].startswith("epoch 3/5 ") and rows[-3] == "and 31 more runs"


def test_what_others_write_stays(terminal, clock):
    with shown(terminal, 1) as progress:
        progress.epoch(epoch(1, [0.5]))
        print("half a line", end="", file=sys.stderr)
        progress.epoch(epoch(2, [0.5]))
        print(", its end", file=sys.stderr)
        print("going on from epoch 5", file=sys.stderr)
        progress.epoch(epoch(3, [0.5]))
        progress.epoch(epoch(4, [0.5]))
        print("the last half", end="", file=sys.stderr)
    rows = terminal.read()
    said = [row.split("  ")[0] for row in rows if row[:4] in ("epoc", "half", "goin", "the ")]
    assert said == ["half a line, its end", "going on from epoch 5", "the last half", "epoch 4/5"]


def test_after_a_resize_another_block_begins_below(terminal, clock):
    with shown(terminal, 3) as progress:
        progress.epoch(epoch(1, [0.5] * 3))
        before = terminal.read()
        terminal.resize(70, 20)
        progress.epoch(epoch(2, [0.5] * 3))
        progress.epoch(epoch(3, [0.5] * 3))
        rows = terminal.read()
        assert rows[: len(before) - 1] == before[:-1]
        assert len(rows) == len(before) + 6 and rows[-7].startswith("epoch 3/5 ")
        terminal.resize(59, 20)
        progress.epoch(epoch(4, [0.5] * 3))
        assert terminal.read()[len(rows) - 1].startswith("epoch 4/5: loss 0.500, ")
        terminal.resize(60, 20)
        progress.epoch(epoch(5, [0.5] * 3))
    assert terminal.read()[-7].startswith("epoch 5/5  ━")


@pytest.mark.parametrize("why", ["dumb", "background", "no size"])
def test_where_nothing_can_be_redrawn_there_are_lines(terminal, clock, monkeypatch, why):
    if why == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    elif why == "background":
        monkeypatch.setattr(terminal_lib.os, "tcgetpgrp", lambda fd: os.getpgrp() + 1)
    else:
        termios.tcsetwinsize(terminal.slave, (0, 0))
    with shown(terminal) as progress:
        progress.epoch(epoch(1, [0.5, 0.5]))
    assert terminal.read()[-2:] == [
        "epoch 1/5: loss 2.000, best val UAR % 50.0, memory 1.50 GB",
        "",
    ]


def test_each_stage_has_a_block_and_a_rate_of_its_own(terminal, clock):
    with shown(terminal) as progress:
        for number in (1, 2):
            clock[0] += 100
            progress.epoch(epoch(number, [0.5, 0.5], total=2, stage="teacher"))
        clock[0] += 1000
        assert terminal.read()[-2].startswith("compiling  ")
        for number in (1, 2, 3):
            progress.epoch(epoch(number, [0.5, 0.5]))
            clock[0] += 10 * (number < 3)
    rows = terminal.read()
    heads = [row for row in rows if ("epoch " in row and "━" in row) or "compiling" in row]
    assert [re.sub(" +[━╸]+ +", "  ", row) for row in heads] == [
        "teacher epoch 2/2  loss 1.000, utt/s 200, in 3.3 min",
        "epoch 3/5  loss 0.667, utt/s 200, in 20.3 min, ETA 20 s",
    ]


def test_a_run_that_an_earlier_start_stopped_stays_so(terminal, clock):
    with shown(terminal) as progress:
        progress.epoch(epoch(3, [0.5, 0.2], on=[True, False]))
    assert "   2    0  stopped in an earlier start" in terminal.read()


CHILD = """
import fcntl, signal, sys, termios, time
from types import SimpleNamespace as Some
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
fcntl.ioctl(2, termios.TIOCSCTTY, 0)  # this terminal's foreground, as a shell would make it
import numpy as np
from cmarr_jax.cli.progress import Progress
from cmarr_jax.runtime import preemption
leave = preemption.listen()
progress, corpus = Progress(), Some(labels=[0] * 60, modalities=("text",))
identity = dict(system="cmarr", variant="default", corpus="demo")
progress.sweep(Some(
    sweeps=[Some(identity=identity, run_ids=[(Some(number=1), 0)])], corpus=corpus, stages=(None,),
    precision=Some(name="tf32"),
    memory=10**9, scheme="", advice="", variants="default", gaps=[],
))
one = np.ones(1)
try:
    with progress:
        for number in (1, 2):
            progress.epoch(Some(
                stage="", number=number, total=9, terms={"loss": one}, validated=Some(uar=one / 2),
                best_uar=one * number / 4, best_epoch=one.astype(int), utterances_per_second=100.0,
                trained=one > 0, stopped=[None],
            ))
        while not leave():
            time.sleep(0.05)  # a signal just before a sleep is heard after it
            if sys.argv[1] == "error":
                raise ValueError("not one line")
        sys.exit(143)
except KeyboardInterrupt:
    print("\\ninterrupted", file=sys.stderr)
    sys.exit(130)
"""


@pytest.mark.faults
@pytest.mark.parametrize(
    "end, code, said",
    [
        ("ctrl-c", 130, ["", "interrupted", ""]),
        ("term", 143, [""]),
        ("kill", -9, [""]),
        ("error", 1, ["ValueError: not one line", ""]),
    ],
)
def test_however_it_ends_the_terminal_is_as_it_was(end, code, said):
    terminal = Terminal()
    terminal.resize(80, 24)
    before = termios.tcgetattr(terminal.slave)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, end],
        stdin=terminal.slave,
        stdout=terminal.slave,
        stderr=terminal.slave,
        start_new_session=True,
        env=os.environ | {"TERM": "xterm", "NO_COLOR": "1", "JAX_PLATFORMS": "cpu"},
    )
    try:
        terminal.read(until=lambda rows: any("UAR % 50.0" in row for row in rows))
        if end == "ctrl-c":
            os.write(terminal.master, b"\x03")
        elif end != "error":
            child.send_signal(signal.SIGTERM if end == "term" else signal.SIGKILL)
        assert child.wait(30) == code
        rows = terminal.read()
    finally:
        child.kill()
        child.wait()
    assert termios.tcgetattr(terminal.slave) == before
    assert terminal.text.rindex(SHOW) > terminal.text.rindex(HIDE)
    assert rows[-len(said) :] == said
    at = rows.index(TITLES)
    assert rows[at + 1] == "   1    0    50.0  50.0     1    1.000  ▁▁"
    assert re.fullmatch(r"mean best val UAR % 50\.0, memory \d+\.\d+ (MB|GB)", rows[at + 2])


def test_sweeps_that_are_trained_together_have_lanes_of_their_own(terminal, clock):
    ends = [None, Stopped(1, 0, "", 1, 7, "rec", "nan")]
    variants = ("alpha=0.1", "alpha=0.5")
    with contextlib.redirect_stderr(terminal.stream), begun(1, variants) as progress:
        progress.epoch(epoch(1, [0.5, 0.25], ends=ends))
    rows = terminal.read()
    assert rows[0] == (
        "cmarr (alpha=0.1; alpha=0.5) on demo: 60 utterances, text, video; "
        "2 sweeps x 1 folds x 1 seeds on 1 x cpu in tf32"
    )
    at = rows.index("sweep fold seed val UAR  best epoch     loss  by epoch")
    assert rows[at + 1].startswith("    1    1    0    50.0  50.0     1    2.000")
    assert rows[at + 2] == "    2    1    0  stopped at step 7: rec became nan"


def test_bars_of_reading_testing_and_drawing_leave_nothing(terminal, clock):
    with contextlib.redirect_stderr(terminal.stream), Progress() as progress:
        progress.start("packs/demo")
        for done in range(60):
            progress.reading(done, 60)
        clock[0] += 3
        progress.testing(15)
        progress.advance(5)
        clock[0] += 10
        rows = terminal.read(until=lambda rows: "5 of 15" in rows[-2])
        assert re.fullmatch(r"testing: +[━╸]+ +5 of 15, 0\.5 runs/s, ETA 20 s", rows[-2])
        progress.drawing("report.html")
        assert re.fullmatch(r"drawing report\.html  [━ ]+  0 s", terminal.read()[-2])
        progress.done(["results/demo"], 12.3)
    assert terminal.read() == [
        "reading packs/demo ...",
        "done in 12 s; results lie in results/demo",
        "",
    ]
    assert "reading: " in terminal.text


def test_times_go_on_while_an_epoch_is_trained(terminal, clock):
    terminal.resize(100, 24)
    with shown(terminal) as progress:
        for number in (1, 2):
            clock[0] += 10
            progress.epoch(epoch(number, [0.5, 0.5]))
        clock[0] += 7
        terminal.read(until=lambda rows: any("in 27 s, ETA 23 s" in row for row in rows))


def test_in_a_notebook_there_are_lines(monkeypatch, clock, capsys):
    """IPython's standard error is no terminal; rich is asked nothing."""
    shell = type("ZMQInteractiveShell", (), {})
    monkeypatch.setattr("builtins.get_ipython", shell, raising=False)
    with begun() as progress:
        progress.reading(1, 2)
        progress.epoch(epoch(1, [0.5, 0.5]))
        progress.testing()
    assert capsys.readouterr().err.splitlines()[-1].startswith("epoch 1/5: loss 2.000")
