import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from cmarr_jax.cli.bar import Bars
from cmarr_jax.data import pack
from cmarr_jax.errors import UserError
from cmarr_jax.extract import engine, store
from cmarr_jax.extract.source import Loaded
from tests.extract.fake import ENVIRONMENT, corpus, extract, source, utterance

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TWENTY = [utterance(i) for i in range(20)]


def contents(folder):
    files = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            files[name] = f.read()
    return files


def problems(out):
    with open(os.path.join(out, "problems.csv"), newline="") as f:
        return [tuple(row.values()) for row in csv.DictReader(f)]


def test_each_utterance_has_its_own_rows_in_the_packs_order(tmp_path):
    batches = []
    report = extract(tmp_path / "p", TWENTY, [source(batches=batches)])
    made = pack.read(str(tmp_path / "p"))
    assert made.columns["id"].tolist() == [u.id for u in TWENTY]
    for i, u in enumerate(TWENTY):
        features = made.sequence("text", i)
        assert features.dtype == np.float32 and features.shape == (len(u.text), 3)
        assert (features[:, 0] == i).all() and (features[:, 2] == np.arange(len(u.text))).all()
    assert report.statuses == {"text": {"ok": 20}} and report.bad_share("text") == 0
    assert all(len(ids) <= {8: 4, 32: 3}[bucket] for bucket, ids in batches)
    # Only the last batch of a bucket may be short: anything else wastes the device.
    for bucket, size in ((8, 4), (32, 3)):
        assert [len(ids) for b, ids in batches if b == bucket][:-1].count(size) == (
            len([b for b, _ in batches if b == bucket]) - 1
        )
    assert problems(tmp_path / "p") == []
    assert os.listdir(tmp_path) == ["p"]


def test_the_longest_come_first(tmp_path):
    batches = []
    extract(tmp_path / "p", TWENTY, [source(batches=batches)])
    assert batches[0][0] == 32
    lengths = {u.id: len(u.text) for u in TWENTY}
    assert min(lengths[i] for i in batches[0][1]) >= max(lengths[i] for i in batches[1][1])


def test_a_fresh_run_does_not_speak_of_resuming(tmp_path, capsys):
    fractions = source()._replace(amount=lambda u: len(u.text) * 0.1)
    extract(tmp_path / "p", TWENTY, [fractions], progress=Bars())
    assert "resuming" not in capsys.readouterr().err


def test_every_status_is_counted_and_named_and_no_clip_stops_the_run(tmp_path):
    found = {
        "u001": Loaded("truncated", ("u001", 4), "cut to 4"),
        "u002": Loaded("silent", None, "variance 0"),
        "u003": Loaded("ok", ("u003", 0)),
        "u004": Loaded("ok", ("u004", 5)),
    }

    def load(u):
        if u.id == "u005":
            raise OSError("disk on fire")
        return found.get(u.id, Loaded("ok", (u.id, 2)))

    def encode(bucket, items):
        return [
            np.full((n, 3), np.nan if identifier == "u004" else 1.0, np.float32)
            for identifier, n in items
        ]

    speech = source("speech", load=load)._replace(encode=encode)
    out = tmp_path / "p"
    report = extract(out, TWENTY, [source(), speech])
    assert report.statuses["speech"] == {
        "nonfinite": 1, "ok": 15, "silent": 1, "too_short": 1, "truncated": 1, "unreadable": 1,
    }  # fmt: skip
    assert report.bad_share("speech") == pytest.approx(4 / 20)
    assert [row[:3] for row in problems(out)] == [
        ("u001", "speech", "truncated"),
        ("u002", "speech", "silent"),
        ("u003", "speech", "too_short"),
        ("u004", "speech", "nonfinite"),
        ("u005", "speech", "unreadable"),
    ]
    assert problems(out)[4][3] == "OSError: disk on fire"
    made = pack.read(str(out))
    assert np.diff(made.offsets["speech"]).tolist() == [2, 4, 0, 0, 0, 0] + [2] * 14


def test_what_float16_cannot_hold_is_nonfinite(tmp_path):
    big = source("speech")._replace(
        encode=lambda bucket, items: [
            np.full((2, 3), 1e5 if i == "u000" else 1.0, "f4") for i, _ in items
        ]
    )
    report = extract(tmp_path / "p", TWENTY, [source(), big], dtype="float16")
    assert report.statuses["speech"] == {"nonfinite": 1, "ok": 19}


def test_without_any_modality_an_utterance_is_dropped_with_a_warning(tmp_path, capsys):
    given = [utterance(i, None if i == 2 else "") for i in range(5)]
    report = extract(tmp_path / "p", given, [source()])
    assert report.dropped == 1
    assert pack.read(str(tmp_path / "p")).columns["id"].tolist() == ["u000", "u001", "u003", "u004"]
    assert ("u002", "all", "dropped", "no features in any modality") in problems(tmp_path / "p")
    assert "1 of 5 utterances have no features" in capsys.readouterr().err


def test_a_modality_without_features_is_refused_and_no_pack_is_made(tmp_path):
    empty = source("speech", load=lambda u: Loaded("missing_file", None, "no x.wav"))
    with pytest.raises(
        UserError, match=r"speech: no utterance has features \(20 missing_file\).*no x\.wav"
    ):
        extract(tmp_path / "p", TWENTY, [source(), empty])
    assert not os.path.exists(tmp_path / "p")


def test_a_failing_device_is_one_line_and_finished_batches_are_kept(tmp_path):
    def fail_on_short(bucket, items):
        if bucket == 8:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nat ...")
        return source().encode(bucket, items)

    with pytest.raises(UserError, match=r"bucket 8 \(RESOURCE_EXHAUSTED: out of memory\)"):
        extract(tmp_path / "p", TWENTY, [source()._replace(encode=fail_on_short)])
    loads = []
    extract(tmp_path / "p", TWENTY, [source(loads=loads)])
    assert 0 < len(loads) < len(TWENTY)


def test_decoding_goes_on_while_the_device_computes(tmp_path):
    later = threading.Event()

    def load(u):
        if u.id == order[-1]:
            later.set()
        return Loaded("ok", (u.id, len(u.text)))

    def encode(bucket, items):
        assert later.wait(10)
        return source().encode(bucket, items)

    order = sorted((u.id for u in TWENTY), key=lambda i: (-len(TWENTY[int(i[1:])].text), i))
    extract(tmp_path / "p", TWENTY, [source(load=load)._replace(encode=encode)])


def test_a_missing_extra_stops_the_run(tmp_path):
    def load(u):
        raise UserError("soundfile is missing: pip install -r requirements-extract.txt")

    with pytest.raises(UserError, match="soundfile is missing"):
        extract(tmp_path / "p", TWENTY, [source(load=load)])


class Killed(BaseException):
    """Not an Exception, so that nothing may catch it."""


def test_stopped_at_any_write_it_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    given = [utterance(i, None if i == 3 else "") for i in range(12)]

    def attempt(out, stop_at):
        """Extracts until the `stop_at`-th replace or sync; returns whether it was stopped."""
        left = [stop_at]

        def counted(function):
            def wrapper(*args):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return function(*args)

            return wrapper

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(os.replace))
            patch.setattr(os, "fsync", counted(os.fsync))
            try:
                extract(out, given, [source(), source("speech")])
            except Killed:
                return True
        return False

    assert not attempt(tmp_path / "whole", 10**6)
    stop_at = 0
    while attempt(tmp_path / f"p{stop_at}", stop_at):
        out = tmp_path / f"p{stop_at}"
        assert not os.path.exists(out) or "problems.csv" in os.listdir(out)
        assert not attempt(out, 10**6)
        assert contents(out) == contents(tmp_path / "whole")
        stop_at += 1
    assert stop_at > 20
    assert all("partial" not in name for name in os.listdir(tmp_path))


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path, seed):
    """Kill -9 of the real process; benchmarks/kill_resume.py does it more often."""

    def start(out, pause):
        command = [sys.executable, "-m", "tests.extract.fake", str(out), str(pause)]
        return subprocess.Popen(command, cwd=ROOT)

    assert start(tmp_path / "whole", 0).wait() == 0
    out = tmp_path / "p"
    draw = random.Random(seed)
    for _ in range(2):
        process = start(out, 0.03)
        while not os.path.exists(f"{out}.partial") and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert start(out, 0).wait() == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path)) == ["p", "whole"]


def test_a_torn_journal_and_a_lost_or_short_shard_are_done_again(tmp_path):
    extract(tmp_path / "whole", TWENTY, [source()])
    extract(tmp_path / "p", TWENTY, [source()], cache=str(tmp_path / "cache"))
    (folder,) = (tmp_path / "cache").glob("text-*")
    shards = sorted(folder.glob("0*.npy"))
    shards[0].unlink()
    os.truncate(shards[1], shards[1].stat().st_size - 5)
    journal = folder / "journal.jsonl"
    journal.write_text(journal.read_text()[:-20])
    batches = []
    extract(tmp_path / "q", TWENTY, [source(batches=batches)], cache=str(tmp_path / "cache"))
    assert len(batches) == 3
    assert contents(tmp_path / "q") == contents(tmp_path / "whole")
    batches.clear()  # what was done again is known to the next run
    extract(tmp_path / "r", TWENTY, [source(batches=batches)], cache=str(tmp_path / "cache"))
    assert batches == []


def test_another_recipe_never_mixes_with_what_is_there(tmp_path):
    out, cache = tmp_path / "p", str(tmp_path / "cache")
    stopped = source(recipe=1)._replace(encode=lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        extract(out, TWENTY, [stopped])
    for change in (
        lambda: extract(tmp_path / "1", TWENTY, [source(recipe=2)], cache=cache),
        lambda: extract(tmp_path / "2", TWENTY, [source(recipe=2)], cache=cache, dtype="float16"),
        lambda: extract(tmp_path / "3", TWENTY, [source(recipe=2)], cache=cache, environment={"platform": "tpu"}),
        lambda: extract(tmp_path / "4", TWENTY[:-1], [source(recipe=2)], cache=cache),
        lambda: extract(tmp_path / "5", [TWENTY[0]._replace(text="y"), *TWENTY[1:]], [source(recipe=2)], cache=cache),
    ):  # fmt: skip
        before = len(os.listdir(cache)) if os.path.exists(cache) else 0
        change()
        assert len(os.listdir(cache)) == before + 1
    batches = []
    extract(tmp_path / "6", TWENTY, [source(recipe=2, batches=batches)], cache=cache)
    assert batches == []
    extract(out, TWENTY, [source(recipe=3)])
    with pytest.raises(UserError, match="exists already and is not what this command would make"):
        extract(out, TWENTY, [source(recipe=4)])
    with open(out / "pack.json") as f:
        assert json.load(f)["provenance"]["modalities"]["text"]["source"] == {"recipe": 3}


def test_a_finished_pack_is_left_alone(tmp_path):
    given = [utterance(i, None if i == 3 else "") for i in range(8)]
    batches = []
    first = extract(tmp_path / "p", given, [source()])
    before = contents(tmp_path / "p")
    os.makedirs(tmp_path / "p.partial" / "text-0")  # killed between its last two steps
    assert extract(tmp_path / "p", given, [source(batches=batches)]) == first
    assert batches == [] and contents(tmp_path / "p") == before
    assert os.listdir(tmp_path) == ["p"]
    with pytest.raises(UserError, match="exists already"):
        extract(tmp_path / "p", [u._replace(label="a") for u in given], [source()])


def test_one_process_a_folder_and_a_dead_ones_lock_is_void(tmp_path):
    folder = str(tmp_path / "p.partial")
    code = f"""
from cmarr_jax.runtime import lock
import time
with lock.locked({folder!r}):
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"p\.partial: process {process.pid} is at work there"):
        extract(tmp_path / "p", TWENTY, [source()])
    process.kill()
    process.wait()
    extract(tmp_path / "p", TWENTY, [source()])


def test_a_store_without_rows_is_read_back(tmp_path):
    made = store.Store(str(tmp_path), {}, 3, "float16")
    made.add("000000", [("a", np.zeros((0, 3), np.float16), "nonfinite", "x")])
    again = store.Store(str(tmp_path), {}, 3, "float16")
    assert again.entries["a"].status == "nonfinite" and again.features("a").shape == (0, 3)


def test_a_part_of_a_file_is_another_input_than_the_whole(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"sound")
    whole = utterance(0)._replace(wav=str(tmp_path / "a.wav"))
    first = whole._replace(start=0.0, end=1.0, wav_span=(0.0, 1.0))
    others = [
        whole,
        first,
        first._replace(wav_span=(0.0, None)),
        first._replace(end=1.5, wav_span=(0.0, 1.5)),
        whole._replace(start=0.0, end=1.0),  # its file is the turn
    ]
    prints = {
        engine.fingerprint(source("speech"), corpus([u]), "float32", ENVIRONMENT) for u in others
    }
    assert len(prints) == len(others)
