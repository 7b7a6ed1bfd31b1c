"""Entry point of the command `gradcore`; the commands themselves are in gradcore.apps.commands."""

from __future__ import annotations

import sys

EXIT_ERROR = 2


def main() -> None:
    """Runs the command, which exits with 0, 1 (findings), 2 (error) or 130 (Ctrl-C)."""
    try:
        from . import commands
    except ImportError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        print(
            f"gradcore: the command needs {error.name}, which is not installed. "
            "Run: pip install 'gradcore[cli]'",
            file=sys.stderr,
        )
        sys.exit(EXIT_ERROR)
    commands.app()


if __name__ == "__main__":
    main()
