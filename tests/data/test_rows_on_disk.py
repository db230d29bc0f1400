import numpy as np
import pytest

from cmarr_jax.data import audit, duplicates, pipeline, protocol
from cmarr_jax.data.rows_on_disk import RowsOnDisk, blocks, zeros_beside
from cmarr_jax.errors import UserError


@pytest.fixture
def pair(tmp_path, rng):
    """The same values as an array and on disk."""
    values = rng.normal(size=(50, 3, 4)).astype(np.float16)
    on_disk = RowsOnDisk(str(tmp_path), values.shape, values.dtype)
    assert not on_disk[:].any()
    on_disk[np.arange(49, -1, -1)] = values[::-1]
    return values, on_disk


@pytest.mark.parametrize(
    "rows",
    [7, slice(None), slice(3, 20, 2), slice(5, 5), np.array([4, 5, 6, 2, 2, 49, 0]),
     np.array([[1, 2], [2, 1]]), np.array([], np.int64)],
)  # fmt: skip
def test_rows_are_those_of_an_array(pair, rows):
    values, on_disk = pair
    np.testing.assert_array_equal(on_disk[rows], values[rows])
    assert on_disk[rows].dtype == values.dtype
    values[rows] = 3 * values[rows]
    on_disk[rows] = values[rows]
    np.testing.assert_array_equal(on_disk[:], values)


def test_it_iterates_leaves_no_file_and_knows_its_end(pair, tmp_path):
    values, on_disk = pair
    np.testing.assert_array_equal(np.stack(list(on_disk)), values)
    assert on_disk.nbytes == values.nbytes and not list(tmp_path.iterdir())
    for beyond in (50, -1, np.array([3, 50])):
        with pytest.raises(IndexError):
            on_disk[beyond]


def test_a_folder_that_cannot_hold_it_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--config.data.stream=.*missing: cannot hold 1 MB"):
        RowsOnDisk(str(tmp_path / "missing"), (1000, 125), np.float64)
    with pytest.raises(UserError, match="name a folder with room"):
        RowsOnDisk(str(tmp_path), (2**40, 2**20), np.float32)


def test_blocks_are_everything_once():
    assert list(blocks(0)) == []
    rows = [np.arange(700)[b] for b in blocks(700)]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(700))
    assert max(map(len, rows)) < 700


def test_what_is_made_beside_lies_where_the_array_lies(pair):
    for where in pair:
        made = zeros_beside(where, (5, 2), np.float32)
        assert type(made) is type(where) and made.shape == (5, 2) and not made[:].any()


@pytest.mark.parametrize("loader", ["tfds", "numpy"])
def test_a_corpus_on_disk_is_that_in_memory(tiny_pack, tmp_path, loader):
    fields = dict(pack=tiny_pack.path, data_dir=str(tmp_path / "tfds"), loader=loader, length=5)
    memory = pipeline.load(**fields)
    on_disk = pipeline.load(**fields, stream=str(tmp_path))
    assert on_disk.on_disk and not memory.on_disk
    for m in memory.modalities:
        np.testing.assert_array_equal(on_disk.features[m][:], memory.features[m])
    assert on_disk.digest() == memory.digest()
    folds = protocol.make_folds(memory.columns, memory.labels)
    ours, theirs = (
        audit.audit(c, folds, scheme="session", select_on_test=False) for c in (on_disk, memory)
    )
    assert ours == theirs
    found = [duplicates.find(c) for c in (on_disk, memory)]
    assert found[0].same == found[1].same and found[0].near == found[1].near
