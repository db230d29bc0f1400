import jax.numpy as jnp
import numpy as np

from cmarr_jax.extract.models.bert import token_positions
from tests.extract.models.test_text_models import MODULES


def test_positions_count_from_0_or_after_the_padding_tokens_number():
    ids = jnp.array([[0, 5, 6, 2], [0, 1, 6, 2], [0, 2, 1, 1]])
    np.testing.assert_array_equal(token_positions(ids, None), [[0, 1, 2, 3]])
    # A text may hold the word <pad>: it takes no position, as the reference implementation has it.
    wanted = [[2, 3, 4, 5], [2, 1, 3, 4], [2, 3, 1, 1]]
    np.testing.assert_array_equal(token_positions(ids, 1), wanted)


def test_the_longest_text_has_a_position_for_each_token():
    for kind, length in {"bert": 16, "roberta": 14, "mpnet": 14, "deberta": 16}.items():
        module = MODULES[kind](dtype=jnp.dtype("float32"))
        assert module.max_length == length
    last = token_positions(jnp.full((1, 14), 3), 1)[0, -1]
    assert int(last) == 15
