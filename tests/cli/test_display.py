import io
import math

import pytest
from rich.console import Console

from cmarr_jax.cli import display


def lane(fold, seed, *val_uar, loss=1.0, **fields):
    best = max(val_uar, default=-1)
    epoch = val_uar.index(best) + 1 if val_uar else 0
    return display.Lane(fold, seed, val_uar, best, epoch, loss, **fields)


def state(*lanes, **fields):
    known = dict(stage="", number=3, total=12, speed=1234.4, elapsed=65.0, left=200.0)
    return display.State(lanes=lanes, **known | dict(host=1.21e9, device=math.nan) | fields)


def block(state, width, height, unicode=True):
    """The lines of a block in a terminal of that size, without colours."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8" if unicode else "ascii")
    size = dict(width=width, height=height)
    console = Console(file=file, force_terminal=True, color_system=None, **size)
    console.print(display.block(state, console.options))
    file.flush()
    return [line.rstrip() for line in file.buffer.getvalue().decode().splitlines()]


TWO = (
    lane(1, 0, 0.25, 0.5, 0.4, loss=1.25),
    lane(10, 7, 0.3, 0.35, 0.6, loss=0.75),
)
STOPPED = ("stopped at step 41: rec became nan", "step 41: rec became nan")
MANY = [lane(k // 5 + 1, k % 5, 0.5) for k in range(50)]


def test_a_block_has_a_lane_a_run():
    assert block(state(*TWO, device=5e8), 80, 24) == [
        "epoch 3/12  ━━━━━                  loss 1.000, utt/s 1234, in 65 s, ETA 3.3 min",
        "fold seed val UAR  best epoch     loss  by epoch",
        "   1    0    40.0  50.0     2    1.250  ▁▆▄",
        "  10    7    60.0  60.0     3    0.750  ▂▃█",
        "mean best val UAR % 55.0, memory 1.21 GB, device 500.0 MB",
    ]


def test_without_unicode_there_is_ascii_alone():
    lines = block(state(*TWO), 60, 24, unicode=False)
    assert lines[0] == "epoch 3/12  --          loss 1.000, utt/s 1234, ETA 3.3 min"
    assert lines[2] == "   1    0    40.0  50.0     2    1.250"
    assert "\n".join(lines).isascii()


def test_a_stopped_run_says_where_and_why_in_its_lane_and_is_in_no_mean_loss():
    ended = lane(2, 0, 0.7, loss=math.nan, stopped=STOPPED)
    lines = block(state(TWO[0], ended), 60, 24)
    assert "loss 1.250," in lines[0]
    assert lines[3] == "   2    0  stopped at step 41: rec became nan"
    beside = block(state(ended, *MANY), 80, 24)
    assert beside[2].startswith("   2    0  step 41: rec became nan  ")
    none = block(state(lane(2, 0, loss=math.nan, stopped=STOPPED)), 60, 24)
    assert "loss -," in none[0] and none[-1] == "mean best val UAR % -, memory 1.21 GB"


def test_before_the_second_epoch_the_rate_is_unknown_and_after_the_last_nothing_is_left():
    first = state(*TWO, number=1, total=12, speed=math.nan, left=math.nan)
    assert display.line(first) == "epoch 1/12: loss 1.000, best val UAR % 55.0, memory 1.21 GB"
    last = state(*TWO, number=12, total=12, left=0.0)
    assert block(last, 80, 24)[0] == (
        "epoch 12/12  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  loss 1.000, utt/s 1234, in 65 s"
    )


def test_an_earlier_stage_has_its_name_and_an_eta_of_its_own():
    line = display.line(state(*TWO, stage="teacher", host=math.nan))
    assert line == (
        "teacher epoch 3/12: loss 1.000, best val UAR % 55.0, utt/s 1234, stage ETA 3.3 min"
    )


def test_fifteen_runs_fit_80_by_24_with_their_curves():
    lines = block(state(*MANY[:15]), 80, 24)
    assert len(lines) == 18
    assert lines[2:17] == [
        f"{x.fold:4}    {x.seed}    50.0  50.0     1    1.000  ▁" for x in MANY[:15]
    ]


def test_more_runs_lie_side_by_side_and_what_does_not_fit_is_counted():
    ended = [run._replace(stopped=STOPPED) for run in MANY[48:]]
    lines = block(state(*MANY[:48], *ended), 80, 24)
    assert len(lines) == 23
    assert lines[2] == (
        "   1    0    50.0  50.0     1    1.000      4    4    50.0  50.0     1    1.000"
    )
    assert lines[-2] == "and 12 more runs, 2 of them stopped"
    below = block(state(*MANY), 60, 24)
    assert len(below) == 23 and below[-2] == "and 31 more runs"
    wide = block(state(*MANY), 200, 41)
    assert len(wide) == 28 and wide[1].count("by epoch") == 2  # no more columns than are needed


@pytest.mark.parametrize("width", [60, 80, 301])
@pytest.mark.parametrize("height", [10, 24])
@pytest.mark.parametrize("runs", [1, 15, 50])
def test_nothing_is_larger_than_the_terminal(width, height, runs):
    long = [
        run._replace(seed=12345678, val_uar=[0.1, 0.9, math.nan] * 40, loss=-123456.7)
        for run in MANY[:runs]
    ]
    extreme = state(*long, stage="teacher", number=999, total=1000, speed=9e6, device=9e11)
    lines = block(extreme, width, height)
    assert len(lines) < height and max(map(len, lines)) < width
    assert lines[-1].startswith("mean best val UAR % 50.0, memory")
    assert lines[0].endswith("stage ETA 3.3 min")
    assert " 50.0     1 -1.2e+05" in lines[2]


def test_a_long_curve_keeps_its_first_and_last_epoch():
    rising = [k / 100 for k in range(100)]
    line = block(state(lane(1, 0, *rising)), 80, 24)[2]
    curve = line.split()[-1]
    assert len(curve) == 30 and list(curve) == sorted(curve)
    assert curve[0] == "▁" and curve[-1] == "█"
