"""The codes with which the command ends; docs/command_line.md lists them."""

EXIT_FINDINGS = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT."""
EXIT_PIPE = 141
"""128 + SIGPIPE: nobody reads the output any more."""
EXIT_TERMINATED = 143
"""128 + SIGTERM."""
