"""What tests of experiments share: one store of compiled programs for all of them, also between pytest's workers."""

import os

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from metalearn.sweeps import workers


@pytest.fixture(scope="module")
def shared_programs(tmp_path_factory):
    """Sweeps keep their compiled programs in a store of the whole session; afterwards JAX is as it was.

    A store named by JAX_COMPILATION_CACHE_DIR is used as it is.
    """
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    base = tmp_path_factory.getbasetemp()
    if not before["jax_compilation_cache_dir"]:
        workers.keep_compiled((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled-experiments")
        compilation_cache.reset_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "keep_compiled", lambda folder: None)
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
