"""Every argument that a config takes makes a config that its system accepts."""

import jax
import jax.numpy as jnp
import pytest
from ml_collections import FrozenConfigDict

from cmarr_jax.errors import UserError
from cmarr_jax.experiment import run
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.systems.system import Batch
from configs import common, cremad, demo, iemocap, meld, msp_improv, ravdess, systems

PUBLISHED = systems.PUBLISHED
ARGUMENTS = [*common.VARIANTS, *SYSTEMS, "pooled,mmin", "pooled,no_udcl", "alpha=0.5"]
ARGUMENTS += [f"pooled,cmarr_plus,{name}" for name in common.PLUS_VARIANTS]
ARGUMENTS += [f"{name},published" for name in PUBLISHED]


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
    plain = common.with_variants(common.get_config(), name).members
    assert plain == tuple((m, m) for m in common.TABLES[name])
    config = common.with_variants(common.get_config(), f"pooled,{name}")
    if name != "fig4":
        left = [m for m in common.TABLES[name] if m != "no_attention"]
        assert [folder for folder, _ in config.members] == left
    for folder, argument in config.members:
        assert argument == f"pooled,{folder}"
        member = common.with_variants(common.get_config(), argument)
        assert member.data.length == 1
        run.check(member)


@pytest.mark.parametrize("preset", ["", "paper", "printed", "pooled", "beta05", "no_udcl"])
def test_figure_4_varies_each_weight_around_the_presets_own(preset):
    config = common.with_variants(common.get_config(), preset)
    found = common.members("fig4", config)
    assert len(set(found)) == len(found)
    for name, field in common.WEIGHTS.items():
        grid = [float(m.partition("=")[2]) for m in found if m.startswith(f"{name}=")]
        own = config
        for part in field.split("."):
            own = own[part]
        assert own in grid and min(grid) <= own < max(grid) and len(grid) >= 5


def test_one_vector_a_modality_has_no_attention_to_take_away():
    concat = "model.fusion.variant=concat"
    for argument in ("pooled,no_attention", "no_attention,pooled", f"pooled,augmented,{concat}"):
        config = common.with_variants(common.get_config(), argument)
        with pytest.raises(UserError, match=r"no attention to take away; .*data\.length=32") as e:
            run.check(config)
        assert "\n" not in str(e.value)
    for argument in ("no_attention", "pooled,augmented", "pooled,mmin"):  # MMIN has no fusion
        run.check(common.with_variants(common.get_config(), argument))


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
    with pytest.raises(UserError, match="'finetune': name it after 'mmin'"):
        common.with_variants(common.get_config(), "pooled,finetune,mmin")
    tuned = common.with_variants(common.get_config(), "pooled,mmin,finetune")
    assert tuned.train.epochs == tuned.pretrain.epochs == 4
    with pytest.raises(UserError, match="after 'cmarr_plus'"):
        common.with_variants(common.get_config(), "no_maximum,cmarr_plus")
    with pytest.raises(UserError, match="wanted some of paper"):
        common.with_variants(common.get_config(), "no_such")


@pytest.mark.parametrize("module", [iemocap, msp_improv, meld, cremad, ravdess, demo])
def test_each_config_takes_an_argument_or_none(module):
    assert module.get_config().variant == "default"
    assert module.get_config("mmin").system == "mmin"


def test_published_is_each_codes_recipe_whatever_stood_before():
    """The numbers of the repositories' scripts, read there; docs/systems.md says what is left."""
    made = {n: common.with_variants(common.get_config(), f"{n},published") for n in PUBLISHED}
    for name, config in made.items():
        assert not config.train.balance_classes and not config.pretrain.balance_classes
        assert not config.train.averaging
        acoustic_only = name not in ("cra", "dicmor")
        assert (tuple(config.data.normalised) == ("speech",)) == acoustic_only
    pooled = common.with_variants(common.get_config(), "pooled,mmin,published")
    assert not pooled.train.balance_classes and pooled.variant == "pooled,published"

    def recipe(c):  # rate, batch, epochs, the share of them at a constant rate, Adam's beta
        return c.learning_rate, c.batch_size, c.epochs, c.linear_from, c.beta1

    for name, teacher, student in (
        ("mmin", (2e-4, 128, 20, 0.5, 0.9), (2e-4, 128, 60, 0.5, 0.5)),
        ("if_mmin", (2e-4, 64, 20, 0.5, 0.9), (2e-4, 128, 40, 0.5, 0.5)),
        ("cif_mmin", (2e-4, 64, 40, 0.75, 0.9), (2e-4, 64, 40, 0.5, 0.5)),
        ("nmer", (2e-4, 64, 20, 0.5, 0.9), (2e-4, 128, 80, 0.5, 0.5)),
    ):
        assert recipe(made[name].pretrain) == teacher and recipe(made[name].train) == student
        assert made[name].train.schedule == made[name].pretrain.schedule == "linear"
    assert recipe(made["cra"].train) == (1e-3, 256, 100, 0.2, 0.5)
    dicmor, nmer = made["dicmor"], made["nmer"]
    assert (dicmor.model.width, dicmor.model.num_layers, dicmor.train.batch_size) == (32, 4, 4 * 8)
    assert (dicmor.model.faithful_to, dicmor.model.flow.permute) == ("code", "none")
    rates = ["dropout", "attention_dropout", "attention_dropout_speech", "attention_dropout_video"]
    rates += ["embed_dropout", "text_dropout", "out_dropout"]
    assert [dicmor.model[r] for r in rates] == [0.0, 0.3, 0.2, 0.0, 0.2, 0.5, 0.5]
    assert (nmer.model.kl_reduce, nmer.model.kl_weight) == ("sum", 1)
    for argument in ("published", "augmented,published", "published,mmin"):
        with pytest.raises(UserError, match="after a system that has code, of cra, mmin"):
            common.with_variants(common.get_config(), argument)


def test_the_mmin_family_has_settings_of_its_own_for_msp_improv():
    mmin, theirs = iemocap.get_config("mmin"), msp_improv.get_config("mmin")
    assert (mmin.train.learning_rate, theirs.train.learning_rate) == (2e-4, 5e-4)
    assert theirs.model.share_weights and theirs.model.forward_weight == 2
    assert msp_improv.get_config("cra") == iemocap.get_config("cra")
