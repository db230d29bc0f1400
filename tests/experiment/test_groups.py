"""Which sweeps one program can train, and how each keeps what is its own."""

import json

import jax
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError
from cmarr_jax.experiment import groups
from cmarr_jax.runtime.files import write_json
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.training.runs import Settings
from cmarr_jax.workdir.checkpoints import Checkpoints, JoinedCheckpoints
from cmarr_jax.workdir.ownership import WorkDir
from configs import systems
from tests import tiny


def weights_of(config):
    """The model's fields that weigh a term of the loss."""
    fields = {f"model.{field}": value for field, value in leaves(config.model.to_dict())}
    return {f: value for f, value in fields.items() if f.split(".")[-1].split("_")[-1] == "weight"}


@pytest.mark.parametrize("preset", systems.PRESETS)
def test_what_programs_may_differ_in_is_what_a_run_has_of_its_own(preset):
    """Each loss weight of each system changes the settings and no other number of the stages'."""
    fields = {"train.learning_rate": 0.5, "train.weight_decay": 0.25, "seed": 3, "num_seeds": 2}
    config = tiny.config(preset)
    weights = {field: 3.0 for field, value in weights_of(config).items() if value}
    other = tiny.config(preset, **(fields | weights))
    assert groups.program(config) == groups.program(other)

    def settings(config):
        make = SYSTEMS[config.system]
        stages = make(FrozenConfigDict(config.model), ("text", "speech"), 3).stages
        return Settings.of(config, stages)

    *_, before = settings(config)
    *_, own = settings(other)
    assert own[:2] == (0.5, 0.25) != before[:2]
    assert (3.0 in own.loss_weights.values()) == bool(weights)
    for field in ("train.epochs", "train.batch_size", "model.width", "masking.per_sample"):
        value = 32 if "per" not in field else False
        assert groups.program(tiny.config(preset, **{field: value})) != groups.program(config)


def test_a_weight_of_zero_is_another_program():
    zero, one = (tiny.config(**{"model.flow.nll_weight": w}) for w in (0.0, 1.0))
    assert groups.program(zero) != groups.program(one)


def newest(folder):
    return WorkDir(folder, tiny.config()).newest()


def test_a_table_may_grow_and_is_no_sweep(tmp_path):
    config = tiny.config()
    config.members = (("a", "a"),)
    with WorkDir(str(tmp_path), config).opened():
        pass
    write_json(str(tmp_path / "status.json"), {"complete": True, "seconds": 1})
    assert WorkDir(str(tmp_path), config).is_ended
    config.members = (("a", "a"), ("b", "b"))
    assert not WorkDir(str(tmp_path), config).is_ended
    with WorkDir(str(tmp_path), config).opened():
        pass
    config.members = ()
    with (
        pytest.raises(UserError, match="belongs to a sweep with members="),
        WorkDir(str(tmp_path), config).opened(),
    ):
        pass
    with pytest.raises(UserError, match="belongs to a sweep with members="):
        assert WorkDir(str(tmp_path), config).is_ended


def save(folder, runs, epochs, origin="a"):
    state = {"x": np.arange(6.0).reshape(3, 2), "step": np.arange(3)}
    with Checkpoints(folder, {"config": origin}) as own:
        for epoch in epochs:
            kept = jax.tree.map(lambda leaf, epoch=epoch: leaf[runs] + epoch, state)
            own.save("", "last", epoch, kept, [None] * (runs.stop - runs.start))


def test_each_sweep_keeps_its_own_checkpoints_and_they_join(tmp_path):
    folders = [str(tmp_path / name) for name in "ab"]
    runs = [slice(0, 1), slice(1, 3)]
    state = {"x": np.arange(6.0).reshape(3, 2), "step": np.arange(3)}
    stopped = [None, {"fold": 1}, None]
    with Checkpoints(folders[0], {"config": "a"}) as a, Checkpoints(folders[1], {}) as b:
        JoinedCheckpoints([a, b], runs).save("", "last", 4, state, stopped)
    assert newest(folders[0]) == newest(folders[1]) == [("last", 4)]
    with Checkpoints(folders[0], {"config": "a"}) as a, Checkpoints(folders[1], {}) as b:
        alone = b.resume("", jax.tree.map(lambda leaf: leaf[1:], state))
        np.testing.assert_array_equal(alone.state["x"], state["x"][1:])
        assert alone.stopped == stopped[1:]
        joined = JoinedCheckpoints([a, b], runs).resume("", state)
    assert joined.epoch == 4 and joined.stopped == stopped
    for name, value in state.items():
        np.testing.assert_array_equal(joined.state[name], value)


def test_sweeps_that_damage_has_parted_are_named(tmp_path):
    folders = [str(tmp_path / name) for name in "ab"]
    save(folders[0], slice(0, 1), (3,))
    save(folders[1], slice(1, 2), (2, 3))
    about = tmp_path / "b" / "checkpoints" / "last" / "3" / "about" / "metadata"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"digest": "0"}))
    like = {"x": np.zeros((2, 2)), "step": np.zeros(2, int)}
    with (
        Checkpoints(folders[0], {"config": "a"}) as a,
        Checkpoints(folders[1], {"config": "a"}) as b,
        pytest.raises(UserError, match="left at epochs 2, 3 by the damage"),
    ):
        JoinedCheckpoints([a, b], [slice(0, 1), slice(1, 2)]).resume("", like)
    assert newest(folders[1]) == [("last", 2)]
