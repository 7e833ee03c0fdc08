"""`adam-mp COMMAND` and `python -m adam_mp COMMAND`: find the command, run it, turn errors into one line."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from adam_mp import __version__, proposals
from adam_mp.clash import clash_in
from adam_mp.errors import AdamError, SettingsError, refusal, shortened, shown, speaking_flags
from adam_mp.process.interruption import EXIT_CODES, Stopped, sigterm_as_interrupt, stacks_when_asked
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
    _open_standard_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"adam_mp {__version__}")
        return 0
    try:
        with stacks_when_asked(), sigterm_as_interrupt(), speaking_flags():
            return _run(arguments)
    except AdamError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"adam_mp: error: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped:
        print("adam_mp: stopped by SIGTERM", file=sys.stderr)
        return EXIT_CODES["SIGTERM"]
    except KeyboardInterrupt:
        print("adam_mp: interrupted", file=sys.stderr)
        return EXIT_CODES["SIGINT"]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's last flush fails again
        return 1
    except OSError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        place = f"{shortened(str(error.filename), 300)}: " if error.filename else ""
        print(f"adam_mp: error: {place}{refusal(error)}", file=sys.stderr)
        return 1
    except Exception as error:
        if "--debug" in arguments:
            raise
        if (clash := clash_in(error)) is not None:
            print(f"adam_mp: error: {clash}", file=sys.stderr)
            return 2
        text = shortened(f"{type(error).__name__}: {error}", 500)
        print(f"adam_mp: internal error: {text} (run again with --debug for the traceback)", file=sys.stderr)
        return 1


def _open_standard_streams() -> None:
    """Open /dev/null for each closed standard stream: else the next file that is opened gets the stream's number."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _run(arguments: list[str]) -> int:
    command = arguments[0]
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
