"""Sources take frames, and arrays in files without reading them whole."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import gradcore as gd

RNG = np.random.default_rng(0)
N = 300
TABLE = {name: RNG.standard_normal(N) for name in ("a", "b", "c")}
X = np.stack([TABLE["a"], TABLE["b"]], axis=1)
Y = TABLE["c"][:, None]
START = np.arange(N) % 100 == 0


def pandas_frame(folder):
    made = pytest.importorskip("pandas", reason="needs pandas").DataFrame(TABLE)
    return made[["a", "b"]], made["c"]


def pandas_mixed(folder):
    """Columns of several dtypes, nullable ones among them, and an index that is no range."""
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    made = pandas.DataFrame(TABLE, index=np.arange(N) % 7)
    made["b"] = made["b"].astype("Float64")
    return made[["a", "b"]], made[["c"]]


def polars_frame(folder):
    made = pytest.importorskip("polars", reason="needs polars: gradcore[test]").DataFrame(TABLE)
    return made[["a", "b"]], made["c"]


def polars_lazy(folder):
    polars = pytest.importorskip("polars", reason="needs polars: gradcore[test]")
    polars.DataFrame(TABLE).write_parquet(folder / "a.parquet")
    made = polars.scan_parquet(folder / "a.parquet")
    return made.select("a", "b"), made.select("c")


def arrow_table(folder):
    made = pytest.importorskip("pyarrow", reason="needs pyarrow").table(TABLE)
    return made.select(["a", "b"]), made["c"]


def hdf5(folder):
    h5py = pytest.importorskip("h5py", reason="needs h5py: install gradcore[test]")
    with h5py.File(folder / "a.h5", "w") as file:
        file["x"], file["y"] = X, Y
    file = h5py.File(folder / "a.h5")
    return file["x"], file["y"]


def zarr_array(folder):
    zarr = pytest.importorskip("zarr", reason="needs zarr: install gradcore[test]")
    made = []
    for name, array in (("x", X), ("y", Y)):
        stored = zarr.open(str(folder / name), mode="w", shape=array.shape, dtype=array.dtype)
        stored[:] = array
        made.append(zarr.open(str(folder / name), mode="r"))
    return made


def xarray_array(folder):
    xarray = pytest.importorskip("xarray", reason="needs xarray: install gradcore[test]")
    made = xarray.Dataset({"x": (("time", "channel"), X), "y": (("time",), Y[:, 0])})
    made.to_netcdf(folder / "a.nc", engine="scipy")
    opened = xarray.open_dataset(folder / "a.nc", engine="scipy")
    return opened["x"], opened["y"]


KINDS = [
    *(pandas_frame, pandas_mixed, polars_frame, polars_lazy, arrow_table),
    *(hdf5, zarr_array, xarray_array),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def table(request, tmp_path):
    return request.param(tmp_path)


def same(one, other):
    for a, b in zip(one, other, strict=True):
        for name in ("x", "y", "weight", "lengths", "reset"):
            left, right = getattr(a, name), getattr(b, name)
            assert (left is None) == (right is None)
            if left is not None:
                assert left.dtype == right.dtype
                np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stream_gives_the_batches_of_arrays(table, dtype):
    options = {"batch_size": 3, "k1": 20, "k2": 30, "burn_in": 5, "dtype": dtype}
    mine = gd.data.Stream(*table, **options)
    theirs = gd.data.Stream(X, Y, **options)
    assert mine.float_dtype == theirs.float_dtype
    same(mine, theirs)


def test_sequences_give_the_batches_of_arrays(table):
    cuts = [(0, 90), (90, 150), (150, 300)]
    x, y = table
    if type(x).__name__ == "LazyFrame":
        parts = [[t.slice(a, b - a) for a, b in cuts] for t in (x, y)]
    else:
        parts = [[t[a:b] for a, b in cuts] for t in (x, y)]
    mine = gd.data.Sequences(*parts, batch_size=2, seed=4)
    arrays = [[t[a:b] for a, b in cuts] for t in (X, Y)]
    same(mine, gd.data.Sequences(*arrays, batch_size=2, seed=4))


def test_a_run_is_resumed_with_the_same_numbers_only(table, tmp_path):
    net = gd.Stack(gd.GRU(2, 3), gd.Linear(3, 1))

    def fit(x, y, steps):
        params = net.init(seed=0)
        trainer = gd.Trainer(net, params, gd.optim.SGD(params, 0.1), loss="mse", quiet=True)
        source = gd.data.Stream(x, y, k1=30)
        trainer.fit(source, steps=steps, run=tmp_path / "run", resume=True)
        return params

    fit(*table, 2)
    params = fit(*table, 4)
    plain = net.init(seed=0)
    trainer = gd.Trainer(net, plain, gd.optim.SGD(plain, 0.1), loss="mse", quiet=True)
    trainer.fit(gd.data.Stream(X, Y, k1=30), steps=4)
    assert params == plain
    other = X.copy()
    other[250, 1] += 1.0
    with pytest.raises(gd.ArgumentError, match="the numbers in x of the data differ"):
        fit(other, table[1], 6)


@pytest.mark.parametrize("kind", [hdf5, zarr_array, xarray_array])
def test_one_array_of_many_sequences(kind, tmp_path, monkeypatch):
    """(T, N, I), of which batches take columns in any order."""
    x, y = X.reshape(30, 10, 2), Y.reshape(30, 10, 1)
    monkeypatch.setattr(sys.modules[__name__], "X", x)
    monkeypatch.setattr(sys.modules[__name__], "Y", y)
    if kind is xarray_array:
        xarray = pytest.importorskip("xarray", reason="needs xarray: install gradcore[test]")
        stored = xarray.DataArray(x), xarray.DataArray(y)
    else:
        stored = kind(tmp_path)
    options = {"batch_size": 3, "lengths": np.arange(21, 31), "seed": 2}
    same(gd.data.Sequences(*stored, **options), gd.data.Sequences(x, y, **options))


def test_targets_and_weights_of_sequences_may_be_series():
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    x = [X[:50], X[50:120]]
    y, weight = pandas.Series([3, 1], index=[9, 9]), pandas.Series([0.5, 2.0])
    options = {"step": "last", "batch_size": 2}
    mine = gd.data.Sequences(x, y, weight=weight, **options)
    same(mine, gd.data.Sequences(x, np.array([3, 1]), weight=np.array([0.5, 2.0]), **options))


def test_resets_and_tokens_may_be_series():
    polars = pytest.importorskip("polars", reason="needs polars: install gradcore[test]")
    tokens = RNG.integers(0, 5, N)
    mine = gd.data.Stream(
        polars.Series(tokens), polars.Series(tokens), reset=polars.Series(START), k1=40
    )
    same(mine, gd.data.Stream(tokens, tokens, reset=START, k1=40))


def test_missing_floats_are_nan_and_missing_integers_are_refused():
    polars = pytest.importorskip("polars", reason="needs polars: install gradcore[test]")
    frame = polars.DataFrame({"a": [1.0, None, 3.0], "n": [1, None, 3]})
    batch = gd.data.Stream(frame[["a"]], np.ones(3), k1=3).batch(0, 0)
    np.testing.assert_array_equal(batch.x[:, 0, 0], [1.0, np.nan, 3.0])
    with pytest.raises(gd.ArgumentError, match=r"y \(column 'n'\) has 1 missing values"):
        gd.data.Stream(np.ones(3), frame["n"], k1=3)
    # A LazyFrame is read later, and so are its missing values.
    source = gd.data.Stream(np.ones(3), frame.lazy().select("n"), k1=3)
    with pytest.raises(gd.ArgumentError, match=r"y \(column 'n'\) has 1 missing values"):
        source.batch(0, 0)


def test_what_is_no_table_of_numbers_is_told(tmp_path):
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    h5py = pytest.importorskip("h5py", reason="needs h5py: install gradcore[test]")
    xarray = pytest.importorskip("xarray", reason="needs xarray: install gradcore[test]")
    text = pandas.DataFrame({"a": [1.0, 2.0], "name": ["x", "y"]})
    with pytest.raises(gd.DTypeError, match=r"x \(column 'name'\) must hold numbers"):
        gd.data.Stream(text, np.ones(2), k1=1)
    with pytest.raises(gd.DTypeError, match=r"y \(column 'a'\) must hold numbers; .*Datetime"):
        gd.data.Stream(
            np.ones(2), pandas.Series(pandas.to_datetime(["2020", "2021"]), name="a"), k1=1
        )
    with pytest.raises(gd.DTypeError, match="at least one column"):
        gd.data.Stream(text[[]], np.ones(2), k1=1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["names"] = [b"a", b"b"]
        with pytest.raises(gd.DTypeError, match="x must hold numbers; it has dtype"):
            gd.data.Stream(file["names"], np.ones(2), k1=1)
        with pytest.raises(gd.DTypeError, match=r"x must be one array; got a h5py\.File"):
            gd.data.Stream(file, np.ones(2), k1=1)
    with pytest.raises(gd.DTypeError, match=r"got a xarray\.Dataset"):
        gd.data.Stream(xarray.Dataset({"x": ("t", np.ones(2))}), np.ones(2), k1=1)
    with pytest.raises(gd.DTypeError, match="frame or series in memory; got pandas"):
        gd.data.Stream(text.groupby("name"), np.ones(2), k1=1)
    with pytest.raises(gd.ShapeError, match="one row per step of x, 2; it has 3"):
        gd.data.Stream(text[["a"]], pandas.Series([1.0, 2.0, 3.0]), k1=1)


def test_a_table_alone_is_no_training_data():
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    net = gd.Stack(gd.GRU(2, 3), gd.Linear(3, 1))
    params = net.init()
    trainer = gd.Trainer(net, params, gd.optim.SGD(params, 0.1), loss="mse")
    for table in (pandas.DataFrame(TABLE), X):
        with pytest.raises(
            gd.DTypeError, match=r"gradcore.data.Stream\(table\[\[.*got (pandas|numpy)"
        ):
            trainer.fit(table)


def test_narwhals_is_named_where_it_is_missing():
    pytest.importorskip("pandas", reason="needs pandas")
    code = (
        "import sys; sys.modules['narwhals'] = None\n"
        "import pandas, gradcore as gd\n"
        "frame = pandas.DataFrame({'a': [1.0, 2.0]})\n"
        "try: gd.data.Stream(frame, frame, k1=1)\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Run: pip install narwhals" in done.stdout


# ---- Memory

PASS = """
import sys
import numpy as np
import gradcore as gd

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024

kind, folder = sys.argv[1:]
def opened():
    if kind == "hdf5":
        import h5py
        return h5py.File(folder + "/a.h5")["x"]
    if kind == "zarr":
        import zarr
        return zarr.open(folder + "/x", mode="r")
    if kind == "xarray":
        import xarray
        options = {"engine": "zarr", "chunks": None, "consolidated": False}
        return xarray.open_dataset(folder + "/x", **options)["x"]
    import polars
    return polars.scan_parquet(folder + "/a.parquet")

def read(most):
    x = opened()
    source = gd.data.Stream(x, x, k1=50_000)
    total = 0.0
    for number, batch in enumerate(source):
        total += float(batch.x[:, 0, 0].sum(dtype="f8"))
        if number == most:
            break
    return total, len(source)

read(3)
before = peak()
total, batches = read(10**9)
print(peak() - before, total, batches)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["hdf5", "zarr", "xarray", "polars"])
def test_a_pass_takes_the_memory_of_some_windows(kind, tmp_path):
    """The array has 96 MB, and a window 1.6 MB as x and as y."""
    package = pytest.importorskip(
        {"hdf5": "h5py"}.get(kind, kind), reason=f"needs {kind}: install gradcore[test]"
    )
    array = RNG.standard_normal((3_000_000, 8), dtype="float32")
    if kind == "hdf5":
        with package.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", data=array, chunks=(8_192, 8))
    elif kind == "zarr":
        shape = {"shape": array.shape, "chunks": (50_000, 8)}
        package.open(str(tmp_path / "x"), mode="w", dtype="float32", **shape)[:] = array
    elif kind == "xarray":
        made = package.Dataset({"x": (("time", "channel"), array)})
        pytest.importorskip("zarr", reason="needs zarr: install gradcore[test]")
        made.to_zarr(
            str(tmp_path / "x"), consolidated=False, encoding={"x": {"chunks": (50_000, 8)}}
        )
    else:
        made = package.DataFrame(array)
        made.write_parquet(tmp_path / "a.parquet", row_group_size=50_000)
    total = float(array[:, 0].sum(dtype="f8"))
    del array
    done = subprocess.run(
        [sys.executable, "-c", PASS, kind, tmp_path], capture_output=True, text=True, check=True
    )
    grown, found, batches = done.stdout.split()
    assert int(batches) == 60
    assert float(found) == pytest.approx(total, rel=1e-9)
    assert int(grown) < 24_000_000
