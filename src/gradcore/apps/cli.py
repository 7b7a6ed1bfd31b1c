"""Entry point of the command `gradcore`; the commands themselves are in gradcore.apps.commands."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from .._base.interrupts import Interrupts
from .exit_codes import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_PIPE, EXIT_TERMINATED


def main() -> None:
    """Runs the command.

    It exits with 0, 1 (findings), 2 (error), 130 (Ctrl-C), 143 (SIGTERM) or 141, quietly, if nobody
    reads its output any more.
    """
    try:
        from . import commands, streams
    except ImportError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        print(
            f"gradcore: the command needs {error.name}, which is not installed. "
            "Run: pip install 'gradcore[cli]'",
            file=sys.stderr,
        )
        sys.exit(EXIT_ERROR)
    streams.prepare()
    with Interrupts() as interrupts:
        code = _run(commands.app, interrupts)
        if interrupts.number is not None:
            interrupts.stay_ignored()
    sys.exit(code)


def _run(app: Callable[[], object], interrupts: Interrupts) -> str | int | None:
    """The code that the process ends with, when all output is written."""
    from . import streams

    code: str | int | None = 0
    told = None
    try:
        app()
    except SystemExit as ended:
        code = ended.code
    except BrokenPipeError:
        code = EXIT_PIPE
    except OSError as error:
        if error.filename is not None:
            raise
        told = streams.unwritten(error)
    except KeyboardInterrupt:
        terminated = interrupts.number == signal.SIGTERM
        print(f"gradcore: interrupted{' by SIGTERM' if terminated else ''}", file=sys.stderr)
        code = EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
    left = streams.flush()  # also after an error, or Python would write what is left at its end
    wrong = left if told is None else told
    if wrong:
        print(f"gradcore: {wrong}", file=sys.stderr)
    return code if wrong is None else EXIT_ERROR if wrong else EXIT_PIPE


if __name__ == "__main__":
    main()
