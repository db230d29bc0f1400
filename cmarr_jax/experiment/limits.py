"""The range of every number of a config, checked before anything is read.

Words, and fields that must fit each other or the pack, are checked where they are used
(cmarr_jax/systems/checks.py and each system's `make`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError


class Limit(NamedTuple):
    """A range: a test, and how an error names it."""

    fits: Callable[[Any], bool]  # of a number, or of a list of them
    wanted: str


_COUNT = Limit(lambda x: x >= 1, "at least 1")
_MAYBE_NONE = Limit(lambda x: x >= 0, "0 or more")
_SEED = Limit(lambda x: 0 <= x < 2**31, "0 to 2,147,483,647")
_POSITIVE = Limit(lambda x: x > 0, "above 0")
_NEGATIVE = Limit(lambda x: x < 0, "a negative number")
_SHARE = Limit(lambda x: 0 <= x <= 1, "0 to 1")
_RATE = Limit(lambda x: 0 <= x < 1, "0 to below 1")
_BETWEEN = Limit(lambda x: 0 < x < 1, "above 0 and below 1")
_TEMPERATURE = Limit(lambda x: 0.01 <= x <= 1, "0.01 to 1, the range that it is kept in")
_ANY = Limit(lambda x: True, "a finite number")

# By the field's whole name, else by its last part.
LIMITS = {
    "seed": _SEED,
    "val_seed": _SEED,
    "train_missing_seed": _SEED,
    "fold": _MAYBE_NONE,
    "num_seeds": _COUNT,
    "checkpoint_seconds": _MAYBE_NONE,
    "length": _COUNT,
    "val_fraction": _BETWEEN,
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "eval_batch_size": _COUNT,
    "accumulate": _COUNT,
    "learning_rate": _POSITIVE,
    "warmup": _SHARE,
    "linear_from": _RATE,
    "weight_decay": _MAYBE_NONE,
    "beta1": _RATE,
    "clip_norm": _MAYBE_NONE,
    "averaging": _RATE,
    "from_layer": Limit(lambda x: x >= -1, "-1 or more"),
    "max_positions": Limit(lambda x: x >= 3, "at least 3"),
    "layer_decay": Limit(lambda x: 0 < x <= 1, "above 0, at most 1"),
    "encoders.text.learning_rate": _MAYBE_NONE,
    "encoders.speech.learning_rate": _MAYBE_NONE,
    "encoders.video.learning_rate": _MAYBE_NONE,
    "frame_rate": _RATE,
    "span_rate": _RATE,
    "width": _COUNT,
    "hidden": _COUNT,
    "layers": _MAYBE_NONE,
    "cross_layers": _MAYBE_NONE,
    "self_layers": _MAYBE_NONE,
    "num_layers": _COUNT,
    "num_blocks": _COUNT,
    "num_couplings": _COUNT,
    "num_heads": _COUNT,
    "mlp_ratio": _COUNT,
    "expansion": _COUNT,
    "reduction": _COUNT,
    "kernel": _COUNT,
    "conv_kernel": _COUNT,
    "dropout": _RATE,
    "input_dropout": _RATE,
    "teacher_dropout": _RATE,
    "text_dropout": _RATE,
    "out_dropout": _RATE,
    "attention_dropout": _RATE,
    "attention_dropout_speech": _RATE,
    "attention_dropout_video": _RATE,
    "embed_dropout": _RATE,
    "distillation": _SHARE,
    "weight": _MAYBE_NONE,
    "forward_weight": _MAYBE_NONE,
    "backward_weight": _MAYBE_NONE,
    "nll_weight": _MAYBE_NONE,
    "kl_weight": _MAYBE_NONE,
    "rec_weight": _MAYBE_NONE,
    "recovery_weight": _MAYBE_NONE,
    "entropy_weight": _MAYBE_NONE,
    "entropy_margin": _ANY,
    "model.udcl.scale": _NEGATIVE,
    "model.udcl.shift": _ANY,
    "model.udcl.temperature": _TEMPERATURE,
    "model.spcl.temperature": _POSITIVE,
}

_RATES = Limit(lambda x: all(0 <= r < 1 for r in x), "numbers 0 to below 1")
_LISTS = {
    "masking.probabilities": Limit(lambda x: all(0 <= p <= 1 for p in x), "numbers 0 to 1"),
    "robustness.missing_rates": _RATES,
    "robustness.frame_rates": _RATES,
    "robustness.span_rates": _RATES,
    "robustness.noise_levels": Limit(
        lambda x: all(0 < a <= 1 for a in x), "numbers above 0, at most 1"
    ),
    # exp() of both must fit in float32.
    "model.umc.log_sigma_range": Limit(
        lambda x: not x or (len(x) == 2 and -80 <= x[0] < x[1] <= 80),
        "two numbers within -80 and 80, the lower one first; or () for no bounds",
    ),
}


def check(config: ConfigDict) -> None:
    """Refuses numbers with which no system can be trained.

    Raises:
      UserError: names the flag, what it holds and what was wanted.
    """
    fields = dict(leaves(config.to_dict()))
    for field, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        limit = LIMITS.get(field) or LIMITS.get(field.rpartition(".")[2], _ANY)
        if not math.isfinite(value) or not limit.fits(value):
            raise UserError(f"--config.{field}={value}: wanted {limit.wanted}")
    for field, (fits, wanted) in _LISTS.items():
        values = fields.get(field)
        if values is None:  # a field of another system
            continue
        numbers = all(isinstance(x, int | float) and math.isfinite(x) for x in values)
        if not numbers or not fits(values):
            raise UserError(f"--config.{field}={tuple(values)}: wanted {wanted}")


def check_attention(config: ConfigDict) -> None:
    """Refuses to take attention away where each modality is one vector.

    Attention over a single key is that key, whatever query and key are: the ablation "w/o
    attention" would be of a part that does nothing.

    Raises:
      UserError: names the flag and the remedy.
    """
    fusion = config.model.get("fusion")
    if config.data.length == 1 and fusion and fusion.get("variant") == "concat":
        raise UserError(
            "--config.model.fusion.variant=concat (no_attention) with data.length=1: one vector "
            "for each modality leaves no attention to take away; leave it out, or train on "
            "sequences: without 'pooled', --config.data.length=32"
        )
