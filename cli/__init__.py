"""The command `lobservatory`. This module imports little, so that `--help` and `scan` start at once."""

from __future__ import annotations

import os
import sys

from lobservatory.errors import LobservatoryError, UserError, end

_INTERRUPTED = 130  # as a shell reports it


def main() -> None:
    """Entry of the program: runs one command; a person's mistake becomes one line on stderr and a status ≠ 0."""
    try:
        _run()
    except LobservatoryError as error:
        end("lobservatory", error)
    except BrokenPipeError:
        # The reader of our output (`| head`) went away: not an error, and Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        # A path of the person's that may not be entered, a full disk: the system's own words say it.
        end("lobservatory", UserError(f"{error.filename or 'output'}: {error.strerror or error}"))
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


def _run() -> None:
    if sys.argv[1:2] == ["scan"]:
        from cli.commands.scan import run_plainly  # noqa: PLC0415 - only what is asked for

        status = run_plainly(sys.argv[2:])
        if status is not None:
            raise SystemExit(status)
    from cli.app import app  # noqa: PLC0415 - as above

    app(prog_name="lobservatory")
