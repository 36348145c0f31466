"""The command `lobservatory`. This module imports little, so that `--help` and `scan` start at once."""

from __future__ import annotations

import os
import sys

from lobservatory.errors import SettingsError, UserError

_INTERRUPTED = 130  # as a shell reports it


def main() -> None:
    """Entry of the program: runs one command; a person's mistake becomes one line on stderr and a status ≠ 0."""
    try:
        _run()
    except SettingsError as error:
        _end(str(error), 2)
    except UserError as error:
        _end(str(error), error.status)
    except BrokenPipeError:
        # The reader of our output (`| head`) went away: not an error, and Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        # A path of the person's that may not be entered, a full disk: the system's own words say it.
        _end(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    except Exception as error:
        if not is_explained(error):
            raise
        _end(str(error), 1)


def _run() -> None:
    if sys.argv[1:2] == ["scan"]:
        from cli.commands.scan import run_plainly  # noqa: PLC0415 - only what is asked for

        status = run_plainly(sys.argv[2:])
        if status is not None:
            raise SystemExit(status)
    from cli.app import app  # noqa: PLC0415 - as above

    app(prog_name="lobservatory")


def is_explained(error: Exception) -> bool:
    """Whether an error is one of the rooms' own typed errors, whose text is written for people.

    By the class's home, so that no room has to be imported to ask.
    """
    rooms = ("openclaw", "store", "exporter", "api", "lobservatory")
    return any(
        kind.__module__.partition(".")[0] in rooms and kind.__name__.endswith("Error") for kind in type(error).__mro__
    )


def _end(message: str, status: int) -> None:
    for line in message.splitlines() or ["failed"]:
        print(f"lobservatory: {line}", file=sys.stderr)  # noqa: T201 - this is the command's answer
    raise SystemExit(status) from None
