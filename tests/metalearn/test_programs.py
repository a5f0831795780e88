import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from metalearn.cli.main import main
from metalearn.errors import RunError
from metalearn.programs import cache_folder, keep_programs, request_cache
from metalearn.sweeps.workers import keep_compiled

SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


def folder_of_jax():
    return getattr(jax.config, SETTINGS[0])  # pyright does not know the settings


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The user's folder of caches is a fresh one, and what JAX is told is forgotten afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "caches"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders of caches")
def test_a_second_process_finds_what_the_first_compiled(own_cache):
    code = (
        "import os; from metalearn.programs import request_cache; assert request_cache(os.environ) is None\n"
        "import jax, jax.numpy as jnp, logging\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)\n"
        "jax.config.update('jax_explain_cache_misses', True)\n"
        "print(float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.arange(3.0))))\n"
    )
    unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}

    def run() -> tuple[str, set[str]]:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout, {path.name for path in cache_folder().glob("*-cache")}

    first, kept = run()
    assert kept and cache_folder().is_relative_to(own_cache)
    assert run() == (first, kept)


def test_programs_of_this_process_are_kept_and_the_oldest_make_room(own_cache):
    folder = keep_programs()
    assert folder == cache_folder() and folder_of_jax() == str(folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    jax.jit(lambda x: jnp.cos(x) * 3)(1.0)
    assert list(folder.glob("*-cache"))
    for path in folder.glob("*-cache"):
        path.unlink()
    for age, name in enumerate(["newest", "middle", "oldest"]):
        path = folder / f"{name}-cache"
        path.write_bytes(b"x" * 100)
        os.utime(path, (time.time() - age * 1e4,) * 2)
    (folder / "of-someone-else").write_bytes(b"x" * 1_000)
    keep_programs(folder, limit=250)
    assert sorted(path.name for path in folder.iterdir()) == ["middle-cache", "newest-cache", "of-someone-else"]


def test_what_the_user_has_set_is_left_alone(own_cache):
    for name, value in (("JAX_COMPILATION_CACHE_DIR", "/of/mine"), ("JAX_ENABLE_COMPILATION_CACHE", "false")):
        environment = {name: value}
        assert request_cache(environment) is None and environment == {name: value}
    environment = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "5"}
    assert request_cache(environment) is None
    assert environment == {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "5",
        "JAX_COMPILATION_CACHE_DIR": str(cache_folder()),
    }


def test_a_sweep_takes_the_users_folder_before_its_own(own_cache, tmp_path):
    keep_compiled(tmp_path / "of the sweep")
    assert folder_of_jax() == str(tmp_path / "of the sweep")
    folder = keep_programs()
    keep_compiled(tmp_path / "of the sweep")
    assert folder_of_jax() == str(folder)


def test_a_sweep_keeps_no_programs_where_jax_is_told_to_keep_none(own_cache, tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        keep_compiled(tmp_path / "of the sweep")
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert folder_of_jax() is None and not (tmp_path / "of the sweep").exists()


def test_a_folder_that_cannot_be_made_is_a_warning_on_the_command_line(own_cache, monkeypatch, capsys):
    own_cache.write_text("a file where the folder should be")
    with pytest.raises(
        RunError, match=r"the folder of compiled programs cannot be used .*: set XDG_CACHE_HOME to a folder"
    ):
        keep_programs()
    environment: dict[str, str] = {}
    assert "compiled programs are not kept for the next time: the folder" in str(request_cache(environment))
    assert not environment
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("metalearn.cli.main._stop_at_second_signal", lambda: None)
    monkeypatch.setattr(sys, "argv", ["metalearn", "--version"])
    assert main() == 0
    out, err = capsys.readouterr()
    assert out.strip() and err.count("\n") == 1 and err.endswith("or use --no-cache\n")
    monkeypatch.setattr(sys, "argv", ["metalearn", "--no-cache", "--version"])
    assert main() == 0 and capsys.readouterr().err == ""
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert os.environ.pop("JAX_ENABLE_COMPILATION_CACHE") == "false"  # for the workers of a sweep
