"""What the golden files were made from, and random parameters."""

from typing import Any

import numpy as np

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "!", "?", ",", ".", "'", "-"),
    *("i", "you", "do", "not", "know", "what", "cafe", "happy", "so", "am", "un", "never", "laughter"),
    *("##s", "##ing", "##ly", "##ness", "##happy"),
)  # fmt: skip
TEXTS = (
    "I am so happy!",
    "",
    "Café, you do not know what I am knowing [LAUGHTER] unhappyness?",
    "never " * 30,
    "Zzz.",
)
SENTENCES = (
    "Excuse me.",
    "",
    "Élan, naïve café: was it 12.5% or — never mind…",
    "Well, I [LAUGHTER] don't know, you [breathing] tell me!",
    "日本語 and émotion 😀",
    "I told you so. " * 45,
)
CLIPS = (400, 5_000, 12_345, 3_210)
FACES = (40, 25, 61)  # sides in pixels


def clip(number: int, length: int) -> np.ndarray:
    """A tone with an offset and noise made of integers alone, `[length]` float32."""
    i = np.arange(length, dtype=np.int64)
    noise = (i * i * 7919 + i * (104_729 + number)) % 10_007 / 10_007 - 0.5
    tone = np.sin(i * (0.05 + 0.03 * number))
    return (0.02 * number + 0.3 * noise + 0.2 * tone).astype(np.float32)


def face(number: int, side: int) -> np.ndarray:
    """A picture made of integers alone, `[side, side, 3]` uint8."""
    y, x, c = np.indices((side, side, 3))
    return ((x * x * (3 + number) + y * y * 5 + x * y * (c + 2) + 50 * c) // 16 % 256).astype("u1")


def photo(width: int, height: int) -> np.ndarray:
    """A real face, Grace Hopper's, whose picture matplotlib ships; in OpenCV's order of colours."""
    import cv2  # not where the golden files are made
    from matplotlib import cbook

    with cbook.get_sample_data("grace_hopper.jpg") as f:
        picture = cv2.imdecode(np.frombuffer(f.read(), np.uint8), cv2.IMREAD_COLOR)
    return cv2.resize(picture, (width, height))


def variables(module: Any, *inputs: np.ndarray) -> Any:
    """Random variables of a linen module; running its initialisers would take seconds."""
    import jax  # not where the golden files are made

    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda s: rng.normal(scale=0.3, size=s.shape).astype("f4"), shapes)


def parameters(module: Any, *inputs: np.ndarray) -> int:
    """How many numbers a linen module learns."""
    import jax  # not where the golden files are made

    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
