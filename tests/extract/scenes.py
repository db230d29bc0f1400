"""Drawn videos in which real faces move: two people side by side, as IEMOCAP's camera shows them."""

from collections.abc import Iterator

import numpy as np

from tests.extract.samples import photo

HEIGHT, WIDTH = 480, 720
_TOP, _BOTTOM = 112, 368  # black above and below, as in IEMOCAP's files


def scene(seconds: float, fps: float, seed: int = 0) -> Iterator[np.ndarray]:
    """Frames `[480, 720, 3]` uint8 in OpenCV's order of colours.

    Grace Hopper on the left and, mirrored, on the right, before a photograph of buildings. Heads
    sway by a dozen pixels, come nearer by a seventh and nod; every pixel has noise.
    """
    import cv2
    from sklearn.datasets import load_sample_image

    rng = np.random.default_rng(seed)
    back = cv2.resize(load_sample_image("china.jpg")[..., ::-1], (WIDTH, _BOTTOM - _TOP))
    people = [photo(160, 188), photo(160, 188)[:, ::-1]]
    people = [cv2.GaussianBlur(person, (0, 0), 0.7) for person in people]
    phases = rng.uniform(0, 2 * np.pi, (2, 4))
    for k in range(int(seconds * fps)):
        frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        frame[_TOP:_BOTTOM] = back
        for n, person in enumerate(people):
            waves = np.sin(2 * np.pi * np.array([0.25, 0.2, 0.15, 0.1]) * k / fps + phases[n])
            height, width = person.shape[:2]
            turn = cv2.getRotationMatrix2D(
                (width / 2, height / 2), 4 * waves[2], 1 + 0.14 * waves[3]
            )
            middle = 180 + 360 * n + 12 * waves[0], _BOTTOM - 85 + 6 * waves[1]
            turn[:, 2] += middle[0] - width / 2, middle[1] - height / 2
            mask = cv2.warpAffine(np.full((height, width), 255, np.uint8), turn, (WIDTH, HEIGHT))
            drawn = cv2.warpAffine(np.ascontiguousarray(person), turn, (WIDTH, HEIGHT))
            mask[_BOTTOM:] = 0
            frame[mask > 127] = drawn[mask > 127]
        noisy = frame[_TOP:_BOTTOM] + rng.normal(0, 3, (_BOTTOM - _TOP, WIDTH, 3))
        frame[_TOP:_BOTTOM] = np.clip(noisy, 0, 255)
        yield frame
