"""Checks of the `model` section of a config that several systems share.

They refuse unknown words, and fields that do not fit each other; cmarr_jax/experiment/limits.py
holds the range of each number.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from cmarr_jax.errors import UserError
from cmarr_jax.nn import fusion


def check_choice(config: ConfigDict, field: str, choices: Sequence[str]) -> None:
    """Refuses a value that is none of `choices`; `field` is a name such as "umc.pool"."""
    section, _, name = field.rpartition(".")
    value = (config[section] if section else config)[name]
    if value not in choices:
        raise UserError(f"--config.model.{field}={value}: wanted one of {', '.join(choices)}")


def check_faithful_to(config: ConfigDict) -> None:
    """Refuses a `faithful_to` that is neither "code" nor "paper"."""
    if config.faithful_to not in ("code", "paper"):
        raise UserError(f"--config.model.faithful_to={config.faithful_to}: wanted code or paper")


def check_fusion(config: ConfigDict, modalities: Sequence[str]) -> None:
    """Refuses what the convolutions and the fusion of CM-ARR and its baseline cannot take."""
    check_choice(config, "fusion.variant", fusion.VARIANTS)
    if config.width % config.fusion.num_heads:
        raise UserError(
            f"--config.model.width={config.width}: wanted a multiple of fusion.num_heads="
            f"{config.fusion.num_heads}"
        )
    if config.conv_kernel % 2 == 0:
        raise UserError(f"--config.model.conv_kernel={config.conv_kernel}: wanted an odd number")
    for query, key in fusion.parse_pairs(config.fusion.pairs, modalities):
        if not {query, key} <= set(modalities):
            raise UserError(
                f"--config.model.fusion.pairs={tuple(config.fusion.pairs)}: wanted 'QUERY<-KEY' of "
                f"{modalities}, or 'each' alone"
            )
