"""What the tests of the benchmarks share: rates that take no time, and no processes."""

from contextlib import contextmanager

import pytest

from benchmarks import encoders, measuring


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The rate of memory, measured in no time."""
    monkeypatch.setattr(measuring, "READ", 2**12)


@pytest.fixture
def in_this_process(monkeypatch):
    """The sides of training and inference work here, where a test has replaced something."""

    @contextmanager
    def workers(builds, threads, device):
        yield [measuring.LocalWorker(build(), device) for build in builds.values()]

    monkeypatch.setattr(encoders, "in_processes", workers)
