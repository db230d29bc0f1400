"""Names of folders are names: no pattern, no home, no format."""

import pytest

from cmarr_jax.errors import UserError

pytestmark = pytest.mark.slow
NAMES = ["prepared[v2] *?", "{a,b}%d", "~", "~root"]


@pytest.mark.parametrize("name", NAMES)
def test_a_prepared_dataset_is_found_below_any_name(tiny_pack, tmp_path, monkeypatch, name):
    from cmarr_jax.data import pipeline

    folder = str(tmp_path / name)
    made = pipeline.load(pack=tiny_pack.path, data_dir=folder, loader="tfds", length=1)
    alone = pipeline.load(pack="", data_dir=folder, loader="tfds", length=1)
    assert alone.digest() == made.digest()
    monkeypatch.chdir(tmp_path)
    assert pipeline.load(pack="", data_dir=name, loader="tfds", length=1).digest() == made.digest()


def test_two_prepared_datasets_are_refused_not_mixed(tiny_pack, tmp_path):
    from cmarr_jax.data import tfds_builder

    with pytest.raises(UserError, match="holds 0 prepared feature packs, wanted one"):
        tfds_builder.prepare("", str(tmp_path / "[none]"))
