"""`adam-mp train`: train a network."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from typing import Any

from adam_mp.cli.options import Parser, add_common, add_settings, given_settings, parse
from adam_mp.errors import SettingsError
from adam_mp.process.forking import fork_server
from adam_mp.process.interruption import EXIT_CODES
from adam_mp.process.output import standard_error, standard_output
from adam_mp.training.preloading import OF_A_RUN


def run(arguments: Sequence[str]) -> int:
    """Train with the settings of the flags, and return 0; return 128 plus its number if a signal ended the run.

    With --check, only say what is understood of the data.
    """
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
    output.add_argument(
        "--check", action="store_true",
        help="only say what is understood of the data: parts, classes with counts, what is left out; train nothing",
    )  # fmt: skip
    add_common(output)
    values = parse(parser, arguments)
    given = given_settings(values)
    if values.check:
        if given.get("resume"):
            raise SettingsError("--check reads the data of a new run; those of an earlier run: adam-mp inspect DIR")
        return _check(given, values.json, values.quiet)
    if given.get("partition"):
        from adam_mp.training.group.following import follow, follows

        if follows(given):
            with fork_server(OF_A_RUN):
                return follow(given, (standard_error() if values.json else standard_output()).say)
    with fork_server(OF_A_RUN):  # the fork server imports modules and loads kernels while this process imports
        gc.disable()  # imported modules stay, so a collection would find nothing
        from adam_mp.api import train_with
        from adam_mp.report.progress import ProgressDisplay, notices_only

        gc.freeze()
        gc.enable()
        show = standard_error() if values.json else standard_output()
        result = train_with([notices_only if values.quiet else ProgressDisplay(show, standard_error())], given)
    code = EXIT_CODES.get(result.stopped_by or "", 0)
    if values.json:
        standard_output().answer(json.dumps(result.as_dict()), code)
    return code


def _check(given: Mapping[str, Any], as_json: bool, quiet: bool) -> int:
    from adam_mp.report.progress import ProgressDisplay, notices_only
    from adam_mp.report.text import data_text
    from adam_mp.training.data.understanding import check_data
    from adam_mp.training.settings.events import DataUnderstood

    display = ProgressDisplay(standard_error(), standard_error())

    def tell(event: Any) -> None:
        answered = isinstance(event, DataUnderstood) and not as_json  # as the answer of the command, below
        (notices_only if quiet or answered else display)(event)

    found = check_data(given, tell)
    if as_json:
        standard_output().answer(json.dumps(found.as_dict()))
    elif not quiet:
        standard_output().answer(data_text(found))
    return 0
