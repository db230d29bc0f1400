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


def rate(file: str, config: Mapping[str, Any], field: str) -> float:
    """The rate of dropout that `field` holds; 0 if it is not there.

    Raises:
      UserError: it holds another thing.
    """
    found = config.get(field, 0.0)
    if type(found) not in (int, float) or not 0 <= found <= 0.99:
        raise UserError(f"{file}: {field} is {found!r:.40}, wanted a rate from 0 to 0.99")
    return float(found)


def of_bert(file: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of `bert.Bert` that its kin has from the same fields, all but `dtype`.

    Raises:
      UserError: an activation or a rate is none.
    """
    return {
        "vocab_size": config["vocab_size"],
        "num_positions": config["max_position_embeddings"],
        "features": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "hidden_features": config["intermediate_size"],
        "epsilon": config["layer_norm_eps"],
        "activation": activation(file, config, "hidden_act"),
        "hidden_dropout": rate(file, config, "hidden_dropout_prob"),
        "attention_dropout": rate(file, config, "attention_probs_dropout_prob"),
    }
