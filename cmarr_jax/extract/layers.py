"""Which of an encoder's hidden states become features: `--layers`.

State 0 goes into the first layer; state k is what layer k gives, and the last is what the model
gives, after its final norm if it has one. So transformers' `hidden_states` counts them, too.
"""

import re
from typing import Any, NamedTuple

from cmarr_jax.errors import UserError

FORMS = (
    "last, a number (0 = what goes into the first layer), -4: (the mean of the last four) or A:B "
    "(of A to B - 1), all or a list such as 4,8,12 (side by side)"
)


class Layers(NamedTuple):
    """What `--layers` asks of one encoder."""

    said: str
    states: tuple[int, ...]  # numbers of hidden states
    mean: bool  # of the states; else they lie side by side

    def dim(self, width: int) -> int:
        """Numbers in a feature, of an encoder whose states have `width`."""
        return width if self.mean else width * len(self.states)

    def recipe(self) -> dict[str, Any]:
        """What a pack says of it; nothing for the default, so that old packs stay what they are."""
        if self.said == "last":
            return {}
        layout = "mean" if self.mean else "side by side"
        return {"layers": self.said, "states": list(self.states), "layout": layout}


def parse(said: str, num_layers: int, model: str) -> Layers:
    """`said`, one of `FORMS`, for a model of `num_layers` layers.

    Raises:
      UserError: it is none of them, or names a state that the model does not have.
    """
    wrong = UserError(
        f"--layers={said}: wanted {FORMS}, with numbers from 0 to {num_layers}, {model}'s layers"
    )

    def number(text: str) -> int:
        found = int(text)
        found = found + num_layers + 1 if found < 0 else found
        if not 0 <= found <= num_layers:
            raise wrong
        return found

    if said == "last":
        return Layers(said, (num_layers,), False)
    if said == "all":
        return Layers(said, tuple(range(num_layers + 1)), False)
    if re.fullmatch(r"-?\d+(,-?\d+)*", said):
        chosen = tuple(map(number, said.split(",")))
        if len({*chosen}) < len(chosen):
            raise wrong
        return Layers(said, chosen, False)
    if found := re.fullmatch(r"(-?\d+)?:(-?\d+)?", said):
        start, end = found.groups()
        first = number(start) if start else 0
        chosen = tuple(range(first, number(end) if end else num_layers + 1))
        if chosen:
            return Layers(said, chosen, True)
    raise wrong
