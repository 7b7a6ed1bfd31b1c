"""Callbacks: what Trainer.fit tells while it trains, and ready ones that write it down.

    table = gd.callbacks.CSVLogger("losses.csv")
    trainer = gd.Trainer(net, params, optimizer, loss="mse", callbacks=[table])

Loggers take the fields of metrics.jsonl that are numbers, and import their package when they are
made. Names are those of Lightning's loggers.
"""

from ._callback import Callback as Callback
from ._csv import CSVLogger as CSVLogger
from ._mlflow import MLFlowLogger as MLFlowLogger
from ._optuna import OptunaPruning as OptunaPruning
from ._tensorboard import TensorBoardLogger as TensorBoardLogger
from ._view import FitView as FitView
from ._wandb import WandbLogger as WandbLogger
