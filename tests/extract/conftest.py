import pytest

from cmarr_jax.runtime import devices


@pytest.fixture(autouse=True, scope="package")
def keep_the_tests_compilation_cache():
    """The command would turn to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "prepare_to_compile", lambda: None)
        yield
