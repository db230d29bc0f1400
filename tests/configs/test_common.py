"""Every argument that a config takes makes a config that its system accepts."""

import jax
import jax.numpy as jnp
import pytest
from ml_collections import FrozenConfigDict

from cmarr_jax.errors import UserError
from cmarr_jax.experiment import run
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.systems.system import Batch
from configs import common, cremad, demo, iemocap, meld, msp_improv, ravdess

ARGUMENTS = [*common.VARIANTS, *SYSTEMS, "pooled,mmin", "pooled,no_udcl", "alpha=0.5"]
ARGUMENTS += [f"pooled,cmarr_plus,{name}" for name in common.PLUS_VARIANTS]


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_every_argument_makes_a_system_that_initialises(argument):
    config = common.with_variants(common.get_config(), argument)
    run.check(config)
    assert config.system in SYSTEMS
    features = {"text": jnp.zeros((2, 4, 12)), "speech": jnp.zeros((2, 4, 10))}
    everything = jnp.ones((2, 4), bool)
    batch = Batch(features, everything, everything[:, :2], jnp.zeros(2, int), jnp.ones(2))
    system = SYSTEMS[config.system](FrozenConfigDict(config.model), tuple(features), 4)
    shapes = None
    for stage in system.stages:
        shapes = jax.eval_shape(stage.init, jax.random.key(0), batch, shapes)
        assert set(stage.depends) <= set(config.model)


@pytest.mark.parametrize("name", common.TABLES)
def test_a_tables_members_keep_what_was_asked_beside_it(name):
    config = common.with_variants(common.get_config(), f"pooled,{name}")
    assert [folder for folder, _ in config.members] == list(common.TABLES[name])
    for folder, argument in config.members:
        assert argument == f"pooled,{folder}"
        assert common.with_variants(common.get_config(), argument).data.length == 1


def test_arguments_say_what_they_set():
    config = common.with_variants(common.get_config(), "pooled,lambda=20")
    assert config.variant == "pooled,lambda=20" and config.model.rec.weight == 20
    assert common.with_variants(common.get_config(), "mmin").variant == "default"
    dicmor_flow = common.with_variants(common.get_config(), "flow_dicmor").model.flow
    assert (dicmor_flow.num_couplings, dicmor_flow.permute) == (32, "none")
    mixed = common.get_config()
    mixed.system = "mmin"
    with pytest.raises(UserError, match="another system's"):
        run.check(mixed)
    plus = common.with_variants(common.get_config(), "pooled,cmarr_plus,no_maximum")
    assert plus.variant == "pooled,no_maximum" and plus.data.statistics == "mean"
    with pytest.raises(UserError, match="after 'cmarr_plus'"):
        common.with_variants(common.get_config(), "no_maximum,cmarr_plus")
    with pytest.raises(UserError, match="wanted some of paper"):
        common.with_variants(common.get_config(), "no_such")


@pytest.mark.parametrize("module", [iemocap, msp_improv, meld, cremad, ravdess, demo])
def test_each_config_takes_an_argument_or_none(module):
    assert module.get_config().variant == "default"
    assert module.get_config("mmin").system == "mmin"


def test_the_mmin_family_has_settings_of_its_own_for_msp_improv():
    mmin, theirs = iemocap.get_config("mmin"), msp_improv.get_config("mmin")
    assert (mmin.train.learning_rate, theirs.train.learning_rate) == (2e-4, 5e-4)
    assert theirs.model.share_weights and theirs.model.forward_weight == 2
    assert msp_improv.get_config("cra") == iemocap.get_config("cra")
