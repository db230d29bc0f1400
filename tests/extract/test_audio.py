import os

import numpy as np
import pytest

from cmarr_jax.extract import audio

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
MOST = 3 * 16_000


def write(path, samples, rate=16_000, subtype="PCM_16"):
    soundfile.write(str(path), samples, rate, subtype=subtype)
    return str(path)


def tone(seconds, rate, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_any_rate_becomes_16_khz(tmp_path, rate):
    got = audio.load(write(tmp_path / "a.wav", tone(1.0, rate), rate), 400, MOST)
    assert got.status == "ok" and got.item.dtype == np.float32
    wanted = tone(1.0, 16_000) / np.sqrt(0.125)
    assert abs(len(got.item) - 16_000) <= 1
    np.testing.assert_allclose(got.item[500:15_500], wanted[500:15_500], atol=2e-3)


def test_what_16_khz_cannot_hold_is_filtered_and_not_folded_back(tmp_path):
    loud = tone(1.0, 44_100) + tone(1.0, 44_100, 15_000.0)
    got = audio.load(write(tmp_path / "a.wav", loud, 44_100, "FLOAT"), 400, MOST)
    spectrum = np.abs(np.fft.rfft(got.item[:16_000]))
    assert spectrum[1_000] < 1e-3 * spectrum[440]  # 15 kHz would come back at 1 kHz


def test_channels_are_averaged(tmp_path):
    left, right = tone(1.0, 16_000), tone(1.0, 16_000, 700.0)
    stereo = audio.load(
        write(tmp_path / "s.wav", np.stack([left, right], axis=1), subtype="FLOAT"), 400, MOST
    )
    mono = audio.load(write(tmp_path / "m.wav", (left + right) / 2, subtype="FLOAT"), 400, MOST)
    np.testing.assert_allclose(stereo.item, mono.item, atol=1e-5)


def test_the_clip_is_normalised_whatever_its_level_and_offset(tmp_path):
    got = audio.load(
        write(tmp_path / "a.wav", 0.1 + 0.02 * tone(1, 16_000), subtype="FLOAT"), 400, MOST
    )
    assert abs(got.item.mean()) < 1e-6
    assert abs(got.item.std() - 1) < 1e-2  # 1e-7 is added to a variance of 5e-5


def test_a_long_clip_is_cut(tmp_path):
    noise = np.random.default_rng(0).normal(scale=0.1, size=5 * 16_000)
    long = audio.load(write(tmp_path / "a.wav", noise, subtype="FLOAT"), 400, MOST)
    short = audio.load(write(tmp_path / "b.wav", noise[:MOST], subtype="FLOAT"), 400, MOST)
    assert (long.status, long.detail, short.status) == ("truncated", "5.00 s cut to 3.00 s", "ok")
    np.testing.assert_array_equal(long.item, short.item)


@pytest.mark.parametrize("samples, status", [(0, "too_short"), (399, "too_short"), (400, "ok")])
def test_a_clip_without_a_frame_is_too_short(tmp_path, samples, status):
    noise = np.random.default_rng(0).normal(scale=0.1, size=samples)
    got = audio.load(write(tmp_path / "a.wav", noise), 400, MOST)
    assert got.status == status and (got.item is None) == (status != "ok")


def junk(path):
    path.write_bytes(b"RIFF not a wave file at all")
    return str(path)


def empty(path):
    path.write_bytes(b"")
    return str(path)


def poisoned(path):
    return write(path, np.where(np.arange(800) == 7, np.nan, 0.1), subtype="FLOAT")


@pytest.mark.parametrize(
    "make, status",
    [
        (lambda p: write(p, np.full(16_000, 0.25)), "silent"),
        (lambda p: write(p, np.zeros(16_000)), "silent"),
        (junk, "unreadable"),
        (empty, "unreadable"),
        (poisoned, "nonfinite"),
        (lambda p: str(p), "missing_file"),
        (lambda p: str(p.parent), "missing_file"),
        (lambda p: None, "missing_file"),
    ],
)
def test_a_bad_clip_gets_its_status_and_a_reason(tmp_path, make, status):
    got = audio.load(make(tmp_path / "a.wav"), 400, MOST)
    assert got.status == status and got.item is None
    assert got.detail and "\n" not in got.detail


def test_seconds_come_from_the_header(tmp_path):
    assert audio.seconds(write(tmp_path / "a.wav", tone(1.5, 44_100), 44_100)) == 1.5
    assert audio.seconds(junk(tmp_path / "b.wav")) == audio.seconds(None) == 0
    assert audio.seconds(str(tmp_path / "none.wav")) == 0


def cut(path, keep, *, subtype="PCM_16", channels=1, rate=16_000, seconds=1.0):
    """A file that ends after `keep` of its `seconds`, its header unchanged."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=(round(seconds * rate), channels))
    size = os.path.getsize(write(path, noise, rate, subtype))
    width = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "PCM_U8": 1}[subtype]
    lost = round((seconds - keep) * rate) * width * channels
    os.truncate(path, size - lost)
    return str(path)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"subtype": "FLOAT"},
        {"subtype": "PCM_24"},
        {"subtype": "PCM_U8"},
        {"subtype": "ULAW"},
        {"channels": 2},
        {"rate": 44_100},
        {"rate": 8_000, "subtype": "DOUBLE", "channels": 2},
    ],
)
def test_a_file_that_ends_before_its_header_says_is_named(tmp_path, form):
    whole = audio.load(cut(tmp_path / "a.wav", 1.0, **form), 400, MOST)
    assert (whole.status, whole.detail) == ("ok", "")
    short = audio.load(cut(tmp_path / "b.wav", 0.2, **form), 400, MOST)
    assert (short.status, short.detail) == ("cut_short", "ends after 0.20 of 1.00 s")
    assert abs(len(short.item) - 3_200) < 60


def test_a_cut_file_may_be_too_short_or_too_long_as_well(tmp_path):
    short = audio.load(cut(tmp_path / "a.wav", 0.01), 400, MOST)
    assert short.status == "too_short" and short.detail.startswith("ends after 0.01 of 1.00 s; ")
    long = audio.load(cut(tmp_path / "b.wav", 4.0, seconds=5.0), 400, MOST)
    assert long.status == "truncated"
    assert long.detail == "ends after 4.00 of 5.00 s; 4.00 s cut to 3.00 s"


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_header_that_leaves_its_size_open_is_whole(tmp_path, size):
    file = write(tmp_path / "a.wav", tone(1.0, 16_000))
    with open(file, "r+b") as f:
        f.seek(40)
        assert f.read(0) == b""
        f.write(size.to_bytes(4, "little"))
    assert audio.load(file, 400, MOST).status in ("ok", "too_short")  # 0: libsndfile sees none
    assert "ends after" not in audio.load(file, 400, MOST).detail


def test_other_chunks_and_formats_do_not_count(tmp_path):
    file = write(tmp_path / "a.wav", tone(1.0, 16_000))
    content = (tmp_path / "a.wav").read_bytes()
    chunk = b"LIST" + (5).to_bytes(4, "little") + b"abcde" + bytes(1)
    (tmp_path / "a.wav").write_bytes(content[:36] + chunk + content[36:] + chunk)
    assert audio.load(file, 400, MOST).status == "ok"
    soundfile.write(str(tmp_path / "b.flac"), tone(1.0, 16_000), 16_000)
    assert audio.load(str(tmp_path / "b.flac"), 400, MOST).status == "ok"
    os.truncate(tmp_path / "b.flac", os.path.getsize(tmp_path / "b.flac") // 2)
    assert audio.load(str(tmp_path / "b.flac"), 400, MOST).status in ("cut_short", "unreadable")


def test_without_normalisation_samples_are_as_they_are(tmp_path):
    file = write(tmp_path / "a.wav", tone(1.0, 16_000), subtype="FLOAT")
    got = audio.load(file, 400, MOST, normalised=False)
    np.testing.assert_allclose(got.item, tone(1.0, 16_000), atol=1e-6)


@pytest.mark.parametrize(
    "ending, subtype", [("wav", "FLOAT"), ("flac", "PCM_24"), ("ogg", "VORBIS")]
)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_span_is_that_part_of_the_file(tmp_path, ending, subtype, rate):
    noise = np.random.default_rng(0).normal(scale=0.1, size=3 * rate)
    file = write(tmp_path / f"a.{ending}", noise, rate, subtype)
    decoded, _ = soundfile.read(file, dtype="float32")
    for span in ((0.5, 1.25), (0.5, None), (0.0, 1.25)):
        first, last = round(span[0] * rate), round((span[1] or 3.0) * rate)
        alone = write(tmp_path / "b.wav", decoded[first:last], rate, "FLOAT")
        got = audio.load(file, 400, MOST, span=span)
        assert (got.status, got.detail) == ("ok", "")
        np.testing.assert_allclose(got.item, audio.load(alone, 400, MOST).item, atol=1e-5)
        assert audio.seconds(file, span) == pytest.approx((span[1] or 3.0) - span[0])


def test_a_long_span_is_cut(tmp_path):
    file = write(tmp_path / "a.wav", tone(6.0, 16_000))
    got = audio.load(file, 400, MOST, span=(1.0, 5.0), lasts=4.0)
    assert (got.status, got.detail) == ("truncated", "4.00 s cut to 3.00 s")
    assert len(got.item) == MOST


def test_a_span_beyond_the_end_is_named(tmp_path):
    file = write(tmp_path / "a.wav", tone(2.0, 16_000))
    past = audio.load(file, 400, MOST, span=(2.0, 3.0), lasts=1.0)
    assert past.status == "too_short"
    assert past.detail == "ends after 2.00 s, the turn begins at 2.00 s"
    partly = audio.load(file, 400, MOST, span=(1.5, 3.0), lasts=1.5)
    assert partly.status == "cut_short" and len(partly.item) == 8_000
    assert partly.detail == "0.50 s, 1.50 s by the times in the label file"
    empty = audio.load(file, 400, MOST, span=(1.0, 1.0), lasts=0.0)
    assert empty.status == "too_short"
    assert audio.seconds(file, (1.5, 3.0)) == 0.5 and audio.seconds(file, (2.5, 3.0)) == 0


def test_a_broken_copy_still_has_the_spans_before_its_end(tmp_path):
    file = cut(tmp_path / "a.wav", 1.0, seconds=2.0)
    assert audio.load(file, 400, MOST, span=(0.2, 0.8), lasts=0.6).status == "ok"
    short = audio.load(file, 400, MOST, span=(0.2, 1.8), lasts=1.6)
    assert (short.status, short.detail) == ("cut_short", "ends after 1.00 of 2.00 s")


@pytest.mark.parametrize(
    "seconds, lasts, status",
    [
        (0.2, 1.0, "cut_short"),
        (1.0, 1.0, "ok"),
        (0.95, 1.0, "ok"),  # within a tenth of a second
        (0.85, 1.0, "cut_short"),
        (2.8, 3.0, "ok"),  # within a tenth of the turn
        (2.6, 3.0, "cut_short"),
        (2.0, 1.0, "ok"),  # longer
        (0.2, None, "ok"),
    ],
)
def test_sound_shorter_than_the_times_of_its_turn_is_named(tmp_path, seconds, lasts, status):
    got = audio.load(write(tmp_path / "a.wav", tone(seconds, 16_000)), 400, MOST, lasts=lasts)
    assert got.status == status
    by_label = f"{seconds:.2f} s, {lasts or 0:.2f} s by the times in the label file"
    assert got.detail == (by_label if status == "cut_short" else "")


@pytest.mark.parametrize("name", sorted(soundfile.available_formats()))
def test_every_format_of_libsndfile_is_read(tmp_path, name):
    rate = 16_000 if name != "WVE" else 8_000
    for subtype in soundfile.available_subtypes(name):
        file = str(tmp_path / f"{subtype}.{name}")
        try:
            soundfile.write(file, tone(1.0, rate), rate, subtype, format=name)
        except (RuntimeError, ValueError, TypeError):  # this build or this rate cannot be written
            continue
        got = audio.load(file, 400, MOST, normalised=False)
        if name == "RAW":  # says neither rate nor coding
            assert got.status == "unreadable" and audio.seconds(file) == 0
            continue
        if subtype.startswith("DWVW"):  # of which libsndfile itself cannot read what it wrote
            assert got.status == "unreadable"
            continue
        assert got.status == "ok", (subtype, got.detail)
        loudness = np.sqrt(np.mean(got.item**2))
        assert loudness == pytest.approx(0.125**0.5, rel=0.03), subtype  # full scale is 1 in each
        if name != "XI":  # an instrument has no rate
            assert len(got.item) == pytest.approx(16_000, abs=300), subtype
