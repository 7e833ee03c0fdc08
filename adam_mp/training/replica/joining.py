"""Joining a run of many machines: what a replica and its coordinator agree on, and what its synchronizer is told."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adam_mp.compute.optimizer import CONSTANTS
from adam_mp.errors import AdamError
from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.ledger import TRAINED
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.store import ParameterStore
from adam_mp.params.replica.factors import FactorShape
from adam_mp.params.replica.protocols import LayerProtocol, choose_protocols, factor_tensors
from adam_mp.params.replica.synchronizer import SynchronizerSpec
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts
from adam_mp.params.run.membership import CoordinatorLink, new_identity
from adam_mp.params.run.statements import REPLICA, RunFacts
from adam_mp.training.crew.preparation import Shared
from adam_mp.training.crew.session import Exchanging
from adam_mp.training.plan.plan import RunPlan
from adam_mp.training.replica.leases import FailedIn, Leases, OwnLeases
from adam_mp.training.replica.shared_leases import SharedLeases
from adam_mp.transport.keys import Keys, read_keys
from adam_mp.transport.messages import Kind
from adam_mp.transport.places import parse_place
from adam_mp.transport.tcp import TcpDialer

_JOINING = 60.0  # seconds: servers and replicas may be started in any order
_TELLING = 1.0
# Settings in which the replicas of a run must agree, beside those of its epochs; they decide what an update means.
_AGREED = ("optimizer", "lr", *CONSTANTS, "seed", "validation")


@dataclasses.dataclass
class Cluster:
    """A replica's place in a run of many: its line to the coordinator, and the coordinator's first news."""

    dialer: TcpDialer
    link: CoordinatorLink
    facts: Mapping[str, Any]
    news: dict[str, Any]
    keys: Keys | None
    protocols: tuple[LayerProtocol, ...]
    factors: FactorShape | None

    @property
    def map(self) -> BucketMap:
        """The servers, as they were when the replica joined."""
        return BucketMap.from_dict(self.news["map"])

    def close(self) -> None:
        """Hang up."""
        self.dialer.close()


def join_cluster(plan: RunPlan, stop: Callable[[], bool], say: Callable[[str], None]) -> Cluster:
    """Join the run that `plan.settings.join` names, waiting for its servers; `say` is told which are missing.

    Raises TransportError or SettingsError.
    """
    settings = plan.settings
    assert settings.join is not None
    keys = read_keys(settings.key_file)
    dialer = TcpDialer(keys)
    try:
        link = CoordinatorLink(dialer, parse_place(settings.join, "--join"), new_identity())
        facts = {"role": REPLICA, "name": replica_name(os.getpid()), "facts": run_facts(plan).as_dict(), "epoch": 0}
        trained, failed = [], []
        if plan.resumed is not None:  # it tells of its checkpoint: the epoch, and what of it is trained
            facts.update(epoch=plan.resumed.epoch, updates=plan.resumed.updates)
            trained = np.flatnonzero(plan.resumed.ledger == TRAINED).tolist()
            failed = plan.resumed.progress.get("part_failed", [])
        news = link.join({**facts, "trained": trained, "failed": failed}, _JOINING, stop, say)
    except BaseException:
        dialer.close()
        raise
    protocols = plan_protocols(plan, len(news["map"]["servers"]))
    return Cluster(dialer, link, facts, news, keys, protocols, plan_factors(plan, protocols))


def plan_protocols(plan: RunPlan, servers: int) -> tuple[LayerProtocol, ...]:
    """Choose how each layer's updates reach the servers; raises SettingsError."""
    settings = plan.settings
    return choose_protocols(
        plan.network, settings.exchange_images, servers, settings.protocol, plan.optimizer.is_plain_descent,
        4 if settings.wire == "float32" else 2,
    )  # fmt: skip


def plan_factors(plan: RunPlan, protocols: tuple[LayerProtocol, ...]) -> FactorShape | None:
    """Return the layers whose updates go as activations and errors, None where there are none."""
    tensors = factor_tensors(plan.layout, protocols)
    return FactorShape.of(plan.layout, tensors, plan.settings.batch_size) if tensors else None


def replica_figures(
    exchange: ExchangeMemory, store: ParameterStore, memory: RunMemory, totals: Mapping[str, float], brought: int
) -> dict[str, Any]:
    """Return what `status` shows of this replica.

    `totals` are the sums of its processes' counters; `brought` of the store's updates came with its checkpoint.
    """
    words = exchange.statistics()
    return {
        "updates": store.read_updates() - brought,
        "workers": memory.shape.workers,
        "trained_here": int(totals["images"]),
        "rounds": words.rounds,
        "bytes_out": words.pushed_bytes,
        "bytes_in": words.pulled_bytes,
        "staleness": round(words.staleness / max(words.pulls, 1), 2),
        "round_ms": round(words.round_ns / 1e6 / max(words.rounds, 1), 2),
        "resent": words.resent,
        "queue": sum(ring.statistics().waiting for ring in memory.rings),
    }


def exchanging_of(plan: RunPlan, cluster: Cluster) -> Exchanging:
    """Return what a replica's session has for the exchange."""
    servers = cluster.map
    return Exchanging(
        len(servers.servers), cluster.factors,
        lambda shared: synchronizer_spec(plan, cluster, servers.as_dict(), shared),
    )  # fmt: skip


def lease_batches(
    plan: RunPlan, cluster: Cluster | None, shared: Shared, totals: Callable[[], Mapping[str, float]],
    failed_in: FailedIn,
) -> Leases:  # fmt: skip
    """Return whose batches this machine trains: its own, or what the coordinator leases to it.

    `totals` returns the sums of its processes' counters; `failed_in` finds images that could not be had.
    """
    settings, exchange, memory, store = plan.settings, shared.exchange, shared.memory, shared.store
    if cluster is None or exchange is None:
        part: dict[int, int] = dict(plan.resumed.progress.get("part_failed", [])) if plan.resumed is not None else {}
        images = len(plan.data.training)
        return OwnLeases(memory, settings.batch_size, images, settings.quorum, failed_in, part)
    brought = store.read_updates()
    return SharedLeases(
        memory, store, exchange, cluster.link, cluster.facts, cluster.news, settings.stall_seconds,
        lambda: replica_figures(exchange, store, memory, totals(), brought), brought,
        failed_in,
    )  # fmt: skip


def replica_name(process: int) -> str:
    """Return the name by which `status` shows a replica of this machine."""
    return f"replica {socket.gethostname()}-{process}"


def say_dead(link: CoordinatorLink, process: int) -> None:
    """Tell the coordinator that a replica of this machine died; what it had leased is free then. It may go unheard.

    `link` is a member's, to a coordinator on this machine. The question who that replica was has a line of its own: a
    report may be on its way on `link`.
    """
    dialer = TcpDialer(None)
    try:
        state = CoordinatorLink(dialer, link.address, new_identity()).ask(Kind.STATUS, {}, _TELLING)
        for member in (*state["members"], *state["missing"]):
            if member["name"] == replica_name(process):
                link.leave(_TELLING, member["identity"])
    except AdamError:
        pass  # the coordinator is away too, or what leads to it: it finds out by itself
    finally:
        dialer.close()


def run_facts(plan: RunPlan) -> RunFacts:
    """Return what all replicas must agree on."""
    settings = plan.settings
    agreed = {name: getattr(settings, name) for name in _AGREED}
    agreed["data"] = plan.data.dataset.digest
    agreed["augment"] = str(plan.data.augmentation)
    return RunFacts(
        LayoutFacts.of(plan.layout),
        len(plan.data.training),
        settings.batch_size,
        settings.epochs,
        settings.quorum,
        agreed,
    )


def synchronizer_spec(plan: RunPlan, cluster: Cluster, servers: Mapping[str, Any], shared: Shared) -> SynchronizerSpec:
    """Return what the synchronizer is told; `servers` is the bucket map as plain values."""
    assert shared.exchange is not None
    settings = plan.settings
    return SynchronizerSpec(
        process=plan.split.workers + plan.split.data_servers,
        memory=shared.memory.handle,
        store=shared.store.handle,
        exchange=shared.exchange.handle,
        servers=servers,
        keys=cluster.keys,
        run=cluster.link.run,
        identity=cluster.link.identity,
        batch_size=settings.batch_size,
        images=settings.exchange_images,
        wire=settings.wire,
        factors=cluster.factors,
        outboxes=shared.channels,
        patience=settings.stall_seconds,
    )
