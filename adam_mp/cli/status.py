"""`adam-mp status`: asks the coordinator of a run of many machines for the run's state, and shows it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adam_mp.cli.options import Parser, add_common, parse
from adam_mp.errors import SettingsError, StoppedError
from adam_mp.params.run.membership import CoordinatorLink, new_identity
from adam_mp.process.interruption import Interruption
from adam_mp.process.output import standard_output
from adam_mp.report.cluster_text import cluster_text
from adam_mp.training.replica.launched import find_launched
from adam_mp.transport.keys import read_keys
from adam_mp.transport.messages import Kind
from adam_mp.transport.places import parse_place
from adam_mp.transport.socket_files import PREFIX
from adam_mp.transport.zeromq import SocketDialer

_DEADLINE, _UNREACHED = 10.0, 2.0  # seconds to wait for an answer: with a connection, and without one
_LOOK = 0.05  # seconds between looks for Ctrl-C
_CLEAR = "\x1b[H\x1b[2J"


def run(arguments: Sequence[str]) -> int:
    """Show the members of a run: once, or again and again with --watch."""
    parser = Parser(
        prog="adam-mp status",
        description="Show who takes part in a run of many machines: epoch, buckets, rates, staleness, queues. The "
        "replica that validates has a star.",
    )
    parser.add_argument(
        "address", metavar="HOST:PORT|DIR",
        help="the run's first parameter server; or the run folder of a run that 'train --servers' started here",
    )  # fmt: skip
    parser.add_argument("--key-file", metavar="FILE", help="the run's keys")
    parser.add_argument("--watch", action="store_true", help="show it again every --seconds, until Ctrl-C")
    parser.add_argument("--seconds", metavar="S", type=float, default=1.0, help="time between looks (default: 1)")
    parser.add_argument(
        "--deadline", metavar="S", type=float,
        help=f"time to wait for an answer (default: {_DEADLINE:g}, or {_UNREACHED:g} where nobody is reached)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_common(parser)
    values = parse(parser, arguments)
    deadline = _DEADLINE if values.deadline is None else values.deadline
    unreached = _UNREACHED if values.deadline is None else values.deadline
    if not values.seconds > 0 or not deadline > 0:
        raise SettingsError("--seconds and --deadline must be above 0")
    address = _find(values.address)
    dialer = SocketDialer(read_keys(values.key_file))
    try:
        link = CoordinatorLink(dialer, parse_place(address, "the address"), new_identity())
        with Interruption() as interruption, contextlib.suppress(StoppedError):

            def stop() -> bool:
                return interruption.requested is not None

            while not stop():
                state = link.ask(Kind.STATUS, {}, deadline, stop, unreached=unreached)
                unreached = deadline  # the coordinator has answered once, so it may be starting again
                if values.watch and not values.json and standard_output().isatty():
                    standard_output().write(_CLEAR)
                standard_output().answer(json.dumps(_counted(state)) if values.json else cluster_text(state))
                if not values.watch:
                    break
                _rest(values.seconds, stop)
    finally:
        dialer.close()
    return 0


def _counted(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a coordinator's state with its epochs counted from 1, as everywhere else; 0 before the first."""
    begun = bool(state["images"])
    finished = [{**each, "epoch": each["epoch"] + 1} for each in state["finished"]]
    return {**state, "epoch": min(state["epoch"] + 1, state["epochs"]) if begun else 0, "finished": finished}


def _find(text: str) -> str:
    """Return the address in `text`, or the address of the run in that folder. Raises SettingsError, RunFolderError."""
    path = Path(text)
    if path.is_dir():
        return find_launched(path)
    if not text.startswith(PREFIX) and (path.exists() or "/" in text or ":" not in text):
        what = "is a file" if path.exists() else "does not exist as a folder, and is no address"
        raise SettingsError(f"{text} {what}; expected HOST:PORT, unix:FILE, or the folder of a run of train --servers")
    return text


def _rest(seconds: float, stop: Callable[[], bool]) -> None:
    """Sleep for `seconds`, or until `stop` returns True. (time.sleep alone would go on after a signal.)"""
    deadline = time.monotonic() + seconds
    while not stop() and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK))
