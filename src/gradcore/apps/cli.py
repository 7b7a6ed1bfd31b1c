"""Entry point of the command `gradcore`; the commands themselves are in gradcore.apps.commands."""

from __future__ import annotations

import sys

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


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
    code: str | int | None = 0
    told = None
    try:
        commands.app()
    except SystemExit as ended:
        code = ended.code
    except BrokenPipeError:
        code = streams.EXIT_PIPE
    except OSError as error:
        if error.filename is not None:
            raise
        told = f"cannot write the output: {error.strerror or error}"
    except KeyboardInterrupt:
        print("gradcore: interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    wrong = streams.flush() if told is None else told
    if wrong:
        print(f"gradcore: {wrong}", file=sys.stderr)
    sys.exit(code if wrong is None else EXIT_ERROR if wrong else streams.EXIT_PIPE)


if __name__ == "__main__":
    main()
