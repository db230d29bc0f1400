"""The numbers of a `config.json`: no network is built before they describe one that can be.

A family of `models` reads them as they are. transformers has checked the types of the fields that
it knows; what is checked here are ranges, and that sizes which belong together fit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cmarr_jax.errors import UserError

_MOST = 10_000_000
_MOST_LAYERS = 1_000
_LAYERS = ("num_hidden_layers", "encoder_layers", "n_layers")
_HEADS = {  # heads, or groups of channels -> the width that they divide
    "num_attention_heads": "hidden_size",
    "num_conv_pos_embedding_groups": "hidden_size",
    "encoder_attention_heads": "d_model",
    "n_heads": "dim",
}
_SIZES = (
    *_LAYERS,
    *_HEADS,
    *_HEADS.values(),
    "vocab_size",
    "embedding_size",
    "intermediate_size",
    "encoder_ffn_dim",
    "hidden_dim",
    "max_position_embeddings",
    "max_source_positions",
    "num_mel_bins",
    "num_conv_pos_embeddings",
    "conv_pos_kernel_size",
    "num_channels",
    "mlp_ratio",
    "num_buckets",
    "max_bucket_distance",
    "relative_attention_num_buckets",
)
_SIDES = ("image_size", "patch_size")  # of a square, or height and width
_CONVOLUTIONS = ("conv_dim", "conv_kernel", "conv_stride")
_MOST_SAMPLES = 16_000  # that a strided stack of convolutions sees at once; wav2vec2's sees 400
_EPSILONS = ("layer_norm_eps", "layer_norm_epsilon")
_PARTS = ("vision_config", "text_config")


def check(file: str, config: Mapping[str, Any]) -> None:
    """Checks the fields that say how large the network is, where they are.

    Args:
      file: the config's path, for messages.
      config: its content.

    Raises:
      UserError: one is not in its range, or two do not fit.
    """
    for prefix, part in _parts(config):
        for name in (*_SIZES, "type_vocab_size"):
            if (size := part.get(name)) is not None:
                most = _MOST_LAYERS if name in _LAYERS else _MOST
                _check_size(file, prefix + name, size, _least(name, config), most)
        for name in _SIDES:
            for size in _listed(part.get(name)):
                _check_size(file, prefix + name, size, 1, _MOST)
        for heads, width in _HEADS.items():
            h, w = part.get(heads), part.get(width)
            if h is not None and w is not None and w % h:
                raise UserError(
                    f"{file}: {prefix}{width} is {w} and {heads} {h}; wanted the second to divide "
                    "the first"
                )
        for name in _EPSILONS:
            epsilon = part.get(name)
            if epsilon is not None and not (_is_number(epsilon) and 0 < epsilon < 1):
                raise UserError(f"{file}: {prefix}{name} is {epsilon!r:.40}; wanted 0 to 1")
        _check_convolutions(file, part)


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """The fewest samples that give a frame of a stack of convolutions."""
    seen, stride = 1, 1
    for kernel, step in zip(kernels, strides, strict=True):
        seen, stride = seen + (kernel - 1) * stride, stride * step
    return seen


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "", config
    for name in _PARTS:
        if isinstance(part := config.get(name), Mapping):
            yield f"{name}.", part


def _least(name: str, config: Mapping[str, Any]) -> int:
    """DeBERTa may do without segments."""
    return int((name, config.get("model_type")) != ("type_vocab_size", "deberta-v2"))


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else () if value is None else (value,)


def _check_size(file: str, field: str, size: Any, least: int, most: int) -> None:
    if type(size) is not int or not least <= size <= most:
        raise UserError(
            f"{file}: {field} is {size!r:.40}; wanted a whole number, {least} to {most}"
        )


def _check_convolutions(file: str, part: Mapping[str, Any]) -> None:
    found = [part.get(name) for name in _CONVOLUTIONS]
    if found == [None] * len(found):
        return
    if not all(isinstance(x, (list, tuple)) and 0 < len(x) <= _MOST_LAYERS for x in found):
        raise UserError(f"{file}: {', '.join(_CONVOLUTIONS)}: wanted a list of sizes each")
    for name, sizes in zip(_CONVOLUTIONS, found, strict=True):
        for size in sizes:
            _check_size(file, name, size, 1, _MOST)
    if len({len(x) for x in found}) > 1:
        raise UserError(f"{file}: {', '.join(_CONVOLUTIONS)} have several lengths; wanted one")
    if (seen := receptive_field(*found[1:])) > _MOST_SAMPLES:
        raise UserError(
            f"{file}: conv_kernel and conv_stride give a frame for {seen} samples at the least; "
            f"wanted at most {_MOST_SAMPLES}"
        )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
