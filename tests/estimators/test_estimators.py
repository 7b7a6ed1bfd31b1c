"""gradcore.sklearn: estimators of sequences as users of scikit-learn expect them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

import gradcore as gd
from gradcore.sklearn import SequenceClassifier, SequenceForecaster, SequenceRegressor

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:.*too few to hold some back:UserWarning"),
]

ANY_LENGTH = "sequences may have any length, so that a table's width is no number of features"
BATCHES = "batches of other sequences make other updates"
EXPECTED = {
    SequenceClassifier: {
        "check_n_features_in_after_fitting": ANY_LENGTH,
        "check_n_features_in": ANY_LENGTH,
        "check_estimators_partial_fit_n_features": ANY_LENGTH,
        "check_classifiers_train": ANY_LENGTH,
        "check_sample_weight_equivalence_on_dense_data": BATCHES,
    },
    SequenceRegressor: {
        "check_n_features_in_after_fitting": ANY_LENGTH,
        "check_n_features_in": ANY_LENGTH,
        "check_estimators_partial_fit_n_features": ANY_LENGTH,
        "check_sample_weight_equivalence_on_dense_data": BATCHES,
    },
    SequenceForecaster: {
        "check_n_features_in_after_fitting": ANY_LENGTH,
        "check_n_features_in": ANY_LENGTH,
        "check_fit2d_1feature": "a series of one step has nothing to forecast",
    },
}


def walks(count: int = 120, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [np.cumsum(random.normal(size=n)) for n in random.integers(8, 40, count)]


def small(kind: Any, **options: Any) -> Any:
    settings = {"hidden_size": 8, "max_iter": 12, "random_state": 0, "learning_rate_init": 0.02}
    return kind(**(settings | options))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", EXPECTED)
def test_scikit_learns_own_checks(kind: Any) -> None:
    """All of them pass but those that take the columns of a table for features."""
    estimator = small(kind, max_iter=25, batch_size=16)
    results = check_estimator(
        estimator, expected_failed_checks=EXPECTED[kind], on_fail=None, on_skip=None
    )
    failed = [r["check_name"] for r in results if r["status"] == "failed"]
    assert failed == []
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(EXPECTED[kind])
    assert sum(r["status"] == "passed" for r in results) > 30


def test_one_class_per_sequence() -> None:
    x = walks()
    y = np.array(["up" if walk[-1] > 0 else "down" for walk in x])
    model = small(SequenceClassifier).fit(x[:80], y[:80])
    assert model.kind_ == "sequence"
    assert model.classes_.tolist() == ["down", "up"]
    assert model.score(x[80:], y[80:]) > 0.8
    probabilities = model.predict_proba(x[80:])
    assert np.allclose(probabilities.sum(1), 1, atol=1e-12)
    assert (model.predict(x[80:]) == model.classes_[probabilities.argmax(1)]).all()
    assert np.allclose(np.exp(model.predict_log_proba(x[80:])), probabilities)
    # Results do not depend on what else is in the batch.
    assert np.allclose(model.predict_proba(x[85:86]), probabilities[5:6], atol=1e-6)


def test_one_class_per_step() -> None:
    x = walks()
    y = [np.where(walk > 0, "up", "down") for walk in x]
    model = small(SequenceClassifier, class_weight="balanced").fit(x[:80], y[:80])
    assert model.kind_ == "step"
    found = model.predict(x[80:])
    assert [part.shape for part in found] == [part.shape for part in y[80:]]
    right = np.concatenate(found) == np.concatenate(y[80:])
    assert right.mean() > 0.85
    assert model.score(x[80:], y[80:]) == pytest.approx(right.mean())
    assert [p.shape for p in model.predict_proba(x[80:])] == [(len(w), 2) for w in x[80:]]


def test_numbers_per_sequence_and_per_step() -> None:
    x = walks()
    y = np.array([3 + 100 * walk.mean() for walk in x])
    model = small(SequenceRegressor).fit(x[:80], y[:80])
    assert model.predict(x[80:]).shape == (40,)
    assert model.score(x[80:], y[80:]) > 0.7
    several = small(SequenceRegressor).fit(x, np.stack([y, -y, y * 2], 1))
    assert several.predict(x[:5]).shape == (5, 3)
    steps = [np.stack([walk, 5 - walk], 1) for walk in x]
    model = small(SequenceRegressor).fit(x[:80], steps[:80])
    assert model.kind_ == "step"
    assert model.score(x[80:], steps[80:]) > 0.9
    assert model.predict(x[80:82])[1].shape == (len(x[81]), 2)


def test_forecasts_beat_the_last_value_and_begin_there() -> None:
    series = [np.sin(np.arange(600) / 8 + phase) * 50 + 1000 for phase in (0.0, 1.0, 2.0)]
    model = small(SequenceForecaster, horizon=6, max_iter=40, window=128).fit(
        [part[:500] for part in series]
    )
    score = model.score(series)
    assert score > 0.9
    # The net forecasts as far as it was fitted to, whatever the parameter says later.
    assert model.set_params(horizon=2).score(series) == score
    found = model.predict([part[:500] for part in series])
    assert found.shape == (3, 6)
    assert np.abs(found - np.stack([part[500:506] for part in series])).max() < 15
    wide = [np.stack([part, -part], 1) for part in series]
    assert small(SequenceForecaster, horizon=2, max_iter=2).fit(wide).predict(wide).shape == (
        3,
        2,
        2,
    )


def test_a_net_that_learned_nothing_repeats_the_last_value() -> None:
    """Steps of a random walk cannot be foretold: the forecast is close to its last value."""
    random = np.random.default_rng(0)
    x = [np.cumsum(random.normal(size=300)) for _ in range(20)]
    model = small(SequenceForecaster, horizon=1).fit(x)
    assert abs(model.score([np.cumsum(random.normal(size=300)) for _ in range(20)])) < 0.1


def test_strings_are_sequences_of_characters() -> None:
    random = np.random.default_rng(0)
    x = ["".join(random.choice(list("ACGT"), n)) for n in random.integers(5, 30, 200)]
    y = [text.count("G") > text.count("A") for text in x]
    model = small(SequenceClassifier, max_iter=60).fit(x[:150], y[:150])
    assert model.score(x[150:], y[150:]) > 0.75
    with pytest.raises(ValueError, match=r"without 'N', which sequence 1 has at step 2"):
        model.predict(["AC", "ACN"])
    with pytest.raises(TypeError, match="trained on strings"):
        model.predict([np.zeros(3)])
    words = [list(text.replace("G", "T")) + ["GG"] * text.count("G") for text in x]
    by_word = small(SequenceClassifier, max_iter=60).fit(words[:150], y[:150])
    assert by_word.score(words[150:], y[150:]) > 0.75
    assert by_word.predict(np.array([["GG"] * 9, ["A"] * 9])).tolist() == [True, False]


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_long_frames(library: str) -> None:
    pytest.importorskip("narwhals")
    module = pytest.importorskip(library)
    x = walks(30)
    names = [f"s{i}" for i in range(30)]
    # Rows of the sequences in turns: each row says which one it belongs to.
    rows = sorted((t, i) for i, walk in enumerate(x) for t in range(len(walk)))
    columns = {
        "name": [names[i] for _, i in rows],
        "a": [float(x[i][t]) for t, i in rows],
        "b": [float(-x[i][t]) for t, i in rows],
    }
    frame = module.table(columns) if library == "pyarrow" else module.DataFrame(columns)
    y = np.array([x[i][t] > 0 for t, i in rows])
    model = small(SequenceClassifier, sequence_column="name", max_iter=20).fit(frame, y)
    assert model.n_features_in_ == 2
    found = model.predict(frame)
    assert found.shape == y.shape
    assert model.score(frame, y) == pytest.approx((found == y).mean())
    assert (found == y).mean() > 0.85
    lists = [np.stack([walk, -walk], 1) for walk in x]
    again = model.predict_proba(frame)
    model.sequence_column = None
    for i, part in enumerate(model.predict_proba(lists)):
        here = [row for row, (_, j) in enumerate(rows) if j == i]
        assert np.allclose(again[here], part, atol=1e-6)
    model.sequence_column = "nothing"
    with pytest.raises(ValueError, match="is not a column of X; it has name, a, b"):
        model.predict(frame)


def test_frames_whose_cells_are_series() -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("narwhals")
    x = walks(20)
    frame = pandas.DataFrame({"a": x, "b": [-walk for walk in x]})
    y = [walk[-1] for walk in x]
    model = small(SequenceRegressor).fit(frame, y)
    lists = [np.stack([walk, -walk], 1) for walk in x]
    assert np.allclose(model.predict(frame), model.predict(lists), atol=1e-6)
    frame.loc[3, "b"] = 1.0
    with pytest.raises(
        ValueError, match="columns of sequence 3 must have the same number of steps"
    ):
        model.predict(frame)


def test_arrays_are_lists_of_their_sequences() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 12, 3))
    y = (x.sum((1, 2)) > 0).astype(int)
    model = small(SequenceClassifier).fit(x, y)
    assert np.array_equal(model.predict_proba(x), model.predict_proba(list(x)))
    steps = x.sum(2) > 0
    per_step = small(SequenceClassifier).fit(x, steps)
    assert per_step.kind_ == "step"
    assert per_step.predict(x).shape == (40, 12)
    flat = small(SequenceRegressor).fit(x[:, :, 0], y.astype(float))
    assert np.allclose(flat.predict(x[:, :, 0]), flat.predict(x[:, :, :1]), atol=1e-6)


def test_search_pipeline_and_scores() -> None:
    x = walks(60)
    y = np.array([int(walk[-1] > 0) for walk in x])
    scores = cross_val_score(small(SequenceClassifier), x, y, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.6
    halves = FunctionTransformer(lambda walks: [walk[::2] for walk in walks])
    pipeline = make_pipeline(halves, small(SequenceClassifier, max_iter=3))
    search = GridSearchCV(pipeline, {"sequenceclassifier__hidden_size": [4, 6]}, cv=2).fit(x, y)
    assert search.best_params_["sequenceclassifier__hidden_size"] in (4, 6)
    assert search.predict(x).shape == (60,)


def test_clones_pickles_and_seeds() -> None:
    x = walks(40)
    y = [walk[-1] > 0 for walk in x]
    model = small(SequenceClassifier, max_iter=3).fit(x, y)
    again = clone(model).fit(x, y)
    assert np.array_equal(model.predict_proba(x), again.predict_proba(x))
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(model.predict_proba(x), copy.predict_proba(x))
    other = clone(model).set_params(random_state=1).fit(x, y)
    assert not np.array_equal(model.predict_proba(x), other.predict_proba(x))


def test_parameters_from_a_read_only_map_can_be_trained() -> None:
    """joblib hands large arrays to its workers like this."""
    net = gd.Stack(gd.RNN(1, 3), gd.Linear(3, 1))
    params = net.init(seed=0)
    params.flat.flags.writeable = False
    kind, arguments = params.__reduce__()[:2]
    again = kind(*arguments)
    assert again.flat.flags.writeable
    assert np.array_equal(again.flat, params.flat)


def test_partial_fit_goes_on() -> None:
    x = walks(60)
    y = np.array([int(walk[-1] > 0) for walk in x])
    model = small(SequenceClassifier)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(x, y)
    before = model.partial_fit(x[:30], y[:30], classes=[0, 1, 2]).score(x, y)
    for _ in range(10):
        model.partial_fit(x, y)
    assert model.n_iter_ == 11
    assert model.predict_proba(x).shape == (60, 3)
    assert model.score(x, y) > max(before, 0.8)
    with pytest.raises(ValueError, match="the class 7, which is not among classes"):
        model.partial_fit(x, y + 7)
    regressor = small(SequenceRegressor)
    for _ in range(12):
        regressor.partial_fit(x, [walk[-1] for walk in x])
    assert regressor.score(x, [walk[-1] for walk in x]) > 0.5
    with pytest.raises(ValueError, match="1 numbers per sequence, as before"):
        regressor.partial_fit(x, x)


def test_sequences_of_weight_zero_are_as_if_not_there() -> None:
    x = walks(40)
    y = np.array([int(walk[-1] > 0) for walk in x])
    weight = np.ones(40)
    weight[10:] = 0
    one = small(SequenceClassifier, early_stopping=False).fit(x, y, sample_weight=weight)
    two = small(SequenceClassifier, early_stopping=False).fit(x[:10], y[:10])
    assert np.allclose(one.predict_proba(x), two.predict_proba(x), atol=1e-6)
    one = small(SequenceRegressor, early_stopping=False).fit(x, x, sample_weight=weight)
    two = small(SequenceRegressor, early_stopping=False).fit(x[:10], x[:10])
    assert np.allclose(np.concatenate(one.predict(x)), np.concatenate(two.predict(x)), atol=1e-5)


def test_the_best_parameters_are_kept() -> None:
    x = walks(60)
    y = [walk[-1] for walk in x]
    model = small(SequenceRegressor, max_iter=40, n_iter_no_change=3, learning_rate_init=0.1)
    model.fit(x, y)
    assert len(model.validation_loss_curve_) == model.n_iter_ < 40
    best = int(np.argmin(model.validation_loss_curve_))
    assert best < model.n_iter_ - 1
    short = small(SequenceRegressor, max_iter=best + 1, learning_rate_init=0.1).fit(x, y)
    assert np.array_equal(short.predict(x), model.predict(x))
    # A rate that moves nothing shows where partial_fit begins.
    before = model.predict(x)
    model._optimizer.lr = 0.0
    assert np.array_equal(model.partial_fit(x, y).predict(x), before)


@pytest.mark.filterwarnings("default::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("default:.*too few to hold some back:UserWarning")
def test_what_is_assumed_is_said() -> None:
    x = walks(40)
    y = [walk[-1] for walk in x]
    with pytest.warns(ConvergenceWarning, match="max_iter=1 passes were made"):
        small(SequenceRegressor, max_iter=1).fit(x, y)
    with pytest.warns(UserWarning, match="3 sequences are too few"):
        small(SequenceRegressor, max_iter=1).fit(x[:3], y[:3])


def test_errors_name_the_sequence() -> None:
    x = walks(6)
    y = [0, 1, 0, 1, 0, 1]
    model = small(SequenceClassifier)
    with pytest.raises(NotFittedError, match="Call 'fit'"):
        model.predict(x)
    broken = [walk.copy() for walk in x]
    broken[2][4] = np.nan
    with pytest.raises(ValueError, match="sequence 2 has nan at step 4, feature 0"):
        model.fit(broken, y)
    with pytest.raises(ValueError, match="sequence 0 has 1, sequence 1 has 2"):
        model.fit([np.zeros((3, 1)), np.zeros((3, 2))], [0, 1])
    with pytest.raises(ValueError, match="One sequence of one feature is"):
        model.fit(x[0], y)
    with pytest.raises(ValueError, match="sequence 1 must have shape"):
        model.fit([np.zeros(3), np.zeros(0)], [0, 1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(x, y[:4])
    with pytest.raises(ValueError, match=r"sequence 3 has \d+ steps"):
        model.fit(x, [walk > 0 if i != 3 else walk[1:] > 0 for i, walk in enumerate(x)])
    with pytest.raises(ValueError, match=r"targets='step' or targets='sequence'"):
        small(SequenceRegressor).fit(np.zeros((6, 4)), np.zeros((6, 4)))
    with pytest.raises(ValueError, match="cell must be one of"):
        small(SequenceClassifier, cell="Mamba").fit(x, y)
    with pytest.raises(ValueError, match="X has 1 features, but SequenceClassifier is expecting 2"):
        small(SequenceClassifier, max_iter=1).fit([np.zeros((4, 2))] * 6, y).predict(x)
    with pytest.raises(ValueError, match="series 1 has 1"):
        small(SequenceForecaster).fit([np.zeros(5), np.zeros(1)])
    with pytest.raises(TypeError, match="those of all must be; sequence 1"):
        model.fit(["AC", np.zeros(3)], [0, 1])
