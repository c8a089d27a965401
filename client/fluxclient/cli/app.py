"""The command `fluxclient` as a whole: its subcommands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from fluxclient.cli.batch import batch
from fluxclient.cli.exit_codes import EXIT_CODES, ExitCode, exit_code
from fluxclient.cli.gateway import gateway
from fluxclient.cli.generate import generate
from fluxclient.cli.report import say, say_error
from fluxclient.cli.status import status
from fluxclient.errors import FluxError

_PARAGRAPHS = "\n\n"

GENERATE_EXAMPLES = """[bold]Examples[/bold]

fluxclient generate "a large apple on a green background" -o apple.png

fluxclient generate "a small cat on a pink background" -n 4 --seed 7 --steps 12 -o cats/

fluxclient generate --prompts prompts.txt --format webp --json -o out/ > results.jsonl
"""

BATCH_EXAMPLES = """[bold]Example[/bold]

echo '{"id": "apple", "prompt": "a large apple on a green background", "seed": 7, "width": 128}' > in.jsonl

fluxclient batch in.jsonl -o out/
"""

STATUS_EXAMPLES = """[bold]Examples[/bold]

fluxclient status --watch --interval 5

until fluxclient status > /dev/null 2>&1; do sleep 1; done
"""

app = typer.Typer(
    name="fluxclient",
    help="Draw pictures with FLUX on a Triton server.",
    epilog=EXIT_CODES,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=_PARAGRAPHS.join((GENERATE_EXAMPLES, EXIT_CODES)))(generate)
app.command(epilog=_PARAGRAPHS.join((BATCH_EXAMPLES, EXIT_CODES)))(batch)
app.command(epilog=_PARAGRAPHS.join((STATUS_EXAMPLES, EXIT_CODES)))(status)
app.command(epilog=EXIT_CODES)(gateway)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line (that of the process, unless given) and returns the exit code. Never raises."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(given or ["--help"], prog_name="fluxclient", standalone_mode=False)
    except typer.TyperException as error:
        say_usage(error)
        return error.exit_code
    except FluxError as error:
        say_error(error)
        return exit_code([error])
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left must not fail at exit
        return ExitCode.FAILED
    except OSError as error:
        say(str(error))
        return ExitCode.FAILED
    return int(code or ExitCode.DONE)


def say_usage(error: typer.TyperException) -> None:
    """One line: what is wrong, and where help is."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "fluxclient"
    message = error.format_message().rstrip(".")
    say(f"{message}; see {path} --help")
