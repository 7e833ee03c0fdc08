"""An etcd of the tests' own, in memory: it may be down, and may lose the answer to a change that it has made."""

from __future__ import annotations

from adam_mp.params.controller.etcd import NO_LEASES, EtcdError, Found


class SimulatedEtcd:
    """The keys of one run. `clock` returns seconds; `lose` says, for each change, whether its answer is lost."""

    def __init__(self, clock, lose=lambda: False):
        self.clock, self.lose, self.down = clock, lose, False
        self.keys, self.of_lease, self.leases, self.revision = {}, {}, {}, 0

    def _begin(self):
        now = self.clock()
        for lease, (ends, _) in list(self.leases.items()):
            if ends <= now and not self.down:
                self._drop(lease)
        if self.down:
            raise EtcdError("etcd does not answer: it is down")

    def _drop(self, lease):
        del self.leases[lease]
        for key in [key for key, its in self.of_lease.items() if its == lease]:
            del self.keys[key], self.of_lease[key]

    def _end(self):
        if self.lose():
            raise EtcdError("etcd does not answer: the answer is lost")

    def read(self, keys, seconds):
        self._begin()
        self._end()
        return {key: self.keys[key] for key in keys if key in self.keys}

    def swap(self, values, conditions, seconds, leases=NO_LEASES):
        self._begin()
        if any(self.keys.get(each.key, Found()).revision != each.revision for each in conditions):
            return 0
        self.revision += 1
        for key, value in values.items():
            self.keys[key] = Found(value, self.revision)
            self.of_lease.pop(key, None)
            if leases.get(key):
                self.of_lease[key] = leases[key]
        self._end()
        return self.revision

    def lease(self, ends_after, seconds):
        self._begin()
        self.revision += 1
        self.leases[self.revision] = (self.clock() + ends_after, ends_after)
        return self.revision

    def keep_alive(self, lease, seconds):
        self._begin()
        if lease not in self.leases:
            return False
        self.leases[lease] = (self.clock() + self.leases[lease][1], self.leases[lease][1])
        self._end()
        return True

    def end_lease(self, lease, seconds):
        if not self.down and lease in self.leases:
            self._drop(lease)

    def forget(self, conditions, seconds):
        self._begin()
        if any(self.keys.get(each.key, Found()).revision != each.revision for each in conditions):
            return 0
        self.keys.clear()
        self.of_lease.clear()
        return self.revision
