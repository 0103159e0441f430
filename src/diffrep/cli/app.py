"""The table of commands, and what happens around one: config file, flags, errors, exit codes."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError, MissingArgumentError, UnusedCliTokensError
from pydantic import ValidationError

import diffrep
from diffrep.cli.config_file import ConfigFile
from diffrep.cli.options import WORDS
from diffrep.errors import DiffrepError, nearest

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo:demo", "The whole main job on embedded digits: probe, autoencoder, report, in a few minutes."),
    "train": ("train:train", "Train a denoiser on images."),
    "autoencode": ("autoencode:autoencode", "Train a semantic autoencoder on a frozen denoiser."),
    "extract": ("extract:extract", "Write one feature vector per image, tap and noise level."),
    "probe": ("probe:probe", "Choose tap and level on validation and report a probe on test."),
    "encode": ("encode:encode", "Write the code of each image."),
    "decode": ("decode:decode", "Make images from codes."),
    "reconstruct": ("reconstruct:reconstruct", "Encode and decode images, beside all controls."),
    "interpolate": ("interpolate:interpolate", "Make ways from image to image."),
    "sample": ("sample:sample", "Draw images from a denoiser."),
    "convert": ("convert:convert", "Make a model folder of another program's checkpoint."),
    "report": ("report:report", "Draw the report of a run folder again."),
    "models": ("models:app", "List models, show a model's card, or download a public checkpoint."),
    "datasets": ("datasets:datasets", "List the sources of images."),
    "doctor": ("doctor:doctor", "Say what this machine has, and verify the packaged weights."),
}
"""Command -> ("module:function" below diffrep.cli.commands, one line of help). Imported when the command is called."""

UNEXPECTED = 1
DEFAULTS = Parameter(negative_iterable=(), show_env_var=False)


def make_app() -> App:
    """The application; no command module is imported yet."""
    app = App(
        name="diffrep",
        help="Features, a semantic autoencoder, and evidence from any pre-trained diffusion model.",
        version=diffrep.__version__,
        config=ConfigFile(),
        default_parameter=DEFAULTS,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for name, (target, summary) in COMMANDS.items():
        app.command(f"diffrep.cli.commands.{target}", name=name, help=summary)
    return app


def run(words: Sequence[str] | None = None) -> int:
    """Run one command; every error becomes a line on stderr and an exit code."""
    given = list(sys.argv[1:] if words is None else words)
    WORDS.set(tuple(given))
    app = make_app()
    verbose = "-v" in given or "--verbose" in given
    try:
        with _terminated_as_interrupted(), warnings.catch_warnings():
            warnings.showwarning = _warn  # type: ignore[assignment]
            return _guarded(lambda: app(given, print_error=False, exit_on_error=False), app, verbose)
    except BrokenPipeError:  # the reader of our output has gone; nothing more to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNEXPECTED


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: half-written files are removed, and the exit code is 75."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _warn(message: Warning | str, *where: object) -> None:
    """A warning as a line on stderr, without the line of source that it comes from."""
    print(f"warning: {message}", file=sys.stderr)


def _guarded(work: Callable[[], Any], app: App, verbose: bool) -> int:
    try:
        result = work()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return _say(*_usage(error, app), 2, verbose)
    except DiffrepError as error:
        return _say(error.message, error.hint, error.exit_code, verbose)
    except KeyboardInterrupt:
        return _say(
            "interrupted", "what was finished is kept; in a run folder it goes on with --resume auto", 75, verbose
        )
    except BrokenPipeError:
        raise
    except OSError as error:
        return _say(*_failed_file(error), UNEXPECTED, verbose)
    except Exception as error:
        text = f"unexpected {type(error).__name__}: {error}".splitlines()[0]
        return _say(text, "run the command again with -v for the traceback", UNEXPECTED, verbose)


def _say(message: str, hint: str, code: int, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return code


def _usage(error: CycloptsError, app: App) -> tuple[str, str]:
    """Message and hint of a wrong command line or config."""
    strange = _strange_word(app)
    if strange:
        return strange
    chain = error.__cause__ or error.__context__
    if isinstance(chain, DiffrepError):
        return chain.message, chain.hint
    if isinstance(chain, ValidationError):
        return "; ".join(_setting(wrong) for wrong in chain.errors()), "see --help"
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f'"{error.unused_tokens[0]}" is one word too many', "see --help for the words that the command takes"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        wrong = f"{error.keyword} needs a value" if error.keyword else f"{error.argument.name} is missing"
        return wrong, "see --help"
    text = " ".join(str(error).split())
    message, mark, rest = text.partition(" Did you mean")
    return message, f"did you mean{rest}" if mark else "see --help"


def _strange_word(app: App) -> tuple[str, str] | None:
    """The first command or option that is not known: more telling than what is missing because of it."""
    words = WORDS.get()
    if words and words[0] not in COMMANDS:
        what = "option" if words[0].startswith("-") else "command"
        return f'unknown {what} "{words[0]}"', nearest(words[0], COMMANDS)
    command = app[words[0]] if words else app
    if command.default_command is None:
        return None
    arguments = command.assemble_argument_collection(default_parameter=DEFAULTS)
    known = [name for argument in arguments for name in argument.names if name.startswith("--")]
    for word in words[1 : words.index("--") if "--" in words else None]:
        name = word.partition("=")[0]
        if name.startswith("--") and name not in (*known, "--help", "--version"):
            return f'unknown option "{name}"', nearest(name, known)
    return None


def _setting(wrong: Any) -> str:  # noqa: ANN401 (pydantic's ErrorDetails)
    name = ".".join(str(part) for part in wrong["loc"] if part != "config")
    if wrong["type"] == "missing":
        return f"--{name.replace('_', '-')} is missing"
    message = wrong["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = f"a number {message}" if message.startswith(("greater", "less")) else message
    return f"{name} = {wrong['input']!r}: expected {message}" if wrong["msg"] != message else f"{name}: {message}"


def _failed_file(error: OSError) -> tuple[str, str]:
    name = f' "{error.filename}"' if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: cannot write{name}", "free some space; what was there before is intact"
    return f"{error.strerror or error}:{name}" if name else str(error), ""
