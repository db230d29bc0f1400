"""Missing and odd values: one rule each, the same through every entrance."""

import numpy as np
import pytest

from cmarr_jax.data import pack, values
from cmarr_jax.errors import UserError

NAN = float("nan")
MISSING = [None, NAN, np.float32(NAN), np.float64(NAN), "", "nan", "NaN", b"nan"]
CLASSES = ("ang", "hap", "neu")


@pytest.mark.parametrize("value", MISSING)
def test_what_is_missing_is_unlabelled(value):
    assert values.is_missing(value) and values.label(value, CLASSES) == ""


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "none", "Nan", np.inf, "-", [], np.zeros(2)])
def test_what_is_something_is_not_missing(value):
    assert not values.is_missing(value)


@pytest.mark.parametrize(
    "value, name",
    [
        ("hap", "hap"), (b"hap", "hap"), (np.str_("hap"), "hap"), (np.bytes_(b"hap"), "hap"),
        (1, "hap"), (1.0, "hap"), (np.int64(1), "hap"), (np.float32(1), "hap"), (True, "hap"),
        (np.array([1]), "hap"), (np.array("hap"), "hap"), (-1, ""), ("joy", "joy"),
    ],
)  # fmt: skip
def test_labels_that_are_no_strings(value, name):
    assert values.label(value, CLASSES) == name


def test_a_class_name_wins_over_every_other_meaning():
    assert values.label("nan", ("nan", "x")) == "nan"
    assert values.label(1, ("1", "0")) == "1" and values.label(0.0, ("1", "0")) == "0"


@pytest.mark.parametrize("value", [3, 0.5, np.inf, [0, 1], {"a": 1}, b"\xff"])
def test_a_label_that_means_nothing_is_one_line(value):
    with pytest.raises(UserError) as error:
        values.label(value, CLASSES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value, text",
    [(1, "1"), (1.0, "1"), (1.5, "1.5"), (b"a", "a"), (None, ""), (NAN, ""), ("nan", "nan"),
     (np.int8(3), "3"), (np.float16(2), "2"), (True, "True")],
)  # fmt: skip
def test_columns_as_text(value, text):
    assert values.text(value) == text


WANTED = np.array([[1, 2], [3, 4]], np.float32)


@pytest.mark.parametrize(
    "dtype", ["i1", "u2", "i8", ">i4", "f2", ">f2", "f4", ">f4", "f8", ">f8", "g", "O"]
)
def test_any_dtype_of_numbers(dtype):
    made = values.sequence(WANTED.astype(dtype), "x")
    assert made.dtype.isnative
    kept = values.finite(made, values.stored(made))
    assert kept.rows.dtype == (np.float16 if dtype.endswith("f2") else np.float32)
    np.testing.assert_array_equal(kept.rows, WANTED)
    assert kept.said == ""


@pytest.mark.parametrize(
    "given",
    [[[1, 2], [3, 4]], [np.array([1, 2]), (3, 4)], np.array([[1, 2], [3, 4]], bool).tolist()],
)
def test_lists_are_arrays(given):
    assert values.sequence(given, "x").shape == (2, 2)


def test_booleans_are_numbers():
    np.testing.assert_array_equal(values.sequence(np.eye(2, dtype=bool), "x"), np.eye(2))


@pytest.mark.parametrize("given", [None, NAN, np.zeros((0, 3)), [], np.zeros(0), "", "nan"])
def test_no_array_is_no_modality(given):
    assert len(values.sequence(given, "x")) == 0


def test_a_vector_is_a_row_and_axes_of_one_go():
    assert values.sequence(np.ones(3), "x").shape == (1, 3)
    assert values.sequence(np.ones((1, 4, 1, 3)), "x").shape == (4, 3)


@pytest.mark.parametrize(
    "given", [[[1], [2, 3]], np.array([{}]), "word", np.array(["1"]), np.ones((2, 2), complex), np.ones((2, 2, 2)), 3.0]
)  # fmt: skip
def test_what_is_no_sequence_is_one_line(given):
    with pytest.raises(UserError, match=r"^here: ") as error:
        values.sequence(given, "here")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value", [NAN, np.inf, -np.inf, 1e300, -np.finfo("f8").max, None, "nan", ""]
)
def test_what_float32_cannot_hold_is_0_and_counted(value):
    made = values.finite(values.sequence([[1.0, value], [3.0, 4.0]], "x"), np.float32)
    np.testing.assert_array_equal(made.rows, [[1, 0], [3, 4]])
    assert made.zeroed == 1 and made.said == "1 numbers that float32 cannot hold count as 0"


def test_a_row_without_a_finite_number_is_left_out_unless_rows_must_stay():
    rows = np.array([[np.nan, np.inf], [1, 2]])
    made = values.finite(rows, np.float32)
    assert made.rows.tolist() == [[1, 2]] and (made.zeroed, made.dropped) == (0, 1)
    assert "1 rows without a finite number are left out" in made.said
    assert values.finite(rows, np.float32, keep_rows=True).rows.tolist() == [[0, 0], [1, 2]]


def test_float16_is_told_by_its_own_range():
    made = values.finite(np.array([[1e5, 1.0]]), np.float16)
    assert made.zeroed == 1 and "float16" in made.said


ROWS = np.arange(1, 13, dtype=np.float32).reshape(4, 3)


def padded(front, back, value=0.0):
    wide = np.full((front + 4 + back, 3), value, np.float32)
    wide[front : front + 4] = ROWS
    return wide, np.arange(len(wide)) < 4


@pytest.mark.parametrize("front, back", [(0, 0), (0, 3), (3, 0), (2, 3)])
def test_padding_is_found_where_it_is(front, back):
    rows, lost = values.window(*padded(front, back))
    np.testing.assert_array_equal(rows, ROWS)
    assert lost == 0


@pytest.mark.parametrize("front, back", [(0, 3), (3, 0)])
@pytest.mark.parametrize("value", [7.0, -1.0])
def test_padding_may_be_any_constant(front, back, value):
    rows, lost = values.window(*padded(front, back, value))
    np.testing.assert_array_equal(rows, ROWS)
    assert lost == 0


def test_silent_frames_inside_a_length_stay():
    wide, claimed = padded(3, 0)
    wide[3] = 0  # the first frame of the recording is silent
    assert len(values.window(wide, claimed)[0]) == 4
    wide, claimed = padded(0, 3)
    wide[3] = 0
    assert len(values.window(wide, claimed)[0]) == 4


def test_frames_beyond_a_length_are_counted():
    rows, lost = values.window(np.arange(1, 19, dtype="f4").reshape(6, 3), np.arange(6) < 4)
    assert len(rows) == 4 and lost == 2


@pytest.mark.parametrize(
    "given", [[1, 2], [1, 2, 9], [1, 2, -1], [1, 2, 0.5], [1, 2, None], "abc", [[1], [2, 3], 1]]
)
def test_lengths_that_cannot_be_are_one_line(given):
    with pytest.raises(UserError, match=r"^here: ") as error:
        values.lengths(given, 3, 4, "here")
    assert "\n" not in str(error.value)
    assert values.lengths(np.array([[1.0], [2], [4]]), 3, 4, "here").tolist() == [1, 2, 4]


def write(tmp_path, capsys, *, labels=("a", "b", "a"), sequences=None, **columns):
    made = pack.write(
        str(tmp_path / "pack"),
        name="x",
        class_names=["a", "b"],
        columns={"id": ["u", "v", "w"], "session": [1, 2.0, b"3"], "speaker": [1, 1, 1], "label": labels} | columns,
        sequences={"text": sequences or [np.ones((1, 2), "f4")] * 3},
        provenance={},
    )  # fmt: skip
    return made, capsys.readouterr().err


def test_pack_write_takes_numbers_of_any_kind(tmp_path, capsys):
    given = [np.ones((1, 2)), np.ones((2, 2), ">f4"), np.ones(2, int)]
    made, said = write(tmp_path, capsys, sequences=given)
    assert made.features["text"].dtype == np.float32 and made.features["text"].shape == (4, 2)
    assert made.columns["session"].tolist() == ["1", "2", "3"] and said == ""
    assert made.provenance == {}


def test_pack_write_counts_what_it_changes(tmp_path, capsys):
    odd = np.array([[1, np.nan], [-np.inf, 1e300]])
    given = {"text": [np.ones((1, 2))] * 3, "speech": [odd, None, np.ones((1, 2))]}
    made = pack.write(
        str(tmp_path / "pack"), name="x", class_names=["a", "b"], provenance={"by": "me"},
        columns={"id": "uvw", "session": "123", "speaker": "123", "label": [None, 1, np.float64("nan")],
                 "group": ["g", NAN, "nan"]},
        sequences=given,
    )  # fmt: skip
    assert made.sequence("speech", 0).tolist() == [[1, 0]] and len(made.sequence("speech", 1)) == 0
    assert made.columns["label"].tolist() == ["", "b", ""]
    assert made.columns["group"].tolist() == ["g", "", ""]
    said = [line.split(": ", 2)[2] for line in capsys.readouterr().err.splitlines()]
    assert said == made.provenance["changed"] == [
        "label: 2 missing values (None, NaN, below 0) are empty",
        "label: 1 values that are no text name classes",
        "group: 2 missing values (None, NaN, below 0) are empty",
        "speech: 1 numbers that float32 cannot hold count as 0; 1 rows without a finite number are left out",
        "speech: 1 utterances without an array lack it",
    ]  # fmt: skip
    assert made.provenance["by"] == "me"


@pytest.mark.parametrize(
    "labels, match",
    [((0, 1, 2), "column label, utterance 2: 2 is neither a class' name nor an index of a, b"),
     ((0.5, 1, 1), "0.5 is neither"), (([0, 1], 1, 1), "wanted one value")],
)  # fmt: skip
def test_pack_write_refuses_labels_that_mean_nothing(tmp_path, capsys, labels, match):
    with pytest.raises(UserError, match=match):
        write(tmp_path, capsys, labels=labels)
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize("column", ["session", "speaker"])
@pytest.mark.parametrize("value", [None, NAN, "nan", ""])
def test_nobody_is_called_nan(tmp_path, capsys, column, value):
    with pytest.raises(UserError, match=f"row 2 has an empty {column}"):
        write(tmp_path, capsys, **{column: [value, "2", "3"]})


def test_a_modality_that_nobody_has_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="modality text: no utterance has it; leave it out"):
        write(tmp_path, capsys, sequences=[None] * 3)


def test_arrays_of_other_libraries(rng):
    jnp = pytest.importorskip("jax.numpy")
    made = values.sequence(jnp.asarray(WANTED, jnp.bfloat16), "x")
    np.testing.assert_array_equal(made, WANTED)
    masked = np.ma.MaskedArray(WANTED, mask=[[True, False], [False, False]])
    kept = values.finite(values.sequence(masked, "x"), np.float32)
    assert kept.rows.tolist() == [[0, 2], [3, 4]] and kept.zeroed == 1


def test_a_table_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 3], "b": pandas.array([None, 4], dtype="Int64")})
    kept = values.finite(values.sequence(frame, "x"), np.float32)
    assert kept.rows.tolist() == [[1, 0], [3, 4]]
    assert values.is_missing(pandas.NA) and values.is_missing(pandas.NaT)


@pytest.mark.parametrize("value", [10**400, [[10**400]]])
def test_numbers_beyond_every_float_are_one_line(value):
    with pytest.raises(UserError, match=r"^x: "):
        values.sequence(np.array([[value]], object), "x")
    with pytest.raises(UserError):
        values.label(10**400, CLASSES)
