"""The base class of callbacks."""

from __future__ import annotations

from ._view import FitView

__all__ = ["HOOKS", "Callback"]


class Callback:
    """Derive from it, override what you need, and pass instances as Trainer(callbacks=[...]).

    Callbacks are called in the order of the list, and every one gets the same view. They may do
    anything that does not change parameters, optimizer or data of the trainer: then the training
    and what it saves have the same bits with and without them.

    An exception of a callback ends the fit and is passed on. Before that the run's checkpoint is
    written, so that fit(..., resume=True) goes on after the last update: nothing is lost. Ctrl-C in
    a callback is Ctrl-C in the training. A callback of a run that was killed sees those updates
    again that came after its last checkpoint.
    """

    def on_update(self, view: FitView) -> None:
        """Called after every update; view.metrics is its line."""

    def on_evaluation(self, view: FitView) -> None:
        """Called after every evaluation; view.score is its score, at step view.steps."""

    def on_checkpoint(self, view: FitView) -> None:
        """Called after last.safetensors of view.run has been written, also at the start and end.

        Not called without a run's folder, nor for the checkpoint that an exception asks for.
        """

    def on_end(self, view: FitView) -> None:
        """Called once at the end, whatever ends the fit: view.stopped says what did.

        It is called for every callback, also after an exception, and before fit returns or raises.
        """


# The names of the methods above, which a class must have as callables.
HOOKS = ("on_update", "on_evaluation", "on_checkpoint", "on_end")
