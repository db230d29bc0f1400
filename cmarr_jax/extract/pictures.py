"""Faces as a published vision model wants its pictures: resized, cut, and how levels are scaled.

The work is done by transformers' own processor on top of Pillow, which `preprocessor_config.json`
of the model sets; scaling of levels is left to the device.
"""

from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pretrained

_LARGEST = 2048  # pixels a side
_FIELDS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)


class Pictures(NamedTuple):
    """What becomes of a face before the network."""

    side: int  # S
    resize: Callable[[np.ndarray], np.ndarray]  # [h, w, 3] uint8, red first -> [S, S, 3] uint8
    scale: np.ndarray  # [3] float32, what levels are multiplied with
    shift: np.ndarray  # [3] float32, what is added then
    recipe: dict[str, Any]  # all numbers that it depends on


def open_pictures(folder: str, size: int | None) -> Pictures:
    """The processor of the model in `folder`.

    Args:
      folder: with `preprocessor_config.json`.
      size: side in pixels of what goes into the network; None = as the file says. With another
        one, what is cut off at the edges stays the same share.

    Raises:
      UserError: the file is missing or describes what does not make squares of one size.
    """
    processor = pretrained.image_processor(folder)
    facts = {name: _plain(getattr(processor, name, None)) for name in _FIELDS}
    options = _options(facts, size)
    sides = [n for name in ("size", "crop_size") for n in _sides((facts | options)[name])]
    if not all(isinstance(n, int) and 0 < n <= _LARGEST for n in sides):
        raise UserError(
            f"{folder}: preprocessor_config.json or --face-size asks for pictures of "
            f"{', '.join(map(str, sides))[:100]} pixels; wanted 1 to {_LARGEST}"
        )

    def resize(face: np.ndarray) -> np.ndarray:
        out = processor(face, do_rescale=False, do_normalize=False, return_tensors="np", **options)
        return np.ascontiguousarray(out["pixel_values"][0].transpose(1, 2, 0))

    try:
        made = np.stack([resize(np.zeros((*hw, 3), np.uint8)) for hw in ((50, 40), (60, 60))])
    except Exception as e:  # what the processor does not like of its file, it says as it likes
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise UserError(
            f"{folder}: preprocessor_config.json makes no pictures of one size ({reason[:200]})"
        ) from None
    if made.dtype != np.uint8 or made.shape[1] != made.shape[2] or made.shape[3] != 3:
        raise UserError(
            f"{folder}: preprocessor_config.json makes pictures {made.shape[1:]}; wanted "
            "squares in colour"
        )
    try:
        factor = float(facts["rescale_factor"]) if facts["do_rescale"] else 1.0
        mean, std = np.zeros(3), np.ones(3)
        if facts["do_normalize"]:
            mean, std = (np.array(facts[name], float) for name in ("image_mean", "image_std"))
        fits = mean.shape == std.shape == (3,) and np.isfinite(mean).all() and factor > 0
        fits = fits and (std > 0).all() and np.isfinite([*std, factor]).all()
    except (TypeError, ValueError):
        fits = False
    if not fits:
        found = ", ".join(
            f"{n} {facts[n]!r}" for n in ("rescale_factor", "image_mean", "image_std")
        )
        raise UserError(
            f"{folder}: preprocessor_config.json has {found[:200]}; wanted a number above 0, three "
            "numbers, and three above 0"
        )
    return Pictures(
        made.shape[1],
        resize,
        np.float32(factor / std),
        np.float32(-mean / std),
        facts | options | {"pillow": metadata.version("pillow")},
    )


def _options(facts: dict[str, Any], size: int | None) -> dict[str, Any]:
    """The processor's options that make pictures of `size`."""
    if size is None:
        return {}
    options: dict[str, Any] = {"size": {"height": size, "width": size}}
    if facts["do_center_crop"]:
        side = (facts["size"] or {}).get("shortest_edge") or size
        cut = (facts["crop_size"] or {}).get("height") or side
        options = {
            "size": {"shortest_edge": round(side * size / cut)},
            "crop_size": {"height": size, "width": size},
        }
    return options


def _sides(size: Any) -> list[Any]:
    return list(size.values()) if isinstance(size, dict) else []


def _plain(value: Any) -> Any:
    """`value`, a field of a processor, as JSON can hold it."""
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):  # also one with a name, as ways to resample are
        return int(value)
    # Sizes give pairs of a name and a number or None, means one number a colour.
    items = list(value)
    if items and isinstance(items[0], tuple):
        return {name: each for name, each in items if each is not None}
    return items
