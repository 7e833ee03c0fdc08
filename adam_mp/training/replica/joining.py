"""Joining a run of many machines: what a replica tells the coordinator, and what its own processes are told then."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adam_mp.compute.optimizer import CONSTANTS
from adam_mp.compute.shares import of_own_rate
from adam_mp.errors import AdamError, TransportError
from adam_mp.memory.ledger import TRAINED
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.store import ParameterStore
from adam_mp.network.tables import table_of
from adam_mp.params.replica.factors import FactorShape
from adam_mp.params.replica.protocols import LayerProtocol, choose_protocols, factor_tensors
from adam_mp.params.replica.synchronizer import SynchronizerSpec
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts
from adam_mp.params.run.membership import CoordinatorLink, new_identity
from adam_mp.params.run.news import News
from adam_mp.params.run.run_facts import RunFacts
from adam_mp.params.run.statements import REPLICA, Joining
from adam_mp.partitions.spaces import level
from adam_mp.training.crew.preparation import Shared
from adam_mp.training.crew.session import Exchanging
from adam_mp.training.folder.figures import Waits
from adam_mp.training.plan.run_plan import RunPlan
from adam_mp.training.replica.leases import FailedIn, Leases
from adam_mp.training.replica.rounds import GroupRounds, OwnRounds, Rounds
from adam_mp.training.replica.shared_leases import SharedLeases
from adam_mp.transport.forms import write
from adam_mp.transport.keys import Keys, read_keys
from adam_mp.transport.messages import Kind
from adam_mp.transport.places import parse_place
from adam_mp.transport.zeromq import SocketDialer

_JOINING = 60.0  # seconds to wait for the run: parameter servers and replicas may be started in any order
_TELLING = 1.0  # seconds to wait for an answer when a replica has died
# Settings that must be the same in all replicas of a run, beside those in RunFacts: they decide what an update or a
# figure means.
_READING = ("ignore_orientation", "white")  # the same images become other pictures by them
_AGREED = (
    "optimizer", "lr", *CONSTANTS, "decay_all", "rates", "label_smoothing", "mixup", "cutmix", "clip_norm", "average",
    "views", "seed", "validation",
)  # fmt: skip


@dataclasses.dataclass
class Cluster:
    """A replica's place in a run of many machines: its line to the coordinator, and what the coordinator said first.

    `joining` is what the replica says of itself whenever it joins. `protocols` say how each layer's updates reach the
    parameter servers, `factors` names those that go as activations and errors, None if none do.
    """

    dialer: SocketDialer
    link: CoordinatorLink
    joining: Joining
    map: BucketMap  # the parameter servers at the time of joining
    news: News
    keys: Keys | None
    protocols: tuple[LayerProtocol, ...]
    factors: FactorShape | None

    def exchanging(self, plan: RunPlan) -> Exchanging:
        """Return what the session of this replica needs to exchange weights with the parameter servers."""
        return Exchanging(
            len(self.map.servers),
            self.map.has_replicas_keep,
            self.factors,
            lambda shared: synchronizer_spec(plan, self, shared),
        )

    def rounds(self, plan: RunPlan, shared: Shared) -> Rounds:
        """Return the rounds in which this replica exchanges its weights, on all of its machines."""
        assert shared.exchange is not None, "the session made it, since it got what `exchanging` returns"
        elsewhere, storage, weights = plan.elsewhere, plan.storage, shared.store.weights
        if elsewhere is None or storage is None:
            return OwnRounds(shared.exchange)
        return GroupRounds(
            shared.exchange, elsewhere, self.link.run, self.link.identity, lambda: level(storage, elsewhere, weights)
        )

    def lease_batches(
        self, plan: RunPlan, shared: Shared, totals: Callable[[], Mapping[str, float]], failed_in: FailedIn
    ) -> Leases:  # fmt: skip
        """Return the leases of this replica: of the batches that the coordinator leases to it.

        `totals` returns the sums of its processes' counters; `failed_in` finds images that could not be read.
        """
        rounds, memory, store = self.rounds(plan, shared), shared.memory, shared.store
        brought = store.read_updates()
        return SharedLeases(
            memory, store, rounds, self.link, write(self.joining), write(self.news), plan.settings.stall_seconds,
            lambda: replica_figures(rounds, store, memory, totals(), brought), brought, failed_in,
        )  # fmt: skip

    def close(self) -> None:
        """Close the line to the coordinator."""
        self.dialer.close()


def join_cluster(plan: RunPlan, stop: Callable[[], bool], say: Callable[[str], None]) -> Cluster:
    """Join the run at `plan.settings.join`; wait until its parameter servers are there, and tell `say` what is missing.

    Raises JoinError if the run refuses this replica, StoppedError when `stop` returns True, another TransportError
    after a minute, SettingsError for bad keys or protocols.
    """
    settings = plan.settings
    assert settings.join is not None
    keys = read_keys(settings.key_file)
    dialer = SocketDialer(keys)
    try:
        link = CoordinatorLink(dialer, parse_place(settings.join, "--join"), new_identity())
        joining = brought = Joining(REPLICA, replica_name(os.getpid()), facts=run_facts(plan))
        if plan.resumed is not None:  # also say what the checkpoint has: its epoch, and the trained batches of that
            joining = dataclasses.replace(joining, epoch=plan.resumed.epoch, updates=plan.resumed.updates)
            trained = np.flatnonzero(plan.resumed.ledger == TRAINED).tolist()
            failed = dict(plan.resumed.progress.get("part_failed", []))
            brought = dataclasses.replace(joining, trained=trained, failed=failed)
        news = link.join(write(brought), _JOINING, stop, say)
        if news.map is None:
            raise TransportError(f"{settings.join} has no bucket map; is it of another version?")
    except BaseException:
        dialer.close()
        raise
    protocols = plan_protocols(plan, len(news.map.groups))
    return Cluster(dialer, link, joining, news.map, news, keys, protocols, plan_factors(plan, protocols))


def plan_protocols(plan: RunPlan, groups: int) -> tuple[LayerProtocol, ...]:
    """Choose how each layer's updates reach the servers of so many bucket `groups`; raises SettingsError."""
    settings = plan.settings
    return choose_protocols(
        plan.network, settings.exchange_images, groups, settings.protocol, plan.optimizer.is_plain_descent,
        4 if settings.wire == "float32" else 2, of_own_rate(plan.shares),
    )  # fmt: skip


def plan_factors(plan: RunPlan, protocols: tuple[LayerProtocol, ...]) -> FactorShape | None:
    """Return the layers whose updates go to parameter servers as activations and errors, None if there are none.

    Partitions send deltas: none of them has all activations and errors of a layer.
    """
    if plan.partitions is not None:
        return None
    tensors = factor_tensors(plan.layout, protocols)
    return FactorShape.of(plan.layout, tensors, plan.settings.batch_size) if tensors else None


def replica_figures(
    rounds: Rounds, store: ParameterStore, memory: RunMemory, totals: Mapping[str, float], brought: int
) -> dict[str, Any]:
    """Return the statistics of this replica that `status` shows.

    `totals` are the sums of its processes' counters; `brought` of the updates that the store counts came with its
    checkpoint.
    """
    exchanged = rounds.statistics()
    return {
        "updates": store.read_updates() - brought,
        "workers": memory.shape.workers,
        "trained_here": int(totals["images"]),
        "rounds": exchanged.rounds,
        "bytes_out": exchanged.pushed_bytes,
        "bytes_in": exchanged.pulled_bytes,
        "staleness": round(exchanged.staleness / max(exchanged.pulls, 1), 2),
        "round_ms": round(exchanged.round_ns / 1e6 / max(exchanged.rounds, 1), 2),
        "resent": exchanged.resent,
        **{f"waited_for_{name}": round(share, 4) for name, share in dataclasses.asdict(Waits.of(totals)).items()},
        "queue": sum(ring.statistics().waiting for ring in memory.rings),
    }


def replica_name(process: int) -> str:
    """Return the name of a replica of this machine, whose supervisor has the process id `process`."""
    return f"replica {socket.gethostname()}-{process}"


def say_dead(link: CoordinatorLink, process: int) -> None:
    """Tell the coordinator that a replica of this machine died, so that its leases are free for others at once.

    If the coordinator does not answer, nothing happens: it will find out by the replica's silence. `link` is this
    process's own line to the coordinator. A second line asks for the dead replica's identity, because a report may be
    waiting for its answer on `link`.
    """
    dialer = SocketDialer(None)
    try:
        state = CoordinatorLink(dialer, link.address, new_identity()).ask(Kind.STATUS, {}, _TELLING)
        for member in (*state["members"], *state["missing"]):
            if member["name"] == replica_name(process):
                link.leave(_TELLING, member["identity"])
    except AdamError:
        pass  # the coordinator does not answer, and will find out by the replica's silence
    finally:
        dialer.close()


def run_facts(plan: RunPlan) -> RunFacts:
    """Return the facts of the run, in which all of its replicas must agree."""
    settings = plan.settings
    agreed = {name: getattr(settings, name) for name in _AGREED}
    agreed["data"] = plan.data.dataset.digest
    agreed["augment"] = str(plan.data.augmentation)
    layers = json.dumps([table_of(node) for node in plan.network.nodes])  # the layout has only those with weights
    agreed["digest of the layers"] = hashlib.sha256(layers.encode()).hexdigest()[:16]
    # Those of a user's choice alone: replicas of earlier versions say nothing of them.
    agreed |= {name: value for name in _READING if (value := getattr(settings, name))}
    if plan.partitions is not None:
        ways = ",".join(f"{name}={way}" for name, way in plan.partitions.ways.items())
        agreed |= {"partitions": plan.parts, "digest of the cut": hashlib.sha256(ways.encode()).hexdigest()[:16]}
    return RunFacts(
        LayoutFacts.of(plan.exchanged),
        len(plan.data.training),
        settings.batch_size,
        settings.epochs,
        settings.quorum,
        agreed,
    )


def synchronizer_spec(plan: RunPlan, cluster: Cluster, shared: Shared) -> SynchronizerSpec:
    """Return what the synchronizer is told. It finds the bucket map in shared memory."""
    assert shared.exchange is not None
    settings = plan.settings
    return SynchronizerSpec(
        process=plan.split.workers + plan.split.data_servers,
        memory=shared.memory.handle,
        store=shared.store.handle,
        exchange=shared.exchange.handle,
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
