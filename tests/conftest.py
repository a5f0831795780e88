"""Strictness for every test: no silent rank or dtype promotion. And speed: most of their time would be compilation."""

import os
import shutil
import tempfile

import jax
import jaxtyping
import pytest

from tests import type_checks
from tests.eight_devices import EightDevices
from tests.programs import FusedLoops, forget_programs

# Each call of a function of the packages is held to its annotations, shapes included. The hook must stand before the
# first import of a package.
type_checks.share_checks()
jaxtyping.install_import_hook(("metalearn", "metalearn_models", "metalearn_tasks"), "tests.type_checks.check")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Also for the processes that tests start, so that their bits can be compared.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

KEPT_SECONDS = 0.1
"""A program that took less time to compile is not kept for other processes."""


def pytest_configure(config: pytest.Config) -> None:
    """Let all processes of this session share what they compile, in a folder that lives as long as the session.

    A folder that JAX_COMPILATION_CACHE_DIR names is used as it is.
    """
    # Two processes may write a program at the same time. A third that reads it half written compiles it itself.
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry")
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # also in the workers of pytest-xdist
        return
    folder = tempfile.mkdtemp(prefix="metalearn-tests-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    # The environment is for the processes that are started from here on, the settings are for this one.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(KEPT_SECONDS)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_SECONDS)


@pytest.fixture(scope="session")
def fused_loops():
    """Which generator of fused loops compiles."""
    loops = FusedLoops()
    yield loops
    loops.choose(older=False)


@pytest.fixture(autouse=True, scope="module")
def _few_programs(request, fused_loops):
    """Programs are forgotten after a file of tests, once there are very many.

    They are compiled in the quicker way, but for those of files marked `newer_loops`.
    """
    fused_loops.choose(older=request.node.get_closest_marker("newer_loops") is None)
    yield
    forget_programs()


@pytest.fixture(autouse=True)
def _type_checks(request):
    """Annotations are not checked in tests marked `unchecked_types`: those read the errors that users get."""
    before = jaxtyping.config.jaxtyping_disable
    wrong = request.node.get_closest_marker("unchecked_types") is not None
    jaxtyping.config.update("jaxtyping_disable", before or wrong)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def on_eight_devices():
    """A function that runs a script in a process of eight virtual devices and returns what it prints."""
    process = EightDevices()
    yield process.run
    process.close()
