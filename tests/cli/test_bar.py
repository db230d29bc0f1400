import os

import pytest

from cmarr_jax.cli import bar
from cmarr_jax.cli import terminal as terminal_lib
from cmarr_jax.cli.bar import Bars


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_every_30_seconds(clock, capsys):
    progress = Bars()
    progress.start("speech", "s of audio", total=1000, done=100)
    for _ in range(9):
        clock[0] += 10
        progress.advance(20)
    progress.finish("features of 5 of 5 utterances")
    assert capsys.readouterr().err.splitlines() == [
        "speech: resuming, 100 of 1,000 s of audio are done",
        "speech: 160 of 1,000 s of audio, 2.0 a second, 7.0 min left",
        "speech: 220 of 1,000 s of audio, 2.0 a second, 6.5 min left",
        "speech: 280 of 1,000 s of audio, 2.0 a second, 6.0 min left",
        "speech: features of 5 of 5 utterances in 90 s",
    ]


def test_in_a_terminal_a_bar_in_the_modalitys_unit(monkeypatch, capsys):
    monkeypatch.setattr(terminal_lib, "screen", lambda: os.terminal_size((80, 24)))
    progress = Bars()
    progress.start("video", "frames", total=10, done=0)
    progress.advance(4)
    progress.finish("features of 1 of 1 utterances")
    error = capsys.readouterr().err
    assert "video:" in error and " frames/s" in error


def test_quiet_leaves_warnings(clock, capsys):
    progress = Bars(quiet=True)
    progress.start("text", "tokens", total=10, done=5)
    clock[0] += 60
    progress.advance(5)
    progress.warn("look")
    progress.finish("done")
    assert capsys.readouterr().err == "warning: look\n"
