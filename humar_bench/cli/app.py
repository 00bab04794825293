"""The front of the command line: the application, its exit codes, and how every command ends. No arithmetic, no torch.

Tables go to standard output, progress and warnings to standard error. Exit codes: `errors.py`, and 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from humar_bench import __version__
from humar_bench.args import RunArgs, shown
from humar_bench.cli import typer_options
from humar_bench.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, HumarBenchError, UsageError
from humar_bench.options import Call, Output, Selection, Whole
from humar_bench.subjects.sources import use_own
from humar_bench.table import visible

NAME = "humar-bench"
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141
MOST_SHOWN, MOST_SENTENCE = 300, 2000  # characters of one thing that was typed, and of a whole sentence about it
_PANELS = {
    Selection: "What to measure", Whole: "The whole model", Call: "Any model", RunArgs: "How to measure", Output: "Where results go",
}
_typed: list[str] = []  # what was typed; `main` sets it, `command_text` reads it


class Interrupted(HumarBenchError):
    """Ctrl-C."""

    exit_code = EXIT_INTERRUPTED


class _Group(TyperGroup):
    """Turns Ctrl-C and an output that is gone into this package's errors before typer makes something else of them."""

    def get_params(self, ctx: Any) -> list[Any]:
        """As typer has them; a flag that is not given is off, where typer would load pydantic to find out what nothing means."""
        params = super().get_params(ctx)
        for each in params:
            if getattr(each, "is_flag", False) and each.default is None:
                each.default = False
        return params

    def make_context(self, *args: Any, **more: Any) -> Any:
        """As typer has it; whoever reads --help may have seen enough."""
        try:
            return super().make_context(*args, **more)
        except BrokenPipeError:
            _silence(sys.stdout)
            raise typer.Exit(EXIT_BROKEN_PIPE) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except SystemExit as stop:  # only somebody else's code does this, and its number would pass for ours
            raise HumarBenchError(f"foreign code ended the command with sys.exit({shown(stop.code)}); take that out of it.") from None
        except KeyboardInterrupt:
            raise Interrupted("stopped by Ctrl-C; what was written to a records file (-o, --records) before is kept.") from None
        except BrokenPipeError:
            _silence(sys.stdout)
            return EXIT_BROKEN_PIPE
        except OSError as error:
            if error.filename is not None:
                raise HumarBenchError(f"{os.fsdecode(error.filename)} cannot be used: {error.strerror or error}.") from error
            _silence(sys.stdout)
            raise HumarBenchError(f"standard output could not be written: {error.strerror or error}; make room or use a file.") from error


app = typer.Typer(
    cls=_Group, rich_markup_mode="rich", pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _front(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False
) -> int | None:
    """Is this replacement really smaller, faster, lighter, and how sure are we?

    Measures two pose transformers, or your own architectures, side by side on the same work.

    \b
    Example:
      humar-bench params
      humar-bench report --workload speed-test -o results
    """
    if version:
        print(f"{NAME} {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit()
    return None


command = functools.partial(typer_options.command, app, panels=_PANELS)


def command_text() -> str:
    """The command as it was typed, for the records."""
    return shlex.join([NAME, *_typed])


def say(sentence: object) -> None:
    """One line on standard error; a screen that is gone is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{NAME}: {visible(' '.join(str(sentence).split()))}", file=sys.stderr, flush=True)


def shortened(sentence: str) -> str:
    """A sentence about a command line, in which what was typed is as long as whoever typed it needs to know it again."""
    parts = {part for word in _typed for part in (word, word.partition("=")[2]) if len(part) > MOST_SHOWN}
    for part in sorted(parts, key=len, reverse=True):
        for form in (part, repr(part)[1:-1]):
            sentence = sentence.replace(form, _cut(form))
    sentence = re.sub(rf"\S{{{MOST_SHOWN + 1},}}", lambda found: _cut(found[0]), sentence)
    return sentence if len(sentence) <= MOST_SENTENCE else f"{sentence[: MOST_SENTENCE // 2]} ... {sentence[-MOST_SENTENCE // 2 :]}"


def _cut(text: str) -> str:
    return f"{text[:60]}...{text[-20:]}" if len(text) > MOST_SHOWN else text


def tell(line: object) -> None:
    """One line on standard output."""
    print(visible(str(line)))


def _silence(stream: Any) -> None:
    """Keep Python from complaining at exit about a stream that cannot take what is left in it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """The console entry: every error a user can cause is one sentence on standard error. Returns the exit code."""
    _typed[:] = sys.argv[1:] if argv is None else argv
    use_own()
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character is no reason to lose a table
    try:
        code = app(args=list(_typed), prog_name=NAME, standalone_mode=False)
    except HumarBenchError as error:
        say(shortened(str(error)) if isinstance(error, UsageError) else error)  # other errors say where results are, whole
        return error.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED
    except Exception as error:
        if not hasattr(error, "format_message"):  # not typer's own complaint about the command line
            raise
        context = getattr(error, "ctx", None)
        say(shortened(f"{error.format_message().rstrip('.')}; see {context.command_path if context else NAME} --help."))
        return EXIT_USAGE
    return code if isinstance(code, int) else EXIT_DONE
