"""What the tests of the benchmarks share: rates that take no time, no processes, figures."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks import encoders, measuring


def tick_labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The rate of memory, measured in no time."""
    monkeypatch.setattr(measuring, "READ", 2**12)


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, by the name of its file."""
    found, save = {}, Figure.savefig

    def note(figure, path, **options):
        found[Path(path).name] = figure
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", note)
    return found


@pytest.fixture
def in_this_process(monkeypatch):
    """The sides of training and inference work here, where a test has replaced something."""

    @contextmanager
    def workers(builds, threads, device):
        yield [measuring.LocalWorker(build(), device) for build in builds.values()]

    monkeypatch.setattr(encoders, "in_processes", workers)
