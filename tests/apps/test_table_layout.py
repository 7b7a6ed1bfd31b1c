"""Where a table begins in its file, and files that are no tables, named for what they are."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import sqlite3
import tarfile
import zipfile

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.tasks.table import dataset, read
from gradcore.apps.tasks.table.roles import Roles
from gradcore.apps.tasks.table.units import is_unit
from gradcore.apps.tasks.table.wanted import SkipRows, Wanted

X = np.random.default_rng(0).normal(size=60).round(3)
BODY = "".join(f"{x},{i}\n" for i, x in enumerate(X))


def write(path, content, encoding="utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def fault(path, **wanted):
    with pytest.raises(gd.ArgumentError) as caught:
        read.read([path], Wanted(**wanted))
    message = str(caught.value)
    assert "\n" not in message
    return message


def columns(path, **wanted):
    table = read.read([path], Wanted(**wanted))
    return list(table.columns), table


def is_whole(path, names=("x", "y"), **wanted):
    """Whether a file is read with these names and all rows of BODY; the table."""
    found, table = columns(path, **wanted)
    assert found == list(names)
    np.testing.assert_array_equal(table.columns[names[-2]].values, X)
    np.testing.assert_array_equal(table.columns[names[-1]].values, np.arange(60))
    return table


# ---- Loggers and services -----------------------------------------------------------------------


TOA5 = (
    '"TOA5","Met","CR1000","1234","CR1000.Std.32","CPU:met.CR1","111","Hourly"\n'
    '"TIMESTAMP","x","y"\n"TS","Deg C","W/m^2"\n"","Avg","Smp"\n'
)


def stamped(delimiter=","):
    return "".join(
        f'"2024-01-{1 + i // 24:02} {i % 24:02}:00:00",{x},{i}\n'.replace(",", delimiter)
        for i, x in enumerate(X)
    )


def test_toa5(tmp_path):
    path = write(tmp_path / "a.dat", TOA5 + stamped())
    table = is_whole(path, ("TIMESTAMP", "x", "y"), order="TIMESTAMP")
    assert table.columns["TIMESTAMP"].kind == "date"
    assert table.where(0) == f"{path}:5"
    assert "TOA5 of a Campbell logger: line 2 has the names, lines 3 to 4" in table.notes[0]


def test_toa5_with_missing_values_and_without_data(tmp_path):
    path = write(tmp_path / "a.dat", (TOA5 + stamped()).replace(f",{X[3]},", ',"NAN",'))
    assert int(columns(path)[1].columns["x"].missing().sum()) == 1
    assert "has a header and no rows" in fault(write(tmp_path / "b.dat", TOA5))


def test_toaci1_has_names_in_the_second_line_alone(tmp_path):
    head = '"TOACI1","Met","Hourly"\n"TIMESTAMP","x","y"\n'
    is_whole(write(tmp_path / "a.dat", head + stamped()), ("TIMESTAMP", "x", "y"))


def test_toa5_by_hand_gives_the_same(tmp_path):
    path = write(tmp_path / "a.dat", TOA5 + stamped())
    skip = SkipRows.parse("3-4")
    is_whole(path, ("TIMESTAMP", "x", "y"), header_row=2, skip_rows=skip)


@pytest.mark.parametrize("mark", [";", "|", "\t", ","])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_line_that_names_the_delimiter(tmp_path, mark, quote):
    text = f"{quote}sep={mark}{quote}\nx,y\n{BODY}".replace(",", mark)
    table = is_whole(write(tmp_path / "a.csv", text))
    assert f"names the delimiter {mark!r}" in table.notes[0]
    assert table.where(0).endswith(":3")


RDB = (
    "# U.S. Geological Survey\n#\n# Data, provisional; subject to revision\n"
    "agency_cd\tx\ty\n5s\t14n\t14n\n"
)


def test_usgs_rdb(tmp_path):
    body = "".join(f"USGS\t{x}\t{i}\n" for i, x in enumerate(X))
    table = is_whole(write(tmp_path / "a.rdb", RDB + body), ("agency_cd", "x", "y"))
    assert any("a.rdb:5: holds the widths of the fields" in note for note in table.notes)


@pytest.mark.parametrize("count", [59, 60, 61, 300])
def test_long_heads_of_comments_and_other_lines(tmp_path, count):
    body = "".join(f"USGS\t{x}\t{i}\n" for i, x in enumerate(X))
    text = "#,;\n" * count + RDB + body
    is_whole(write(tmp_path / "a.rdb", text), ("agency_cd", "x", "y"))
    other = write(tmp_path / "b.txt", "a; title, of\n" * count + RDB.split("\n", 3)[3] + body)
    is_whole(other, ("agency_cd", "x", "y"), header_row=count + 1)
    is_whole(other, ("agency_cd", "x", "y"), skip_rows=SkipRows(count))


# ---- Comments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"# made today, by me\nx,y\n{BODY}",
        f"#\n#a;b;c\n# d\nx,y\n{BODY}",
        f"\n  # indented\nx,y\n{BODY}",
        f"# top\nx,y\n{BODY.replace(chr(10), chr(10) + '# again' + chr(10), 1)}",
        f"# x,y\n{BODY}",  # as numpy.savetxt writes names
        f"#x,y\n{BODY}",
        f"# made today\n# x,y\n{BODY}",
    ],
)
def test_lines_that_begin_with_a_hash_at_the_start(tmp_path, text):
    table = is_whole(write(tmp_path / "a.csv", text))
    assert any("that begin with # are taken for comments" in note for note in table.notes)


def test_a_comment_later_on_needs_to_be_told(tmp_path):
    path = write(tmp_path / "a.csv", f"x,y\n{BODY}# done\n")
    assert ":62: expected 2 fields, as the header has; got 1: '# done'. Pass --comment '#'" in (
        fault(path)
    )
    is_whole(path, comment="#")


@pytest.mark.parametrize("sign", ["%", "//", "!", ";;"])
def test_other_signs_of_comments(tmp_path, sign):
    path = write(tmp_path / "a.csv", f"{sign} made today\n{sign}\nx,y\n{BODY}")
    message = fault(path)
    assert message.startswith(f"{path}:1: the file begins with '{sign} made today', and rows of 2")
    assert "begin in line 3 with 'x,y'" in message
    assert "pass --header-row 3" in message
    is_whole(path, comment=sign)
    is_whole(path, header_row=3)


def test_a_hash_inside_a_quoted_cell_is_no_comment(tmp_path):
    text = '# top\nname,y\n"one\n# two",1\nb,2\nb,3\n'
    _, table = columns(write(tmp_path / "a.csv", text))
    assert table.columns["name"].texts == ("one\n# two", "b")


def test_names_in_a_comment_or_in_a_row_are_not_guessed(tmp_path):
    path = write(tmp_path / "a.csv", "#name,colour\nbob,red\nal,blue\nbob,blue\n")
    message = fault(path)
    assert "the names may be in line 1, a comment ('#name,colour'), or in line 2" in message
    assert columns(path, header_row=1)[0] == ["name", "colour"]
    assert columns(path, header_row=2)[0] == ["bob", "red"]


# ---- Lines before and behind the names ----------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("Station: Berlin\nOwner: me\n\n", 4),
        ("Station,Berlin,extra\n\n", 3),
        ("A title\n", 2),
        ("One, two\nthree\nfour\n", 4),
    ],
)
def test_what_stands_before_a_table_is_refused_with_the_remedy(tmp_path, head, line):
    body = "".join(f"a,b,{x},{i}\n" for i, x in enumerate(X))
    path = write(tmp_path / "a.csv", f"{head}s,t,x,y\n{body}")
    message = fault(path)
    assert message.startswith(f"{path}:1: the file begins with ")
    assert f"begin in line {line} with 's,t,x,y'" in message
    assert f"pass --header-row {line}" in message
    is_whole(path, ("s", "t", "x", "y"), header_row=line)
    is_whole(path, ("s", "t", "x", "y"), skip_rows=SkipRows.parse(str(line - 1)))


@pytest.mark.parametrize(
    "units",
    ["degC,m/s", "[mm],[-]", "(kg),(W/m2)", ",hPa", "°C,%", "furlongs,bananas", "mm,\nAvg,Smp"],
)
def test_a_line_of_units_is_left_out_and_told(tmp_path, units):
    path = write(tmp_path / "a.csv", f"x,y\n{units}\n{BODY}")
    table = is_whole(path)
    assert any(note.startswith(f"{path}:2: taken for a line of units") for note in table.notes)


def test_a_line_of_units_beside_dates_and_texts(tmp_path):
    body = "".join(f"2024-01-01T{i // 60:02}:{i % 60:02},on,{x},{i}\n" for i, x in enumerate(X))
    path = write(tmp_path / "a.csv", f"t,mode,x,y\nISO8601,-,V,A\n{body}")
    assert is_whole(path, ("t", "mode", "x", "y"), order="t").where(0) == f"{path}:3"


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("oops,0", ":2: column 'x' must hold finite numbers; got 'oops'"),
        ("1.5,oops", ":2: column 'y' must hold finite numbers; got 'oops'"),
    ],
)
def test_a_row_with_values_is_no_line_of_units(tmp_path, first, message):
    assert message in fault(write(tmp_path / "a.csv", f"x,y\n{first}\n{BODY}"))
    names = write(tmp_path / "b.csv", "name,x\nbob,unknown\n" + "al,3\ncy,4\n" * 9)
    assert ":2: column 'x' must hold finite numbers; got 'unknown'" in fault(names)


@pytest.mark.parametrize(
    "unit", ["mm", "m/s", "W/m2", "µg/m³", "°C", "kg m-2", "%", "1/min", "rpm"]
)
def test_units(unit):
    assert is_unit(unit)
    assert is_unit(f"[{unit}]")


@pytest.mark.parametrize("text", ["red", "bob", "2.5", "x", "alpha", "2024-01-01", "left side"])
def test_texts_that_are_no_units(text):
    assert not is_unit(text)


@pytest.mark.parametrize(
    ("text", "skipped"),
    [("2", [1, 2]), ("3,5", [3, 5]), ("3-5", [3, 4, 5]), ("1, 3-4", [1, 3, 4]), ("2-2", [2])],
)
def test_lines_to_skip(text, skipped):
    rows = SkipRows.parse(text)
    assert [line for line in range(1, 10) if line in rows] == skipped


@pytest.mark.parametrize("text", ["", "x", "3-1", "0-2", "1,", "-3", "1-999999"])
def test_lines_to_skip_that_are_none(text):
    with pytest.raises(gd.ArgumentError, match="--skip-rows"):
        SkipRows.parse(text)


def test_options_that_contradict_each_other(tmp_path):
    path = write(tmp_path / "a.csv", f"x,y\n{BODY}")
    assert "--skip-rows leaves out line 1, which --header-row names" in fault(
        path, header_row=1, skip_rows=SkipRows(4)
    )
    assert "has no line 99, which --header-row names" in fault(path, header_row=99)
    assert "--skip-rows 99 leaves no line of" in fault(path, skip_rows=SkipRows(99))
    assert "--header-row counts lines from 1; got 0" in fault(path, header_row=0)
    assert "--comment must be a sign" in fault(path, comment=" ")


def test_columns_take_the_place_of_a_line_of_names(tmp_path):
    path = write(tmp_path / "a.csv", f"first,second\n{BODY}")
    is_whole(path, header=("x", "y"), header_row=1)
    is_whole(path, header=("x", "y"), skip_rows=SkipRows(1))


def test_row_names_as_r_writes_them(tmp_path):
    body = "".join(f'"{i + 1}" {x} {i}\n' for i, x in enumerate(X))
    path = write(tmp_path / "a.txt", f'"x" "y"\n{body}')
    message = fault(path)
    assert (
        ":1: the line of names has 2 fields and the rows have 3: row names as R writes" in message
    )
    assert "Pass --skip-rows 1 --columns row,x,y to name them all." in message
    is_whole(path, ("row", "x", "y"), header=("row", "x", "y"), skip_rows=SkipRows(1))


def test_decimal_commas_in_a_single_column(tmp_path):
    path = write(tmp_path / "a.csv", "y\n" + "".join(f"{i},5\n" for i in range(20)))
    assert "If these are decimal commas, pass --delimiter ';'; if the first" in fault(path)
    assert columns(path, delimiter=";")[1].columns["y"].values[3] == 3.5


def test_cells_with_spaces_between_them(tmp_path):
    text = "  x     y\n" + "".join(f"{x:9} {i:>5}  \n" for i, x in enumerate(X))
    is_whole(write(tmp_path / "a.txt", text))
    is_whole(write(tmp_path / "b.txt", text), delimiter=" ")


def test_a_delimiter_at_the_end_of_each_row(tmp_path):
    body = BODY.replace("\n", ",\n")
    table = is_whole(write(tmp_path / "a.csv", f"x,y\n{body}"))
    assert any("a.csv:2: rows end in the delimiter ','" in note for note in table.notes)
    named = write(tmp_path / "b.csv", f"x,y,\n{body}{',,' + chr(10)}{',,' + chr(10)}")
    data = dataset.load([named], Roles("y"), Wanted())
    assert [feature.name for feature in data.schema.features] == ["x"]
    assert "column c2 has no name and no values: left out" in " ".join(data.notes)
    assert any(
        note.startswith(f"{named}:62: no values at all from here to the en") for note in data.notes
    )


# ---- Index columns ------------------------------------------------------------------------------


def indexed(tmp_path, name, index):
    body = "".join(f"{index(i)},{x},{i / 7}\n" for i, x in enumerate(X))
    return write(tmp_path / "a.csv", f"{name},x,y\n{body}")


@pytest.mark.parametrize("name", ["", '""', "Unnamed: 0", " "])
@pytest.mark.parametrize(
    ("index", "what"),
    [
        (lambda i: i, "a number of its own in each row"),
        (lambda i: f'"{i + 1}"', "a number of its own in each row"),  # as R writes it
        (lambda i: i * 37 % 60, "a number of its own in each row"),  # after rows were shuffled
        (lambda i: i * 3, "a number of its own in each row"),  # after rows were left out
        (lambda i: f"row {i}", "another text in each row"),
        (lambda i: "", "no values"),
    ],
)
def test_an_unnamed_counter_is_left_out_and_told(tmp_path, name, index, what):
    path = indexed(tmp_path, name, index)
    data = dataset.load([path], Roles("y"), Wanted())
    assert [feature.name for feature in data.schema.features] == ["x"]
    assert any(f"{what}: left out; --features brings it back" in note for note in data.notes)


def test_features_bring_a_counter_back(tmp_path):
    path = indexed(tmp_path, "", lambda i: i)
    data = dataset.load([path], Roles("y", features=("c0", "x")), Wanted())
    assert [feature.name for feature in data.schema.features] == ["c0", "x"]


@pytest.mark.parametrize(("name", "index"), [("", lambda i: i % 7), ("", lambda i: X[i] * 2)])
def test_other_columns_without_a_name_stay(tmp_path, name, index):
    data = dataset.load([indexed(tmp_path, name, index)], Roles("y"), Wanted())
    assert [feature.name for feature in data.schema.features] == ["c0", "x"]


def test_a_counter_with_a_name_is_told(tmp_path):
    data = dataset.load([indexed(tmp_path, "n", lambda i: 5 + 2 * i)], Roles("y"), Wanted())
    assert [feature.name for feature in data.schema.features] == ["n", "x"]
    assert any(note.startswith("n rises by the same from row to row") for note in data.notes)


def test_a_counter_that_begins_anew_in_each_sequence(tmp_path):
    body = "".join(f"{i % 20},s{i // 20},{x},{i / 7}\n" for i, x in enumerate(X))
    path = write(tmp_path / "a.csv", f",id,x,y\n{body}")
    data = dataset.load([path], Roles("y", sequence="id"), Wanted())
    assert [feature.name for feature in data.schema.features] == ["x"]


def test_dates_without_a_name_are_named_with_the_remedy(tmp_path):
    path = indexed(tmp_path, "", lambda i: f"2024-01-01T{i // 60:02}:{i % 60:02}")
    with pytest.raises(gd.ArgumentError, match=r"a.csv:2: column 'c0', which has no name of its "):
        dataset.load([path], Roles("y"), Wanted())
    assert len(dataset.load([path], Roles("y", order="c0"), Wanted()).y) == 60


# ---- Files that are no tables, and encodings ----------------------------------------------------


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, "content")
    return stream.getvalue()


def tarred():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as file:
        entry = tarfile.TarInfo("x.csv")
        entry.size = 4
        file.addfile(entry, io.BytesIO(b"a\n1\n"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "is a spreadsheet (.xlsx). Save the"),
        (zipped("mimetype", "content.xml"), "of an office program (such as .ods). Save the sheet"),
        (zipped("data.csv"), "is a zip archive that holds data.csv. Unpack it"),
        (zipped("a", "b", "c", "d"), "is a zip archive that holds a, b, c and 1 more. Unpack it"),
        (
            zipped("data.csv")[:40],
            "begins as a zip archive or a spreadsheet (.xlsx) does, and is d",
        ),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(90), "document of old Office (.xls), not CSV"),
        (gzip.compress(zipped("data.csv")), "is a zip file packed with gzip. Unpack it"),
        (gzip.compress(b"PAR1" + bytes(90)), "is a Parquet file packed with gzip. Unpack it"),
        (tarred(), "is a tar archive. Unpack it"),
        (b"BZh91AY&SY" + bytes(20), "is packed with bzip2, not CSV. Unpack it"),
        (b"\xfd7zXZ\x00" + bytes(20), "is packed with xz, not CSV"),
        (b"%PDF-1.7\n1 0 obj", "is a PDF document, not CSV"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "is a PNG picture, not CSV"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "is an HDF5 file"),
        (b"MATLAB 5.0 MAT-file, Platform" + bytes(99), "is a MATLAB file, not CSV"),
        (pickle.dumps({"a": [1]}), "is a Python pickle, not CSV"),
        (b"\n <!DOCTYPE html><html><body>Log in</body>", "is a web page (HTML), not CSV"),
        (b"<HTML><table>", "is a web page (HTML), not CSV"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "is an XML file, not CSV"),
        ("<!doctype html>".encode("utf-16"), "is a web page (HTML), not CSV"),
        (json.dumps([{"x": 1}], indent=1).encode(), "is a JSON file, not CSV"),
        (b'{"x": [1, 2]}', "is a JSON file, not CSV"),
        (b"@RELATION iris\n", "is an ARFF file (Weka), not CSV"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
        (bytes(range(256)) * 4, "holds zero bytes, which no CSV file has: it is binary data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # archives hold the time
)
def test_files_named_csv_are_named_for_what_they_are(tmp_path, content, what):
    path = write(tmp_path / "a.csv", content)
    message = fault(path)
    assert message.startswith(str(path))
    assert what in message


def test_an_sqlite_database_is_named_for_what_it_is(tmp_path):
    path = tmp_path / "a.csv"
    with sqlite3.connect(path) as base:
        base.execute("create table t (x)")
    base.close()
    assert "is an SQLite database, not CSV" in fault(path)


@pytest.mark.parametrize("name", ["PK", "BZh", "Rar!", "ORC", "[time]", "RIFF", "MATLAB 5.0"])
def test_names_that_begin_as_other_files_do(tmp_path, name):
    is_whole(write(tmp_path / "a.csv", f"{name},y\n{BODY}"), (name, "y"))


def test_the_content_counts_and_not_the_name(tmp_path):
    is_whole(write(tmp_path / "a.csv", gzip.compress(f"x,y\n{BODY}".encode())))
    is_whole(write(tmp_path / "a.xls", f"x\ty\n{BODY}".replace(",", "\t")))
    path = tmp_path / "b.csv"
    with path.open("wb") as file:
        np.savez(file, x=X, y=np.arange(60))
    is_whole(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding):
    path = write(tmp_path / "a.csv", f"größe,y\n{BODY}", encoding)
    table = is_whole(path, ("größe", "y"))
    assert bool(table.notes) == (encoding != "utf-8-sig")
    packed = write(tmp_path / "b.csv", gzip.compress(path.read_bytes()))
    is_whole(packed, ("größe", "y"))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(tmp_path, encoding):
    path = write(tmp_path / "a.csv", f"größe,y\n{BODY}", encoding)
    assert "looks like UTF-16 without a byte-order mark" in fault(path)
    assert f"Pass --encoding {encoding}" in fault(path)
    is_whole(path, ("größe", "y"), encoding=encoding)


def test_latin_1_is_named_with_its_line(tmp_path):
    path = write(tmp_path / "a.csv", f"x,y\n{BODY}1,Größe\n", "latin-1")
    message = fault(path)
    assert message.startswith(f"{path}:62 is not text in UTF-8 (byte 0xf6). Save it as UTF-8, or")
    assert "--encoding latin-1" in message
    assert "As cp1252 it reads '1,Größe' there." in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"x,y\n{BODY}Source: a station\n", ":62: expected 2 fields, as the header has; got 1"),
        (f"x,y\n{BODY}x,y\n", "Line 62 repeats the names: leave it out, or pass"),
    ],
)
def test_lines_behind_the_table_are_skipped_by_number(tmp_path, text, message):
    path = write(tmp_path / "a.csv", text)
    assert message in fault(path)
    assert "--skip-rows 62-62" in fault(path)
    is_whole(path, skip_rows=SkipRows.parse("62-62"))


def test_a_first_row_that_may_hold_units(tmp_path):
    path = write(tmp_path / "a.csv", f"x,y\nwatt seconds,3\n{BODY}")
    assert "If line 2 holds no values, such as units, pass --skip-rows 2-2; otherwise" in fault(
        path
    )
    is_whole(path, skip_rows=SkipRows.parse("2-2"))


@pytest.mark.parametrize("comma", [False, True])
def test_spaces_between_numbers_with_decimal_commas(tmp_path, comma):
    text = "x y\n" + "".join(f"{x} {i}\n" for i, x in enumerate(X))
    is_whole(write(tmp_path / "a.txt", text.replace(".", ",") if comma else text))
