import pytest

from cmarr_jax import cli


@pytest.fixture(autouse=True, scope="package")
def keep_the_tests_compilation_cache():
    """The command would turn to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "prepare_to_compile", lambda: None)
        yield
