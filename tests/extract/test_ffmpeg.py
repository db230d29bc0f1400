import os

import numpy as np
import pytest

from cmarr_jax.extract import audio

av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")
MOST = 3 * 16_000
# ending: codec, rate, whether there is a picture too
KINDS = {
    "m4a": ("aac", 44_100, False),
    "aac": ("aac", 16_000, False),
    "mp4": ("aac", 44_100, True),
    "mov": ("alac", 44_100, True),
    "3gp": ("aac", 22_050, True),
    "mkv": ("flac", 44_100, True),
    "avi": ("pcm_s16le", 44_100, True),
    "webm": ("opus", 48_000, False),
    "ts": ("aac", 44_100, True),
}


def film(path, samples, codec="aac", rate=44_100, picture=True, late=0.0, seconds=None):
    """Writes `samples` `[N]` or `[N, C]`; the sound begins `late` seconds after the picture."""
    with av.open(str(path), "w") as container:
        if picture:
            video = container.add_stream("mpeg4", rate=10)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        if samples is not None:
            samples = samples.reshape(len(samples), -1)
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
            sound = container.add_stream(codec, rate=rate, layout=layout)
        if picture:
            length = seconds or len(samples) / rate
            for k in range(round(10 * length)):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), k % 256, np.uint8), "rgb24")
                frame.pts = k
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if samples is not None:
            planes = np.ascontiguousarray(samples.T, np.float32)
            frame = av.AudioFrame.from_ndarray(planes, "fltp", layout)
            frame.rate, frame.pts = rate, round(late * rate)
            context = sound.codec_context
            size = context.frame_size or 1024
            cut = av.AudioResampler(context.format, layout, rate, frame_size=size)
            for each in [*cut.resample(frame), *cut.resample(None)]:
                container.mux(sound.encode(each))
            container.mux(sound.encode())
    return str(path)


def tone(seconds, rate, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def chirp(seconds, rate):
    """Its frequency tells the time."""
    t = np.arange(round(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * (200 * t + 300 * t**2))


def load(file, **options):
    return audio.load(file, 400, MOST, normalised=False, **options)


def shift(got, wanted):
    """Samples by which `got` comes later than `wanted`, and how alike they are then."""
    n = min(len(got), len(wanted))
    spectra = np.fft.rfft(got[:n], 2 * n) * np.conj(np.fft.rfft(wanted[:n], 2 * n))
    found = np.fft.irfft(spectra)
    best = int(np.argmax(found))
    alike = found[best] / (np.linalg.norm(got[:n]) * np.linalg.norm(wanted[:n]))
    return (best + n) % (2 * n) - n, alike


@pytest.mark.parametrize("ending", KINDS)
def test_sound_of_every_container_is_what_went_in(tmp_path, ending):
    codec, rate, picture = KINDS[ending]
    file = film(tmp_path / f"a.{ending}", chirp(2.0, rate), codec, rate, picture)
    got = load(file)
    assert (got.status, got.detail) == ("ok", "")
    assert 2.0 <= len(got.item) / 16_000 <= 2.13  # a codec fills its last frame
    late, alike = shift(got.item, chirp(2.0, 16_000).astype(np.float32))
    # Without a header, as in a stream, nothing tells that a codec begins with 1,024 empty samples.
    assert 0 <= late <= (1_100 if ending in ("aac", "ts", "mkv") else 30) and alike > 0.97
    assert audio.seconds(file) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "m4a"])
def test_a_span_of_a_film_is_that_part_of_its_sound(tmp_path, ending):
    codec, rate, picture = KINDS[ending]
    file = film(tmp_path / f"a.{ending}", chirp(6.0, rate), codec, rate, picture)
    whole, _, _, _ = audio._read(file, 0.0, 6.0)
    for start, end in ((0.1, 0.9), (1.0, 2.5), (4.2, 5.9)):
        part, _, _, _ = audio._read(file, start, end)
        wanted = whole[round(start * rate) : round(end * rate)]
        assert part.shape == wanted.shape
        # Where a container tells time in milliseconds, no sample has a time of its own.
        late, alike = shift(part[:, 0], wanted[:, 0])
        assert abs(late) <= (rate / 1_000 if ending == "mkv" else 0) and alike > 0.999
        assert load(file, span=(start, end)).status == "ok"
    past = load(file, span=(7.0, 8.0))
    assert past.status == "too_short" and "the turn begins at 7.00 s" in past.detail


def test_sound_that_begins_later_than_the_picture_keeps_its_place(tmp_path):
    file = film(tmp_path / "a.mkv", tone(1.0, 44_100), "flac", late=0.5, seconds=1.5)
    got = load(file).item
    assert len(got) == pytest.approx(24_000, abs=20)
    assert np.abs(got[:7_900]).max() < 1e-5 and np.abs(got[8_100:8_200]).max() > 0.1
    assert len(load(file, span=(0.25, 1.0)).item) == 12_000
    np.testing.assert_allclose(load(file, span=(0.25, 1.0)).item[:3_900], 0, atol=1e-5)


def test_channels_are_averaged_and_not_mixed_down_as_in_a_cinema(tmp_path):
    channels = np.stack([tone(1.0, 48_000, h) for h in (200, 300, 400, 500, 60, 700)], axis=1)
    got = load(film(tmp_path / "a.mkv", channels, "flac", 48_000)).item
    wanted = audio.resample(channels.mean(axis=1).astype(np.float32), 48_000)
    np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_a_long_film_is_cut_and_only_its_beginning_decoded(tmp_path):
    file = film(tmp_path / "a.mp4", chirp(8.0, 16_000), "aac", 16_000)
    got = load(file)
    assert (got.status, got.detail) == ("truncated", "8.00 s cut to 3.00 s")
    assert len(got.item) == MOST


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_video_without_sound_says_so(tmp_path, ending):
    got = load(film(tmp_path / f"a.{ending}", None, seconds=1.0))
    assert (got.status, got.detail) == ("unreadable", "a video without sound")


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "m4a", "aac"])
def test_a_film_that_breaks_off_is_named(tmp_path, ending):
    codec, rate, picture = KINDS[ending]
    file = film(tmp_path / f"a.{ending}", chirp(2.5, rate), codec, rate, picture)
    os.truncate(file, os.path.getsize(file) // 3)
    got = load(file)
    if ending in ("mp4", "m4a"):  # their table of contents is at the end
        assert got.status == "unreadable"
        assert got.detail.startswith("no sound or video file that is known (")
    elif ending == "mkv":
        assert got.status == "cut_short" and got.detail.endswith(" of 2.50 s")
    else:  # what is missing cannot be known
        assert got.status in ("ok", "cut_short") and len(got.item) < 1.5 * 16_000
    assert "\n" not in got.detail


def test_damage_in_the_middle_never_raises(tmp_path):
    file = film(tmp_path / "a.mp4", chirp(2.5, 44_100))
    with open(file, "rb") as f:
        content = bytearray(f.read())
    rng = np.random.default_rng(0)
    for k in range(20):
        broken = content.copy()
        for place in rng.integers(0, len(content), 40):
            broken[place] ^= 255
        path = tmp_path / f"{k}.mp4"
        path.write_bytes(broken)
        got = load(str(path))
        assert (got.item is None) == (
            got.status in ("unreadable", "silent", "too_short", "nonfinite")
        )
        assert got.status == "ok" or (got.detail and "\n" not in got.detail)


def test_a_list_of_other_files_is_not_followed(tmp_path):
    film(tmp_path / "a.aac", chirp(1.0, 16_000), "aac", 16_000, False)
    for name, content in {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{tmp_path}/a.aac\n#EXT-X-ENDLIST\n",
        "a.ffconcat": "ffconcat version 1.0\nfile a.aac\n",
    }.items():
        (tmp_path / name).write_text(content)
        assert load(str(tmp_path / name)).status == "unreadable"
        assert audio.seconds(str(tmp_path / name)) == 0


def test_without_the_package_its_name_is_in_the_problem(tmp_path, monkeypatch):
    file = film(tmp_path / "a.mp4", chirp(1.0, 44_100))
    monkeypatch.setattr(audio.ffmpeg, "is_installed", lambda: False)
    got = load(file)
    assert got.status == "unreadable"
    assert got.detail.endswith("need av; pip install -r requirements-extract.txt)")
    assert audio.seconds(file) == 0
