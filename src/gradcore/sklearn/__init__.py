"""Estimators for scikit-learn: classifiers, regressors and forecasters of sequences.

from gradcore.sklearn import SequenceClassifier

model = SequenceClassifier(hidden_size=32).fit(sequences, labels)

Sequences may have any lengths. The estimators standardise their input, hold back sequences to stop
early, and work in pipelines, cross-validation and searches.
"""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("gradcore.sklearn needs scikit-learn: pip install scikit-learn") from error

from ._classifier import SequenceClassifier as SequenceClassifier
from ._forecaster import SequenceForecaster as SequenceForecaster
from ._regressor import SequenceRegressor as SequenceRegressor

__all__ = ["SequenceClassifier", "SequenceForecaster", "SequenceRegressor"]
