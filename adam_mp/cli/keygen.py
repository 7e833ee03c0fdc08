"""`adam-mp keygen`: make the key file of a run of many machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adam_mp.cli.options import Parser, add_common, parse
from adam_mp.process.output import one_line, standard_output
from adam_mp.transport.keys import make_key_file


def run(arguments: Sequence[str]) -> int:
    """Write a key file."""
    parser = Parser(
        prog="adam-mp keygen",
        description="Make the key file of a run. All its parts, on all machines, are given the same file; who has it "
        "may join the run and read it.",
    )
    parser.add_argument("file", metavar="FILE", help="where to write it")
    add_common(parser)
    values = parse(parser, arguments)
    make_key_file(Path(values.file))
    standard_output().say(
        f"{one_line(values.file)}: a new key; copy it to every machine of the run, keep it secret, and give --key-file "
        "there"
    )
    return 0
