import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import layers


@pytest.mark.parametrize(
    "said, states, mean",
    [
        ("last", (12,), False),
        ("0", (0,), False),
        ("-1", (12,), False),
        ("7", (7,), False),
        ("-4:", (9, 10, 11, 12), True),
        (":", tuple(range(13)), True),
        ("4:8", (4, 5, 6, 7), True),
        (":-1", tuple(range(12)), True),
        ("all", tuple(range(13)), False),
        ("4,8,12", (4, 8, 12), False),
        ("12,0", (12, 0), False),
    ],
)
def test_what_is_said_names_hidden_states(said, states, mean):
    chosen = layers.parse(said, 12, "MODEL")
    assert (chosen.states, chosen.mean) == (states, mean)
    assert chosen.dim(768) == 768 * (1 if mean else len(states))


@pytest.mark.parametrize(
    "said", ["", "13", "-14", "first", "4,4", "0,-13", "8:4", "1.5", "4;8", "1,"]
)
def test_anything_else_is_refused_in_one_line(said):
    with pytest.raises(UserError, match=f"--layers={said}: wanted last, .* 0 to 12, MODEL") as e:
        layers.parse(said, 12, "MODEL")
    assert "\n" not in str(e.value)


def test_the_default_leaves_no_trace_in_a_recipe():
    assert layers.parse("last", 12, "M").recipe() == {}
    assert layers.parse("-2:", 12, "M").recipe() == {
        "layers": "-2:",
        "states": [11, 12],
        "layout": "mean",
    }
    assert layers.parse("all", 1, "M").recipe()["layout"] == "side by side"
