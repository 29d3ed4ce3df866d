"""The command line: `main` runs it, and turns errors into one line each and an exit code."""

from __future__ import annotations

import io
import os
import sys

import typer

from synthgen.base.interrupts import Interrupted, ended_by_signals
from synthgen.base.wording import one_line
from synthgen.cli.commands import Commands
from synthgen.errors import SynthgenError, of_system

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turn a YAML spec into a labelled and filtered dataset of synthetic images, with a report.",
    epilog="An error is one line. Add --debug anywhere on the line to see where it comes from.",
)


@app.callback()
def synthgen() -> None:
    """The options of no command in particular: those of shell completion."""


def main() -> None:
    """Runs the command line. Prints each error for people as one line, and exits with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A character that the terminal lacks is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    with ended_by_signals():
        _main()


def _main() -> None:
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        code = app(arguments, prog_name="synthgen", standalone_mode=False) or 0
        if code == Interrupted.exit_code:  # Typer returns this code for a KeyboardInterrupt.
            raise KeyboardInterrupt
        sys.exit(code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except SynthgenError as error:
        if debug:
            raise
        prefix = "" if isinstance(error, Interrupted) else "error: "
        for line in str(error).splitlines():
            _print_error(f"{prefix}{line}")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _print_error(str(Interrupted()))
        sys.exit(Interrupted.exit_code)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and (known := of_system(error)):
            _print_error(f"error: {known}")
            sys.exit(known.exit_code)
        message = getattr(error, "format_message", None)  # Errors of usage have it: click's, which typer has a copy of.
        if callable(message):
            if text := " ".join(message().split()):
                _print_error(f"error: {text.rstrip('.')}; synthgen --help lists the commands")
            sys.exit(2)
        text = one_line(error, 500)  # Some libraries print all that they were given, secrets too.
        _print_error(f"error: {type(error).__name__}: {text} (--debug shows where)")
        sys.exit(1)


def _print_error(line: str) -> None:
    try:
        print(line, file=sys.stderr)
    except OSError:  # The terminal has been closed. Python would try again at exit and change the exit code.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
