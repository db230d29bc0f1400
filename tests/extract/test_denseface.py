import numpy as np
import pytest
from flax import traverse_util

from cmarr_jax.errors import UserError
from cmarr_jax.extract import denseface
from cmarr_jax.extract.models import densenet
from tests.extract.models.test_densenet import filled, shapes


@pytest.fixture
def arrays(rng):
    return filled(rng, shapes(layers=1, num_classes=7)) | {"mean": 120.5, "std": np.float32(50)}


def save(tmp_path, arrays):
    file = str(tmp_path / "weights.npz")
    np.savez(file, **arrays)
    return file


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_weights_are_read_strictly_and_completely(tmp_path, arrays, kind):
    kernel = "Initial_convolution/kernel"
    stored = {n: np.asarray(a, "f4") for n, a in arrays.items()}
    stored[f"{kernel}:0"] = stored.pop(kernel)
    stored[f"{kernel}/Momentum"] = stored[f"{kernel}:0"]
    file = str(tmp_path / f"weights.{kind}")
    if kind == "npz":
        np.savez(file, **stored)
    else:
        pytest.importorskip("safetensors.numpy").save_file(stored, file)
    weights = denseface.read(file)
    assert weights.network == densenet.DenseNet(layers=1, num_classes=7)
    assert (weights.mean, weights.std) == (120.5, 50)
    found = traverse_util.flatten_dict(weights.variables)
    assert set(found) == set(shapes(layers=1, num_classes=7))
    for path, array in found.items():
        np.testing.assert_array_equal(array, arrays[denseface.tf_name(path)])


MISTAKES = {
    "one too few": (lambda a: a.pop("Block_2/layer_0/bottleneck/kernel"), "lacks the array 'Block_2/layer_0/bottleneck/kernel', (1, 1, "),
    "one too many": (lambda a: a.update(extra=np.ones(1)), "1 arrays have no place, 'extra' first"),
    "transposed": (lambda a: a.update({"Block_0/layer_0/bottleneck/kernel": np.ones((48, 24, 1, 1))}), "is (48, 24, 1, 1), wanted (1, 1, 24, 48)"),
    "another network": (lambda a: a.pop("Transition_to_classes/W"), "wanted the arrays of a TensorFlow DenseNet"),
    "no mean": (lambda a: a.pop("mean"), "wanted one number 'mean'"),
    "std of zero": (lambda a: a.update(std=0.0), "'std' is 0, wanted more than 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, arrays, case):
    damage, expected = MISTAKES[case]
    damage(arrays)
    file = save(tmp_path, arrays)
    with pytest.raises(UserError) as error:
        denseface.read(file)
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(file)


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("none.npz", None, "no such file"),
        ("epoch-200.index", "x", "wanted .npz or .safetensors; for a TensorFlow checkpoint see"),
        ("x.npz", "x", "damaged"),
        ("x.safetensors", "x", "damaged"),
    ],
)
def test_files_that_are_no_weights(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=expected):
        denseface.read(str(tmp_path / name))


def test_a_tensorflow_checkpoint_becomes_weights(tmp_path, capsys, arrays):
    """Saved as the original's training script did, optimiser state and step included."""
    tf = pytest.importorskip("tensorflow")
    v1 = tf.compat.v1
    of_network = {n: a for n, a in arrays.items() if "/" in n}
    with tf.Graph().as_default(), v1.Session() as session:
        for name, array in of_network.items():
            v1.get_variable(name, initializer=array)
        v1.get_variable("Initial_convolution/kernel/Momentum", initializer=np.ones(3, "f4"))
        v1.get_variable("global_step", initializer=200)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "epoch"), global_step=200)
    out = str(tmp_path / "weights.npz")
    flags = [out, "--mean", "131.0754", "--std", "47.858177"]
    assert denseface.main([str(tmp_path / "epoch-200"), *flags]) == 0
    weights = denseface.read(out)
    assert (weights.mean, weights.std) == (np.float32(131.0754), np.float32(47.858177))
    for path, array in traverse_util.flatten_dict(weights.variables).items():
        np.testing.assert_array_equal(array, of_network[denseface.tf_name(path)])
    before = sorted(p.name for p in tmp_path.iterdir())
    capsys.readouterr()
    for checkpoint, target, expected in (
        ("epoch-200", out, "exists already"),
        ("epoch-201", str(tmp_path / "other.npz"), "epoch-201: no checkpoint"),
    ):
        assert denseface.main([str(tmp_path / checkpoint), target, *flags[1:]]) == 2
        line = capsys.readouterr().err
        assert expected in line and line.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before
