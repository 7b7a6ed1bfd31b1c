"""A logger for MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from .._base.packages import needed
from ._logger import Logger
from ._view import FitView

__all__ = ["MLFlowLogger"]

# A request to MLflow takes milliseconds, and has at most 1,000 metrics.
_AT_ONCE = 500
_LONGEST_VALUE = 6_000


class MLFlowLogger(Logger):
    """Logs metrics of updates and scores to a run of MLflow, and the settings as its params.

    experiment_name, run_name, tracking_uri, tags: those of the new run. run_id: log to this run
    instead. Metrics are sent some hundred at once, and at evaluations, checkpoints and the end. The
    run ends as FINISHED, as KILLED after Ctrl-C, or as FAILED after an exception. every: log the
    metrics of every `every`-th update. MLflow keeps the values of all times, so updates that a
    killed run makes again are there twice. Needs the package mlflow or mlflow-skinny. Raises
    ImportError or ArgumentError, and what MLflow raises.
    """

    def __init__(
        self,
        experiment_name: str = "gradcore",
        run_name: str | None = None,
        *,
        tracking_uri: str | None = None,
        tags: dict[str, str] | None = None,
        run_id: str | None = None,
        every: int = 1,
    ) -> None:
        super().__init__(every)
        self._mlflow = needed("mlflow", type(self).__name__, "mlflow")
        self._entities = needed("mlflow.entities", type(self).__name__, "mlflow")
        self.experiment_name, self.run_name = experiment_name, run_name
        self.tracking_uri, self.tags, self.run_id = tracking_uri, tags, run_id
        self._client: Any = None
        self._kept: list[Any] = []

    def _write(self, view: FitView, values: dict[str, float]) -> None:
        if self._client is None:
            self._open(view)
        now = int(time.time() * 1000)
        self._kept += [
            self._entities.Metric(name, value, now, view.steps) for name, value in values.items()
        ]
        if len(self._kept) >= _AT_ONCE:
            self._send()

    def _open(self, view: FitView) -> None:
        client = self._mlflow.MlflowClient(tracking_uri=self.tracking_uri)
        if self.run_id is None:
            found = client.get_experiment_by_name(self.experiment_name)
            experiment = (
                client.create_experiment(self.experiment_name)
                if found is None
                else found.experiment_id
            )
            made = client.create_run(experiment, tags=self.tags, run_name=self.run_name)
            self.run_id = made.info.run_id
            params = [self._entities.Param(k, v) for k, v in _flat("", view.settings)]
            client.log_batch(self.run_id, params=params)
        else:
            client.update_run(self.run_id, status="RUNNING")
        self._client = client

    def _send(self) -> None:
        while self._kept:
            self._client.log_batch(self.run_id, metrics=self._kept[:_AT_ONCE])
            del self._kept[:_AT_ONCE]

    def on_evaluation(self, view: FitView) -> None:
        super().on_evaluation(view)
        self._send()

    def on_checkpoint(self, view: FitView) -> None:
        """Sends what has been kept."""
        if self._client is not None:
            self._send()

    def _close(self, view: FitView) -> None:
        if self._client is None:
            return
        self._send()
        status = {"error": "FAILED", "interrupted": "KILLED"}.get(view.stopped or "", "FINISHED")
        self._client.set_terminated(self.run_id, status=status)
        self._client = None


def _flat(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings of settings as "optimizer.lr"; MLflow's params are text of limited length."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{prefix}{name}", text[:_LONGEST_VALUE]
