"""`adam-mp COMMAND` and `python -m adam_mp COMMAND`: find the command, run it, turn errors into one line."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

from adam_mp import __version__, proposals
from adam_mp.clash import clash_in
from adam_mp.errors import AdamError, ReaderGoneError, SettingsError, refusal, shortened, shown, speaking_flags
from adam_mp.process.interruption import EXIT_CODES, Stopped, endings_as_interrupts, stacks_when_asked
from adam_mp.process.output import guarded_streams, notice, standard_error, standard_output
from adam_mp.proposals import nearest

COMMANDS = {
    "train": "train a network",
    "evaluate": "measure a trained model on test data",
    "predict": "classify image files with a trained model",
    "inspect": "show what a run or a model file holds",
    "bench": "measure training speed by number of workers",
    "show-data": "write a picture of training images as the workers will see them",
    "serve-params": "run a parameter server, for training on many machines",
    "serve-data": "make batches for replicas on other machines",
    "status": "show who takes part in a run of many machines",
    "keygen": "make the key file of a run of many machines",
    "doctor": "show what this machine offers and what runs left behind",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    with guarded_streams():
        return _run_and_tell(list(sys.argv[1:] if arguments is None else arguments))


def _run_and_tell(arguments: list[str]) -> int:
    try:
        with stacks_when_asked(), endings_as_interrupts(), speaking_flags():
            return _run(arguments)
    except ReaderGoneError as error:
        return error.exit_code
    except AdamError as error:
        _show_trace(arguments)
        text, _, below = str(error).partition("\n")  # below: the last lines of a process, in a ProcessError
        notice(f"error: {text}", below)
        return error.exit_code
    except Stopped as stopped:
        notice(f"stopped by {stopped.name}")
        return EXIT_CODES[stopped.name]
    except KeyboardInterrupt:
        notice("interrupted")
        return EXIT_CODES["SIGINT"]
    except OSError as error:
        _show_trace(arguments)
        place = f"{shortened(str(error.filename), 300)}: " if error.filename else ""
        notice(f"error: {place}{refusal(error)}")
        return 1
    except Exception as error:
        if "--debug" in arguments:
            raise
        if (clash := clash_in(error)) is not None:
            notice(f"error: {clash}")
            return SettingsError.exit_code
        what = shortened(f"{type(error).__name__}: {error}", 500)
        notice(f"internal error: {what} (run again with --debug for the traceback)")
        return 1


def _show_trace(arguments: list[str]) -> None:
    """Show the traceback of the present error, if the user wants it."""
    if "--debug" in arguments:
        standard_error().say(traceback.format_exc(), end="")


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        standard_output().answer(_usage())
        return 0
    command = arguments[0]
    if command == "--version":
        standard_output().answer(f"adam_mp {__version__}")
        return 0
    if command not in COMMANDS:
        known = nearest(command, [*COMMANDS, "--version"], of_others=proposals.COMMANDS)
        raise SettingsError(f"unknown command {shown(command)}; {known}")
    module = importlib.import_module(f"adam_mp.cli.{command.replace('-', '_')}")
    return int(module.run(arguments[1:]))


def _usage() -> str:
    lines = "\n".join(f"  {name:<12} {text}" for name, text in COMMANDS.items())
    return (
        "usage: adam-mp COMMAND [--help]\n\n"
        "Train deep networks fast on CPUs: Project Adam (OSDI 2014), which is not the optimizer Adam.\n\n"
        f"commands:\n{lines}\n\n"
        "Begin with: adam-mp train --epochs 1"
    )
