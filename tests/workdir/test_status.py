import json

import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.workdir import status


@pytest.mark.parametrize("before", [None, {"seconds": 1.0}, {"seconds": 1.0, "precision": "bf16"}])
def test_a_sweep_goes_on_in_the_precision_that_it_began_with(tmp_path, before):
    """A new folder, and one of a version that did not say, take any."""
    if before:
        (tmp_path / "status.json").write_text(json.dumps(before))
    status.check_precision(str(tmp_path), "bf16")


def test_a_sweep_does_not_go_on_in_another_precision(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps({"seconds": 1.0, "precision": "bf16"}))
    with pytest.raises(UserError, match=r"status\.json.*a sweep in bf16, now float32") as error:
        status.check_precision(str(tmp_path), "float32")
    assert "\n" not in str(error.value)
