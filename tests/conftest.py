import os

import pytest

# Before torch is imported: results are compared bit by bit with those of one-thread workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """What is remembered between sweeps stays within the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
