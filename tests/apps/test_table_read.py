"""Reading a user's table: every format, and what every fault says."""

from __future__ import annotations

import gzip
import time
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcore as gd
from gradcore.apps.tasks import packed
from gradcore.apps.tasks.table import cells, layout, read
from gradcore.apps.tasks.table.read import Wanted


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def fault(path, **wanted):
    with pytest.raises(gd.ArgumentError) as caught:
        read.read([path], Wanted(**wanted))
    message = str(caught.value)
    assert "\n" not in message
    return message


def texts(column):
    return [column.texts[code] if code >= 0 else None for code in column.values]


# ---- CSV ---------------------------------------------------------------------------------------


def test_numbers_texts_and_quoted_fields(tmp_path):
    path = write(
        tmp_path / "a.csv",
        'id, x,name\r\n7,1.5,"a, ""b"""\r\n7,-2e3,"two\nlines"\r\n\r\n8, nan ,"a, ""b"""\r\n',
    )
    table = read.read([path])
    assert list(table.columns) == ["id", "x", "name"]
    np.testing.assert_array_equal(table.columns["x"].values, [1.5, -2000.0, np.nan])
    assert texts(table.columns["name"]) == ['a, "b"', "two\nlines", 'a, "b"']
    assert table.columns["id"].kind == "number"
    assert [table.where(row) for row in range(3)] == [f"{path}:{n}" for n in (2, 3, 6)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path, delimiter):
    rows = [["a", "b c", "d"], ["1", "x y", "2.5"], ["3", "z", "4"]]
    path = write(tmp_path / "a.txt", "\n".join(delimiter.join(row) for row in rows))
    assert list(read.read([path]).columns) == rows[0]


def test_a_named_delimiter_is_taken(tmp_path):
    path = write(tmp_path / "a.csv", "a:b\n1:2\n")
    assert list(read.read([path], Wanted(delimiter=":")).columns) == ["a", "b"]
    assert list(read.read([path]).columns) == ["a:b"]


def test_byte_order_mark_gzip_and_encodings(tmp_path):
    marked = write(tmp_path / "a.csv", "größe\n1\n", "utf-8-sig")
    assert list(read.read([marked]).columns) == ["größe"]
    packed = tmp_path / "b.csv"
    packed.write_bytes(gzip.compress(b"x,y\n1,2\n"))
    assert list(read.read([packed]).columns) == ["x", "y"]
    latin = write(tmp_path / "c.csv", "größe\n1\n", "latin-1")
    assert list(read.read([latin], Wanted(encoding="latin-1")).columns) == ["größe"]
    assert "not text in UTF-8 (byte 0xf6). Save it as UTF-8, or" in fault(latin)
    assert "--encoding must be one that Python knows" in fault(latin, encoding="klingon")


def test_names_for_a_file_without_them(tmp_path):
    path = write(tmp_path / "a.csv", "1,2\n3,4\n")
    assert f"{path}:1: the first line must name the columns; it holds numbers: '1,2'" in fault(path)
    table = read.read([path], Wanted(header=("a", "b")))
    np.testing.assert_array_equal(table.columns["b"].values, [2.0, 4.0])
    assert table.where(0) == f"{path}:1"


def test_a_column_without_a_name_gets_one(tmp_path):
    path = write(tmp_path / "a.csv", ",x\n0,1\n1,2\n")
    table = read.read([path])
    assert list(table.columns) == ["c0", "x"]
    assert table.notes == (f"{path}: column 1 has no name; it is called c0",)


def test_only_wanted_columns_are_looked_at(tmp_path):
    path = write(tmp_path / "a.csv", "a,b\n1,2\n2,oops\n3,4\n")
    assert list(read.read([path], Wanted(names=frozenset("a"))).columns) == ["a"]


def test_the_kind_of_a_column_may_show_late(tmp_path, monkeypatch):
    monkeypatch.setattr("gradcore.apps.tasks.table.csvfile._CHUNK", 3)
    early = write(tmp_path / "a.csv", "a\nx\ny\nz\n3\n4\n5\nw\nw\n6\nv\n")
    assert texts(read.read([early]).columns["a"])[:4] == ["x", "y", "z", "3"]
    # Most of the cells decide, wherever they stand: 7 numbers are no categories.
    numbers = write(tmp_path / "c.csv", "a\nx\ny\n3\n4\n5\n6\n7\n8\n9\n")
    assert f"{numbers}:2: column 'a' must hold finite numbers; got 'x'" in fault(numbers)
    late = write(tmp_path / "b.csv", "a\n01\n2\n3\nx\ny\nz\nw\n")
    assert texts(read.read([late]).columns["a"]) == ["01", "2", "3", "x", "y", "z", "w"]
    assert texts(read.read([late], Wanted(text=frozenset("a"))).columns["a"])[0] == "01"


@pytest.mark.parametrize("missing", ["", "NA", "nan", "NULL", "n/a", "?", " "])
def test_missing_cells(tmp_path, missing):
    path = write(tmp_path / "a.csv", f"a,b\n1,x\n{missing},y\n")
    np.testing.assert_array_equal(read.read([path]).columns["a"].missing(), [False, True])


def test_missing_texts(tmp_path):
    path = write(tmp_path / "a.csv", "a,b\n1,x\n2,\n3,NA\n")
    assert texts(read.read([path]).columns["b"]) == ["x", None, None]


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("1,5", "Write 1.5 if it is a decimal comma."),
        ("1_000", "Write 1000, without underscores."),
        ("1,234.5", "without thousands separators"),
        ("1 000", "without thousands separators"),
        ("12%", "Leave out the percent sign."),
        ("inf", "Leave it empty if it is missing."),
        ("-Infinity", "Leave it empty if it is missing."),
        ("1e999", "Correct or empty the cell, or add --text x"),
        ("oops", "Correct or empty the cell, or add --text x"),
        ("0x10", "It reads as 16 (hexadecimal) or as a text"),
        ("3 mm", "It reads as 3 (with the unit mm) or as a text"),
    ],
)
def test_a_cell_that_is_no_number(tmp_path, cell, hint):
    path = write(tmp_path / "a.csv", f"t;x\n1;2.5\n2;{cell}\n" + "3;4.25\n" * 10)
    message = fault(path)
    assert message.startswith(f"{path}:3: column 'x' must hold finite numbers; got '{cell}'. ")
    assert hint in message


def test_a_column_that_must_hold_numbers(tmp_path):
    path = write(tmp_path / "a.csv", "x\nred\nblue\n")
    message = fault(path, number=frozenset("x"))
    assert message.startswith(f"{path}:2: column 'x' must hold finite numbers; got 'red'.")


def test_order_by_numbers_and_dates(tmp_path):
    path = write(
        tmp_path / "a.csv",
        "i,f,d,z\n"
        "1732485600000000001,1,2024-05-31,2024-05-31T12:00:00Z\n"
        "1732485600000000002,2.5,2024-06-01 10:00:00,2024-05-31T12:00:00+02:00\n",
    )

    def order(name):
        return read.read([path], Wanted(order=name)).columns[name]

    assert order("i").values.dtype == np.int64
    assert np.diff(order("i").values) == [1]
    np.testing.assert_array_equal(order("f").values, [1.0, 2.5])
    assert order("d").kind == "date"
    assert order("d").cells(np.arange(2)) == ["2024-05-31T00:00:00", "2024-06-01T10:00:00"]
    assert np.diff(order("z").values) == [-2 * 3600 * 10**6]


@pytest.mark.parametrize(
    ("rows", "line", "what"),
    [
        ("1\nx\n", 3, "a number in every row"),
        ('1\n""\n', 3, "it is missing"),
        ("2024-01-01\n2024-13-01\n", 3, "a date in every row"),
        ("2024-01-01\n7\n", 3, "a date in every row"),
        ("soon\n", 2, "it is 'soon'"),
        ("1\nnan\n", 3, "a number in every row"),
    ],
)
def test_an_order_that_cannot_be_sorted(tmp_path, rows, line, what):
    path = write(tmp_path / "a.csv", f"t\n{rows}")
    message = fault(path, order="t")
    assert message.startswith(f"{path}:{line}: the order in column 't' must be ")
    assert what in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: expected a first line that names the columns"),
        ("\n\n", "is empty: expected a first line that names the columns"),
        ("a,b\n", "has a header and no rows"),
        ("a,b\n1,2\n3\n", ":3: expected 2 fields, as the header has; got 1: '3'. Fill up the row"),
        ("a,b\n1,2\n3,4,5\n", ":3: expected 2 fields, as the header has; got 3: '3,4,5'. Put"),
        ("a,a\n1,2\n", ":1: two columns have the name 'a' (columns 1 and 2). Rename one."),
        ('a,b\n1,"2\n3,4\n', ":2: the row that begins here cannot be read as CSV: unexpected end"),
        ('a,b\n1,2\n3,"4"5\n', ":3: the row that begins here cannot be read as CSV: ',' expected"),
        (
            "a,b\n" + "9" * 140_000 + ",1\n",
            ":2: the row that begins here cannot be read as CSV: field",
        ),
    ],
)
def test_files_that_are_no_table(tmp_path, text, message):
    path = write(tmp_path / "a.csv", text)
    assert message in fault(path)


def test_paths_that_are_no_file(tmp_path):
    assert fault(tmp_path / "gone.csv") == f"cannot read {tmp_path}/gone.csv: no such file."
    assert (
        fault(tmp_path) == f"{tmp_path} is a folder. Name its files, for instance {tmp_path}/*.csv."
    )
    assert "is a spreadsheet (.xlsx). Save the sheet" in fault(write(tmp_path / "a.xlsx", "PK"))
    with pytest.raises(gd.ArgumentError, match="is named twice"):
        read.read([write(tmp_path / "a.csv", "a\n1\n")] * 2)
    with pytest.raises(gd.ArgumentError, match="expected a file"):
        read.read([])


def test_a_truncated_gzip_file(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"x,y\n" + b"1,2\n" * 20_000)[:-20])
    assert "is a damaged or truncated gzip file" in fault(path)


def test_several_files(tmp_path):
    one = write(tmp_path / "a.csv", "x,c\n1,red\n2,blue\n")
    two = write(tmp_path / "b.csv", "c;x\nblue;3\ngreen;4\n")
    table = read.read([one, two])
    np.testing.assert_array_equal(table.columns["x"].values, [1, 2, 3, 4])
    assert texts(table.columns["c"]) == ["red", "blue", "blue", "green"]
    assert [table.where(row) for row in (1, 2)] == [f"{one}:3", f"{two}:2"]
    assert texts(table.file_of_rows()) == [str(one)] * 2 + [str(two)] * 2
    other = write(tmp_path / "c.csv", "x,colour\n1,red\n")
    with pytest.raises(gd.ArgumentError, match=r"names the column 'c', which .*c.csv does not"):
        read.read([one, other])
    third = write(tmp_path / "d.csv", "x,c\nlow,red\n")
    with pytest.raises(gd.ArgumentError, match="'x' must be of one kind in all files; it holds"):
        read.read([one, third])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_whatever_a_file_holds_the_reader_reads_or_explains(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "a.csv"
    path.write_bytes(content)
    try:
        table = read.read([path])
    except gd.GradcoreError as error:
        message = str(error)
    else:
        message = ""
        assert table.rows >= 1
        assert {len(column.values) for column in table.columns.values()} == {table.rows}
    assert "\n" not in message


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_what_the_csv_module_writes_comes_back(tmp_path_factory, rows):
    import csv

    path = tmp_path_factory.mktemp("fuzz") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("name", "value"), *rows])
    table = read.read([path], Wanted(text=frozenset(["name"])))
    np.testing.assert_array_equal(table.columns["value"].values, [value for _, value in rows])
    for found, (name, _) in zip(texts(table.columns["name"]), rows, strict=True):
        stripped = name.strip()
        assert found == (None if stripped in cells.MISSING_TEXTS else stripped)


# ---- Arrays ------------------------------------------------------------------------------------


def test_npy_with_two_axes(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6, dtype=np.float32).reshape(3, 2))
    assert list(read.read([path]).columns) == ["c0", "c1"]
    named = read.read([path], Wanted(header=("x", "y")))
    np.testing.assert_array_equal(named.columns["y"].values, [1, 3, 5])
    assert named.where(2) == f"{path} row 2"
    assert "must name each of the 2 columns" in fault(path, header=("x",))


def test_npy_with_named_fields(tmp_path):
    path = tmp_path / "a.npy"
    rows = [(1, 2.5, "a", "2024-01-02", b"p"), (2, np.nan, "b", "2024-01-01", b"q")]
    fields = [("i", "i4"), ("f", "f8"), ("s", "U3"), ("d", "M8[D]"), ("b", "S2")]
    np.save(path, np.array(rows, dtype=fields))
    table = read.read([path], Wanted(text=frozenset("i"), order="d"))
    assert texts(table.columns["i"]) == ["1", "2"]
    np.testing.assert_array_equal(table.columns["f"].values, [2.5, np.nan])
    assert texts(table.columns["s"]) == ["a", "b"]
    assert texts(table.columns["b"]) == ["p", "q"]
    assert table.columns["d"].kind == "date"


def test_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([1.0, 2.0]), name=np.array(["a", "b"]), flag=np.array([True, False]))
    table = read.read([path])
    np.testing.assert_array_equal(table.columns["flag"].values, [1.0, 0.0])
    np.savez(path, x=np.zeros(2), y=np.zeros(3))
    assert "all columns must be of one length; 'x' has 2 rows and 'y' has 3" in fault(path)
    np.savez(path, x=np.zeros((2, 2)))
    assert "'x' must be a column, an array of one axis; it has shape (2, 2)" in fault(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 2)), "must hold a table, (rows, columns); its array has shape (2, 2, 2)"),
        (np.zeros((0, 2)), "is empty: expected one row per time step"),
        (np.zeros((2, 1), dtype=complex), "must hold numbers, texts or dates; its dtype is comp"),
        (np.array([[1.0], [np.inf]]), "row 1: column 'c0' must hold finite numbers; got inf"),
        (np.array([[None]]), "holds Python objects, which gradcore does not load"),
    ],
)
def test_arrays_that_are_no_table(tmp_path, array, message):
    path = tmp_path / "a.npy"
    np.save(path, array, allow_pickle=True)
    assert message in fault(path)


def test_damaged_array_files(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((40, 2)))
    path.write_bytes(path.read_bytes()[:-8])
    assert "is not a NumPy file, or is damaged" in fault(path)
    path.write_bytes(b"PK\x03\x04 and nothing of a zip file")
    assert "is not a NumPy file, or is damaged" in fault(path)


def header_of_npy(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (",  # tokenize.TokenError
        b"{'descr': ',f8', 'fortran_order': False, 'shape': (2,)}",  # SyntaxError
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,)}" % 2**64,  # OverflowError
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,)}" % 2**50,  # MemoryError
    ],
)
def test_damaged_headers_of_arrays(tmp_path, header):
    path = tmp_path / "a.npy"
    path.write_bytes(header_of_npy(header) + bytes(16))
    assert "is not a NumPy file, or is damaged" in fault(path)


def test_members_of_an_archive_that_are_no_arrays(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", b"some bytes")
    assert "is not a NumPy file, or is damaged: x is not an array" in fault(path)


def test_texts_whose_numbers_are_no_characters(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([0x110000, 65], "<u4").view("<U1")[:, None])
    assert "column 'c0' holds numbers that are no characters" in fault(path)
    np.save(path, np.array([0x110000, 65], ">u4").view(">U1")[:, None])
    assert "column 'c0' holds numbers that are no characters" in fault(path)


def test_damaged_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + b"\x00" * 20 + b"\x08\x00\x00\x00PAR1")  # OSError of Thrift
    assert "cannot be read as Parquet" in fault(path)


def test_packed_files_must_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "LARGEST", 100_000)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"x\n" + b"1\n" * 1_000_000))
    assert "bytes and unpacks to more than" in fault(path)
    path.write_bytes(gzip.compress(b"x\n" + b"1\n" * 40_000))
    assert read.read([path]).rows == 40_000
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros(1_000_000))
    assert "bytes and unpacks to more than" in fault(path)
    np.savez(path, x=np.zeros(1_000_000))
    assert read.read([path]).rows == 1_000_000


def test_many_columns_take_no_time(tmp_path):
    path = tmp_path / "a.csv"
    names = [f"n{i}" for i in range(layout.MOST_COLUMNS)]
    path.write_text(",".join(names) + "\n")
    start = time.process_time()
    assert read.names([path])[0] == names
    assert time.process_time() - start < 5.0  # a search for each name took minutes
    path.write_text("," * layout.MOST_COLUMNS + "\n")
    assert "names 100,001 columns; a table may have 100,000" in fault(path)


def test_order_in_arrays(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, t=np.array([2, 1]), s=np.array(["2024-01-01", "x"]), f=np.array([1, np.nan]))
    assert read.read([path], Wanted(order="t")).columns["t"].values.dtype == np.int64
    assert "row 1: the order in column 's' must be a number or an ISO date" in fault(
        path, order="s"
    )
    assert "row 1: the order in column 'f' must be there in every row" in fault(path, order="f")


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="reading Parquet needs pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    when = np.array(["2024-01-02", "2024-01-01"], dtype="M8[ns]")
    columns = {
        "i": pa.array([1, None], pa.int64()),
        "f": pa.array([2.5, float("nan")]),
        "b": pa.array([True, False]),
        "s": pa.array(["x", None]),
        "c": pa.array(["u", "v"]).dictionary_encode(),
        "t": pa.array(when),
        "z": pa.array(when).cast(pa.timestamp("ns", "Europe/Berlin")),
        "k": pa.array([7, 8], pa.int32()),
    }
    pq.write_table(pa.table(columns), path)
    table = read.read([path], Wanted(order="t", text=frozenset("k")))
    np.testing.assert_array_equal(table.columns["i"].values, [1.0, np.nan])
    np.testing.assert_array_equal(table.columns["f"].values, [2.5, np.nan])
    np.testing.assert_array_equal(table.columns["b"].values, [1.0, 0.0])
    assert texts(table.columns["s"]) == ["x", None]
    assert texts(table.columns["c"]) == ["u", "v"]
    assert texts(table.columns["k"]) == ["7", "8"]
    assert table.columns["t"].cell(0) == "2024-01-02"
    np.testing.assert_array_equal(table.columns["z"].values, table.columns["t"].values)
    pq.write_table(pa.table({"l": pa.array([[1], [2]])}), path)
    assert "column 'l' must hold numbers, texts or dates; it holds list" in fault(path)
    path.write_bytes(b"PAR1 and nothing else")
    assert "cannot be read as Parquet" in fault(path)


def test_parquet_without_pyarrow_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("gradcore.apps.tasks.table.arrays.find_spec", lambda name: None)
    path = write(tmp_path / "a.parquet", "PAR1")
    assert "needs pyarrow. Run: pip install 'gradcore[parquet]'" in fault(path)
