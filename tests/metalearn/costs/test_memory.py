"""Memory: exact for a program known by hand, predicted for larger batches than were compiled, and what is said."""

import dataclasses
import functools
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from metalearn.costs import memory
from metalearn.costs.memory import (
    Growth,
    available_bytes,
    bound_bytes,
    check_memory,
    format_bytes,
    growth,
    needed_bytes,
)
from metalearn.errors import MetalearnError, NotEnoughMemoryError
from metalearn.recipes.driving import compile_outer_loop, initial_state
from metalearn.recipes.in_context import fits
from metalearn.recipes.in_context.build import prepare
from metalearn.recipes.in_context.config import GradientConfig
from metalearn.recipes.in_context.fits import check_fits
from metalearn.recipes.in_context.presets import PRESETS
from metalearn_models.learners.lstm import LSTMConfig
from metalearn_models.learners.transformer import TransformerConfig

SMALL = dataclasses.replace(
    PRESETS["linear"][1], learner=TransformerConfig(32, 1, 2, 16, token="pair"), batch=512, steps_per_call=2
)
ES = dataclasses.replace(SMALL, learner=LSTMConfig(16), gradient=GradientConfig("nres", window=8, pairs=8))
ROWS = 1000


def shape(*axes):
    return jax.ShapeDtypeStruct(axes, jnp.float32)


def program(batch):
    """Sums of squares of a product that has to be held: [batch, ROWS] floats of scratch, as many arguments."""
    return jax.jit(lambda x, w: jnp.sort(x @ w).sum()), (shape(batch, ROWS), shape(ROWS, ROWS))


def test_arguments_and_results_count_and_what_is_donated_counts_once():
    add, x = (lambda x, y: x + y), shape(ROWS)
    assert needed_bytes(jax.jit(add), x, x) == 3 * 4 * ROWS
    assert needed_bytes(jax.jit(add, donate_argnums=0), x, x) == 2 * 4 * ROWS


@pytest.fixture
def cache(tmp_path):
    """A persistent compilation cache in `tmp_path`; returns what JAX has done with it, one name per event."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path / "programs"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before, events = {name: getattr(jax.config, name) for name in options}, []

    def listen(event, **_):
        events.append(event.rpartition("/")[2])

    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX holds on to the folder it used last
    jax.monitoring.register_event_listener(listen)
    yield events
    jax.monitoring.unregister_event_listener(listen)
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_a_program_from_the_persistent_cache_needs_what_it_needed_when_it_was_compiled(cache):
    # From two functions, so that only the persistent cache can know the program the second time.
    compiled, cached = (needed_bytes(step, *args) for step, args in map(program, (64, 64)))
    assert cache.count("cache_hits") == 1 and cached == compiled > 4 * ROWS**2


class WithoutStatistics:
    """A lowered function whose executables have statistics of memory only if they are compiled with options."""

    def __init__(self, lowered, plan):
        self.lowered, self.plan = lowered, plan

    def lower(self, *args):
        return self

    def compile(self, options=None):
        return self.lowered.compile(options) if options else Mock(memory_analysis=Mock(return_value=self.plan))


@pytest.mark.unchecked_types  # an executable that is none stands for one
@pytest.mark.parametrize("plan", [None, Mock(argument_size_in_bytes=0, output_size_in_bytes=0, temp_size_in_bytes=0)])
def test_a_program_whose_cached_executable_has_no_statistics_is_compiled_again(cache, plan):
    step, args = program(64)
    needed = needed_bytes(step, *args)
    cache.clear()
    assert needed_bytes(WithoutStatistics(step.lower(*args), plan)) == needed
    assert "cache_hits" not in cache and "cache_misses" not in cache
    again, args = program(64)
    assert needed_bytes(again, *args) == needed and cache.count("cache_hits") == 1  # the cache is on again


@pytest.mark.unchecked_types
def test_a_backend_without_statistics_says_so(cache):
    program_without = Mock(memory_analysis=Mock(side_effect=NotImplementedError))
    lowered = Mock(compile=Mock(return_value=program_without))
    with pytest.raises(NotImplementedError, match="the backend cpu does not report the memory of a program"):
        needed_bytes(Mock(lower=Mock(return_value=lowered)), 1)
    assert lowered.compile.call_count == 2  # with the cache, and without it


def test_scratch_counts():
    step, args = program(64)
    assert needed_bytes(step, *args) >= 4 * (2 * 64 * ROWS + ROWS**2)


def test_a_bound_counts_everything_that_is_made_and_bodies_of_loops_once():
    x, size = shape(ROWS), 4 * ROWS
    assert bound_bytes(lambda x, y: x * y + y, x, x) == 4 * size
    assert bound_bytes(lambda x: x + jnp.zeros(ROWS), x) == 3 * size
    looped = jax.jit(lambda x: jax.lax.scan(lambda carry, _: (2 * carry, carry[:10]), x, length=100))
    body = 2 * 4 + size + 4 * 10  # the bounds of the slice aside: 2 * carry and what is collected
    result = size + 4 * 10 * 100
    assert size + 2 * result + body - 16 <= bound_bytes(looped, x) <= size + 2 * result + body + 16
    assert bound_bytes(lambda k: jax.random.normal(k, (ROWS,)), jax.eval_shape(lambda: jax.random.key(0))) > size


@functools.cache
def step_of(config):
    """The outer step of a configuration, and the shapes of its arguments."""
    recipe = prepare(config)
    loop, _ = compile_outer_loop(recipe.training, config.steps)
    return loop.step, jax.eval_shape(lambda: initial_state(recipe.training, loop)), recipe.data


@functools.cache
def compiled_truth(config):
    return needed_bytes(*step_of(config))


@pytest.mark.parametrize("config", [SMALL, ES], ids=["backprop", "evolution strategies"])
def test_no_step_needs_more_than_its_bound(config):
    assert compiled_truth(config) <= bound_bytes(*step_of(config)) < 100 * compiled_truth(config)


def test_the_weights_to_begin_from_are_not_read_to_bound_a_step(monkeypatch, tmp_path):
    monkeypatch.setattr(fits, "available_bytes", lambda devices: 10**12)
    fits.check_largest({"x": dataclasses.replace(SMALL, start=str(tmp_path / "of no run"))}, 0)


@pytest.mark.parametrize("config, unit", [(SMALL, 1), (ES, 8)], ids=["backprop", "evolution strategies"])
def test_the_need_of_the_whole_batch_is_predicted_and_its_program_never_made(config, unit, monkeypatch):
    truth, made = compiled_truth(config), []
    real = memory.needed_bytes
    monkeypatch.setattr(memory, "needed_bytes", lambda *args: made.append(real(*args)) or made[-1])
    with pytest.raises(NotEnoughMemoryError, match=r"512 tasks needs .* MB, .* MB are free: at most \d+") as caught:
        check_fits(config, available=truth // 2)
    error = caught.value
    assert error.needed == pytest.approx(truth, rel=0.1) and error.available == truth // 2
    assert max(made[:2]) < truth / 10 and len(made) == 3  # the probes, and the proposed batch
    assert f"(--batch {error.largest}), or shorter sequences" in str(error)
    assert error.largest % unit == 0
    fitting = compiled_truth(dataclasses.replace(config, batch=error.largest))
    assert 0.85 * error.available < fitting == made[2] <= error.available
    assert isinstance(error, MetalearnError) and isinstance(error, MemoryError)


def test_nothing_fits_where_nothing_does():
    with pytest.raises(NotEnoughMemoryError, match="not even 4 would fit: buy more") as caught:
        check_memory(program, 100, 1000, unit=4, advice=lambda largest: "" if largest else ": buy more")
    assert caught.value.largest == 0


@pytest.fixture
def compiled(monkeypatch):
    """Programs that need 100 bytes per task, and 110 from 129 tasks on; returns the batches that were compiled."""
    batches = []

    def needed(batch):
        batches.append(batch)
        return batch * (100 if batch <= 128 else 110)

    monkeypatch.setattr(memory, "needed_bytes", needed)
    return batches


@pytest.mark.parametrize("available", [12_800, 13_000, 13_700, 14_100, 20_000, 24_000])
def test_a_proposed_batch_fits_where_programs_need_more_than_the_line_says(compiled, available):
    with pytest.raises(NotEnoughMemoryError) as caught:
        check_memory(lambda batch: (batch, ()), 512, available, unit=4)
    largest = caught.value.largest
    assert largest % 4 == 0 and 0.85 * available < largest * (100 if largest <= 128 else 110) <= available
    assert compiled[:2] == [8, 16] and compiled[-1] == largest and 512 not in compiled


def test_a_batch_near_the_limit_is_compiled_before_it_is_let_through(compiled):
    assert check_memory(lambda batch: (batch, ()), 200, 22_000) == 20_000  # far below: predicted
    assert compiled == [8, 16]
    assert check_memory(lambda batch: (batch, ()), 120, 12_000) == 12_000
    with pytest.raises(NotEnoughMemoryError, match=r"needs 22\.0 kB, 21\.0 kB are free"):
        check_memory(lambda batch: (batch, ()), 200, 21_000)


def test_the_line():
    line = Growth(fixed=100.0, each=7.0)
    assert line.needed(10) == 170
    assert [line.largest(available) for available in (99, 106, 107, 170, 171)] == [0, 0, 1, 10, 10]
    assert line.largest(170, unit=4) == 8
    found = growth(program)
    assert found.each >= 8 * ROWS and found.fixed >= 4 * ROWS**2
    step, args = program(100)
    assert found.needed(100) == pytest.approx(needed_bytes(step, *args), rel=1e-3)


def test_a_batch_as_small_as_a_probe_is_compiled_itself():
    compiled = []

    def watched(batch):
        compiled.append(batch)
        return program(batch)

    assert check_memory(watched, 3) == needed_bytes(program(3)[0], *program(3)[1])
    assert compiled == [3]


def test_what_fits_is_let_through_and_so_is_what_nobody_knows(monkeypatch):
    assert check_memory(program, 100) == growth(program).needed(100)
    monkeypatch.setattr(memory, "available_bytes", lambda devices=1: None)
    assert check_memory(program, 10**12) is None


class Device:
    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_what_is_free(monkeypatch):
    whole, half = available_bytes(), available_bytes(2)
    assert whole is not None and half is not None
    assert 10**7 < half < whole < 10**14
    devices = [Device({"bytes_limit": 100, "bytes_in_use": used}) for used in (30, 60, 90)]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert available_bytes() == 70 and available_bytes(2) == 40


def test_memory_of_the_host(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  900 kB\nMemAvailable:   500 kB\nHugePages_Total:       0\n")
    assert memory._host_bytes(meminfo, tmp_path) == 500 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 900\ninactive_file 2000\n")
    assert memory._host_bytes(meminfo, tmp_path) == 500 * 1024
    (tmp_path / "memory.max").write_text("50000\n")
    assert memory._host_bytes(meminfo, tmp_path) == 50000 - 3000 + 2000
    elsewhere = memory._host_bytes(tmp_path / "nothing", tmp_path / "nothing")
    assert elsewhere is None or elsewhere > 10**8


def test_a_device_of_a_mesh_needs_its_share(on_eight_devices):
    script = """
import dataclasses, jax
from metalearn.recipes.in_context.fits import check_fits
from metalearn.recipes.driving import compile_outer_loop, initial_state
from metalearn.recipes.in_context.build import prepare
from metalearn.costs.memory import needed_bytes
from tests.metalearn.costs.test_memory import ES
config = dataclasses.replace(ES, batch=16)
recipe = prepare(config)
loop, _ = compile_outer_loop(recipe.training, config.steps)
state = initial_state(recipe.training, loop)
print(check_fits(config, available=10**15), needed_bytes(loop.step, state, recipe.data))
"""
    predicted, truth = map(int, on_eight_devices(script).split())
    assert predicted == truth


def test_sizes_in_words():
    assert [format_bytes(n) for n in (12, 1500, 31.2e9, 2e15)] == ["12 bytes", "1.5 kB", "31.2 GB", "2000.0 TB"]
