"""The application: all commands, its exit codes and its errors."""

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from lens_multimodal.cli import (
    ablate_command,
    activations_command,
    atlas_command,
    caption_command,
    decode_command,
    experiment_commands,
    explore_command,
    info_command,
    neurons_command,
    patch_command,
    train_command,
)
from lens_multimodal.cli.option_groups import with_groups
from lens_multimodal.cli.several_processes import command_line

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130

COMMANDS: tuple[Callable[..., Any], ...] = (
    caption_command.caption,
    neurons_command.neurons,
    decode_command.decode,
    ablate_command.ablate,
    patch_command.patch,
    train_command.train,
    activations_command.activations,
    atlas_command.atlas,
    experiment_commands.reproduce,
    experiment_commands.report,
    explore_command.explore,
    info_command.info,
)

WITHOUT_ARGUMENTS = (experiment_commands.reproduce, explore_command.explore, info_command.info)
"""Commands that run without arguments; the others show their help."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 an error, reported in one line on stderr, 2 wrong usage, 130 interrupted.

    Args: arguments: those of the command line, without the program's name; None reads `sys.argv`.
    Raises: SystemExit always, or with `--debug` whatever the command raised.
    """
    with _any_character():
        _run(list(sys.argv[1:] if arguments is None else arguments))


def _run(given: list[str]) -> NoReturn:
    own = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in own
    try:
        with warnings.catch_warnings():
            if not debug:
                _quiet()
            command_line.set(tuple(given))
            application()(args=[a for a in own if a != "--debug"] + given[len(own) :], prog_name="lens-multimodal")
    except SystemExit as ended:
        if ended.code == EXIT_INTERRUPTED:
            typer.echo("interrupted; what was written is kept, and train and reproduce continue from it", err=True)
        raise
    except Exception as error:
        if debug:
            raise
        typer.echo(f"error: {one_line(error)}", err=True)
        sys.exit(EXIT_ERROR)
    sys.exit(0)


def application() -> typer.Typer:
    """The commands as one Typer application; the errors of a command reach the caller."""
    app = typer.Typer(
        name="lens-multimodal",
        help="See how a text-only transformer sees: captions, multimodal neurons, ablation, activation patching.",
        epilog="Without --model, every command uses the tiny trio inside the package. Try: "
        "[bold]lens-multimodal caption picture.png[/bold]",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_common)
    for command in COMMANDS:
        app.command(no_args_is_help=command not in WITHOUT_ARGUMENTS)(with_groups(command))
    return app


def one_line(error: BaseException) -> str:
    """The message of an error on one line; an error that no user can cause is reported as a bug."""
    message = " ".join(str(error).split())
    if message and isinstance(error, (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError)):
        return message
    return (
        f"{type(error).__name__} {message}: this is a bug of lens_multimodal; run the command again with --debug and "
        f"report what it prints"
    )


def _show_version(wanted: bool) -> bool:
    if wanted:
        from lens_multimodal import __version__

        typer.echo(f"lens_multimodal {__version__}")
        raise typer.Exit
    return wanted


def _common(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Accepted anywhere on the command line.")
    ] = False,
) -> None:
    """Options of every command."""


@contextmanager
def _any_character() -> Iterator[None]:
    """Write characters that the terminal's encoding lacks as escapes, rather than fail when the work is done."""
    streams = [(s, s.errors) for s in (sys.stdout, sys.stderr) if isinstance(s, io.TextIOWrapper)]
    for stream, _ in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in streams:
            stream.reconfigure(errors=errors)


def _quiet() -> None:
    """Hide the advice that other libraries give to programmers."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.showwarning = _show_warning  # type: ignore[assignment]


def _show_warning(message: Warning | str, *_where: Any) -> None:
    typer.echo(f"warning: {' '.join(str(message).split())}", err=True)
