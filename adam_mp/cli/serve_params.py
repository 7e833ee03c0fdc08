"""`adam-mp serve-params`: a parameter server; the first of a run is also its coordinator."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from adam_mp.cli.options import Parser, add_common, parse
from adam_mp.errors import SettingsError
from adam_mp.params.controller.place import parse_etcd
from adam_mp.params.run.bucket_map import COMMITS
from adam_mp.params.server.serving import ServerSpec, serve_parameters
from adam_mp.process.interruption import EXIT_CODES, Interruption
from adam_mp.process.output import standard_output
from adam_mp.transport.keys import read_keys


def run(arguments: Sequence[str]) -> int:
    """Serve until the run is done, and return 0; return 128 plus its number if a signal stops it."""
    spec = _spec(parse(_parser(), arguments))
    with Interruption() as interruption:
        done = serve_parameters(spec, lambda: interruption.requested is not None, standard_output().say)
    return 0 if done else EXIT_CODES.get(interruption.requested or "", 1)


def _parser() -> Parser:
    parser = Parser(
        prog="adam-mp serve-params",
        description="Run a parameter server. The first of a run is also its coordinator: further servers join it with "
        "--join, replicas with 'adam-mp train --join'. It ends when the run is done.",
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", required=True,
        help="where to listen; port 0 lets the system choose one; or unix:FILE, for your processes on this machine",
    )  # fmt: skip
    parser.add_argument(
        "--advertise", metavar="HOST[:PORT]", help="where others find this server (default: as --listen)"
    )
    parser.add_argument(
        "--join", metavar="HOST:PORT", help="the run's first server (or its unix:FILE), for all but the first"
    )
    parser.add_argument(
        "--servers", metavar="N", type=int, default=1, help="parameter servers of the run, for the first (default: 1)"
    )
    parser.add_argument("--key-file", metavar="FILE", help="the run's keys; needed beyond this machine")
    parser.add_argument(
        "--snapshots", metavar="DIR", help="folder for this server's state, from which it goes on when started again"
    )
    parser.add_argument(
        "--snapshot-seconds", metavar="S", type=float, default=1.0,
        help="time between two writings of a shard; a crash loses the updates since the last (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--wait-seconds", metavar="S", type=float, default=ServerSpec.wait,
        help="how long the first server waits without any replica before it ends with an error (default: "
        f"{ServerSpec.wait:g})",
    )  # fmt: skip
    _add_copies(parser)
    parser.add_argument("--address-file", metavar="FILE", help="write the server's address here once it listens")
    add_common(parser)
    return parser


def _add_copies(parser: Parser) -> None:
    parser.add_argument(
        "--copies", metavar="N", type=int, default=1,
        help="keep all weights on N of the run's servers: if one dies or hangs, another takes its place at once; give "
        "it to all servers (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--commit", metavar="WHEN", choices=COMMITS, default=COMMITS[0],
        help="when servers with copies answer an update, for the first: copied (at once; replicas keep it until the "
        "copies have it) or all (when all copies have it) (default: copied)",
    )  # fmt: skip
    parser.add_argument(
        "--copies-listen", metavar="HOST:PORT",
        help="where to take copies from other servers, on a network of their own if there is one (default: a port that "
        "the system chooses on the host of --listen)",
    )  # fmt: skip
    parser.add_argument(
        "--beat-seconds", metavar="S", type=float, default=ServerSpec.beat,
        help=f"time between two beats, by which servers with copies know that they live (default: {ServerSpec.beat:g})",
    )  # fmt: skip
    parser.add_argument(
        "--failover-seconds", metavar="S", type=float, default=ServerSpec.failover,
        help="how long a server with copies may miss its beats before another takes its place (default: "
        f"{ServerSpec.failover:g})",
    )  # fmt: skip
    parser.add_argument(
        "--controller", metavar="etcd://HOST:PORT,...[/NAME]",
        help="keep the run's bucket map in etcd, under NAME, and elect the coordinator there: then any server may die, "
        "and no server is the first; give it to all servers, in place of --join",
    )  # fmt: skip
    parser.add_argument(
        "--controller-tls", metavar="CERT,KEY,CA",
        help="files for encrypted connections to etcd: this server's certificate and key, and etcd's authority",
    )  # fmt: skip


def _spec(values: argparse.Namespace) -> ServerSpec:
    """Return the settings that the flags give; raises SettingsError for wrong ones."""
    if not 1 <= values.servers <= 64:
        raise SettingsError(f"--servers is {values.servers}; expected 1 to 64")
    if not 0 < values.snapshot_seconds <= 86400:
        raise SettingsError(f"--snapshot-seconds is {values.snapshot_seconds:g}; expected more than 0, at most a day")
    if not values.wait_seconds > 0:
        raise SettingsError(f"--wait-seconds is {values.wait_seconds:g}; expected more than 0, or inf for no end")
    if not 1 <= values.copies <= 64:
        raise SettingsError(f"--copies is {values.copies}; expected 1 to 64")
    if values.copies == 1 and values.copies_listen is not None:
        raise SettingsError("--copies-listen is for servers with copies; give --copies N too")
    for name in ("beat_seconds", "failover_seconds"):
        if not 0.01 <= (seconds := getattr(values, name)) <= 3600:
            raise SettingsError(f"--{name.replace('_', '-')} is {seconds:g}; expected 0.01 to 3600")
    if values.controller is None and values.controller_tls is not None:
        raise SettingsError("--controller-tls is for etcd; give --controller etcd://HOST:PORT too")
    return ServerSpec(
        listen=values.listen,
        advertise=values.advertise,
        join=values.join,
        servers=values.servers,
        keys=read_keys(values.key_file),
        snapshots=Path(values.snapshots) if values.snapshots else None,
        seconds=values.snapshot_seconds,
        address_file=Path(values.address_file) if values.address_file else None,
        wait=values.wait_seconds,
        copies=values.copies,
        commit=values.commit,
        copies_listen=values.copies_listen,
        beat=values.beat_seconds,
        failover=values.failover_seconds,
        controller=parse_etcd(values.controller, values.controller_tls) if values.controller is not None else None,
    )
