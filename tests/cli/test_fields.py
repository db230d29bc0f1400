"""Fields of a config: each explained, its origin told, a mistake in one's own file named by line."""

import pytest

from cmarr_jax.cli import config_files, fields
from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError

HEAD = "from configs import common\ndef get_config(argument=None):\n    c = common.get_config()\n"


def test_every_field_of_the_defaults_has_its_comment():
    means = fields.comments()
    missing = [k for k, _ in leaves(config_files.get("").to_dict()) if k not in means]
    assert not missing
    assert means["data.length"].startswith("positions that every modality")
    assert means["train.schedule"] == means["pretrain.schedule"]
    assert means["model.flow.scale"] == '"sigmoid" as DiCMoR (#11)'


def test_origins_are_told_apart(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(HEAD + "    c.train.epochs = 7\n    return common.with_variants(c, argument)\n")
    config = config_files.get(f"{file}:mmin")
    config.seed = 4
    where = fields.origins(f"{file}:mmin", config, {"seed"})
    assert where["seed"] == "flag" and where["system"] == "argument"
    assert where["model.share_weights"] == "argument" and where["data.length"] == "default"
    plain = config_files.get(str(file))
    assert fields.origins(str(file), plain, ())["train.epochs"] == "config file"
    shown = fields.table(config, where).splitlines()
    (line,) = [line for line in shown if line.startswith("seed = ")]
    assert line.split() == [
        "seed",
        "=",
        "4",
        "flag",
        *["of", "the", "first", "run", "of", "each", "fold"],
    ]
    assert "[pretrain]  of a system's earlier stage, a teacher, if any" in shown


@pytest.mark.parametrize(
    "body, line, cause",
    [
        ("    c.trian.epochs = 3\n    return c\n", 4, "trian"),
        ("    c.train.epoch = 3\n    return c\n", 4, "did you mean 'train.epochs'?"),
        ("    c.extra = 3\n    return c\n", 4, "'extra' is no field"),
        ("    del c.robustness\n    return c\n", 4, "'robustness'"),
        ("    del c.train.averaging\n    return c\n", 4, "'train.averaging'"),
        ("    c.train.epochs = int('three')\n    return c\n", 4, "ValueError: invalid literal"),
        ("    c.data.length = 4.5\n    return c\n", 4, "length"),
        ("    c.train.epochs = None\n    return c\n", 4, "wanted a value of type int"),
        ("    c.data.normalise = 1\n    return c\n", 4, "normalise"),
        ("    return c.to_dict()\n", 2, "returns a dict; wanted a ConfigDict"),
        ("    pass\n", 2, "returns a NoneType"),
        ("    raise SystemExit(3)\n", 4, "SystemExit"),
        ("    return (\n", 4, "SyntaxError"),
    ],
)
def test_a_mistake_in_ones_own_file_names_its_line(tmp_path, body, line, cause):
    file = tmp_path / "own.py"
    file.write_text(HEAD + body)
    with pytest.raises(UserError) as error:
        fields.check(config_files.get(str(file)), str(file))
    said = str(error.value)
    assert said.startswith(f"{file}:{line}: ") and cause in said and "\n" not in said


def test_without_get_config_it_says_so(tmp_path):
    (tmp_path / "own.py").write_text("def config(): pass\n")
    with pytest.raises(UserError, match=r"own\.py:1: defines no get_config"):
        config_files.get(str(tmp_path / "own.py"))


@pytest.mark.parametrize("name", ["", "mmin", "pooled", "pooled,cmarr_plus", "table2", "paper"])
def test_the_projects_own_pass(name):
    fields.check(config_files.get(name), "iemocap.py")
