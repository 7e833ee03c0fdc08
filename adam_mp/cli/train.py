"""`adam-mp train`: train a network."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Sequence

from adam_mp.cli.options import Parser, add_common, add_settings, given_settings, parse
from adam_mp.process.forking import fork_server
from adam_mp.process.interruption import EXIT_CODES
from adam_mp.training.preloading import OF_A_RUN


def run(arguments: Sequence[str]) -> int:
    """Train with the settings of the flags, and return 0; return 130 or 143 if a signal ended the run early."""
    parser = Parser(
        prog="adam-mp train",
        description="Train a network with many processes on one shared set of weights. Without flags: the paper's "
        "MNIST network on the embedded MNIST, on all cores. (Project Adam is a training system. The optimizer Adam is "
        "something else: --optimizer adam.)",
    )
    add_settings(parser)
    output = parser.add_argument_group("what is shown")
    output.add_argument("--quiet", action="store_true", help="show problems only")
    output.add_argument(
        "--json", action="store_true",
        help="print the summary as one JSON object, the last line of standard output; all else goes to standard error",
    )  # fmt: skip
    add_common(output)
    values = parse(parser, arguments)
    given = given_settings(values)
    with fork_server(OF_A_RUN):  # the fork server imports modules and loads kernels while this process imports
        gc.disable()  # imported modules stay, so a collection would find nothing
        from adam_mp.api import train_with
        from adam_mp.report.progress import ProgressDisplay, notices_only

        gc.freeze()
        gc.enable()
        show = sys.stderr if values.json else sys.stdout
        result = train_with([notices_only if values.quiet else ProgressDisplay(show, sys.stderr)], given)
    if values.json:
        print(json.dumps(result.as_dict()), flush=True)
    return EXIT_CODES.get(result.stopped_by or "", 0)
