"""The coordinator's state in etcd: what its successor cannot learn from members that live.

Replicas tell a new coordinator which batches of the epoch they have trained. So the state need not be written for each
batch, only when the epoch or the members change: a replica that has gone tells nobody any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from adam_mp.params.controller.keeper import Keeper
from adam_mp.params.controller.record import Record
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.transport.refusal import RefusedError

_TOLD = ("trained", "failed", "departed")  # what members tell


class EtcdState:
    """A `StateFolder` in etcd. `outdated` is always true: what has changed is found here.

    `announced` returns the map epoch of the newest change of roles that the coordinator has told its user.
    """

    outdated = True

    def __init__(self, keeper: Keeper, announced: Callable[[], int]) -> None:
        self._keeper, self._announced = keeper, announced
        self._mark: dict[str, Any] = {}

    def note(self, facts: Mapping[str, Any]) -> bool:
        """Have the state written if the epoch or the members have changed."""
        state = {**facts["coordinator"], "map": None, "announced": self._announced()}  # the record has the map
        mark = {name: value for name, value in state.items() if name not in _TOLD}
        if mark != self._mark:
            self._mark, self._keeper.state = mark, state
        return True

    def write_now(self, facts: Mapping[str, Any]) -> bool:
        """See `StateFolder`; an elected coordinator's map is in the record, so nothing must be written at once."""
        return self.note(facts)


def make_coordinator(record: Record, state: Mapping[str, Any] | None) -> Coordinator:
    """Return a coordinator of the run of `record`, which goes on from `state` if there is one of that run."""
    fresh = Coordinator(record.run, record.servers, copies=record.copies, commit=record.commit).snapshot()
    stored = {"map": record.map.as_dict() if record.map is not None else None}
    if state is not None and state.get("run") == record.run:
        try:
            return Coordinator.restored({**fresh, **state, **stored})
        except RefusedError:
            pass  # written by another version: members tell what they know
    return Coordinator.restored({**fresh, **stored})


def announced_in(state: Mapping[str, Any] | None) -> int:
    """Return the map epoch of the newest change of roles that an earlier coordinator has told its user."""
    announced = state.get("announced", 0) if state is not None else 0
    return announced if isinstance(announced, int) else 0
