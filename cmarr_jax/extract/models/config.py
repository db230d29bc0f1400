"""What the families ask of a `config.json`."""

from collections.abc import Iterable, Mapping
from typing import Any

from cmarr_jax.errors import UserError
from cmarr_jax.extract.models.transformer import ACTIVATIONS


def require(file: str, config: Mapping[str, Any], wanted: Mapping[str, Iterable[Any]]) -> None:
    """Refuses a model with parts that its family's module lacks.

    Args:
      file: the config's path, for messages.
      config: its content, defaults filled in; a field that is not there is as it should be.
      wanted: field -> the values that the module can honour.

    Raises:
      UserError: a field has another value.
    """
    for field, values in wanted.items():
        if field in config and config[field] not in values:
            raise UserError(
                f"{file}: {field} is {config[field]!r}, wanted {' or '.join(map(repr, values))}; "
                "this library has no other kind of this model"
            )


def whole(file: str, config: Mapping[str, Any], field: str, least: int, most: int) -> int:
    """The whole number, `least` to `most`, that `field` holds.

    Raises:
      UserError: it holds another thing.
    """
    found = config[field]
    if type(found) is not int or not least <= found <= most:
        raise UserError(
            f"{file}: {field} is {found!r:.40}, wanted a whole number from {least} to {most}"
        )
    return found


def activation(file: str, config: Mapping[str, Any], field: str) -> str:
    """The activation function that `field` names, one of `ACTIVATIONS`.

    Raises:
      UserError: it is none of them.
    """
    require(file, config, {field: (*ACTIVATIONS,)})
    return config[field]
