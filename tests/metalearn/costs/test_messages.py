"""Bytes on the wire: formulas for every collective, on eight devices and in text as XLA writes it."""

import json

import pytest

from metalearn.costs.messages import Messages, read_messages

SCRIPT = """
import json
import jax, jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P
from metalearn.costs import program_messages

mesh = jax.make_mesh((8,), ("d",), (AxisType.Auto,))
pairs = jax.make_mesh((4, 2), ("x", "y"), (AxisType.Auto,) * 2)

def messages(function, *args, mesh=mesh, out=P(), spec=P("d")):
    return program_messages(jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=out, check_vma=False), *args)

x = jnp.zeros((8, 16), jnp.float32)
print(json.dumps({
    "all_reduce": messages(lambda x: lax.psum(x, "d"), x),
    "all_gather": messages(lambda x: lax.all_gather(x, "d"), x.astype(jnp.int8)),
    "reduce_scatter": messages(lambda x: lax.psum_scatter(x[0], "d", tiled=True), x, out=P("d")),
    "all_to_all": messages(lambda x: lax.all_to_all(x[0].reshape(8, 2), "d", 0, 0), x, out=P("d")),
    "permute": messages(lambda x: lax.ppermute(x, "d", [(i, (i + 1) % 8) for i in range(8)]), x, out=P("d")),
    "groups": messages(lambda x: lax.psum(x, "y"), x, mesh=pairs, spec=P("x", "y"), out=P("x")),
    "loop": messages(lambda x: lax.fori_loop(0, 5, lambda i, x: lax.pmean(x, "d") * 1.5, x), x),
    "branches": messages(lambda x: lax.cond(x[0, 0] > 0, lambda x: lax.psum(x, "d"), lambda x: x, x), x, out=P("d")),
    "one": program_messages(lambda x: x.sum(), x),
}))
"""


def test_each_collective_counts_what_a_ring_sends(on_eight_devices):
    """A device's own part is 16 floats, 64 bytes; of the groups of two, 8 floats of 2 rows."""
    found = {name: Messages(*parts) for name, parts in json.loads(on_eight_devices(SCRIPT)).items()}
    assert found == {
        "all_reduce": Messages(2 * 7 / 8 * 64, 64, 1),
        "all_gather": Messages(7 * 16, 16, 1),
        "reduce_scatter": Messages(7 * 8, 64, 1),
        "all_to_all": Messages(7 / 8 * 64, 64, 1),
        "permute": Messages(64, 64, 1),
        "groups": Messages(2 * 1 / 2 * 64, 64, 1),
        "loop": Messages(5 * 2 * 7 / 8 * 64, 5 * 64, 5),
        "branches": Messages(2 * 7 / 8 * 64, 64, 1),
        "one": Messages(0, 0, 0),
    }


ASYNCHRONOUS = """HloModule m, replica_count=2, num_partitions=4

ENTRY %main (p: f32[16]) -> f32[128] {
  %p = f32[16]{0} parameter(0)
  %s = (f32[16]{0}, f32[128]{0}) all-gather-start(f32[16]{0} %p), replica_groups=[1,8]<=[8], dimensions={0}
  %r = (bf16[4]{0}, s32[]) all-reduce-start(%a, %b), to_apply=%add
  ROOT %d = f32[128]{0} all-gather-done(%s)
}
"""


def test_asynchronous_collectives_count_once_and_groups_are_all_devices_by_default():
    assert read_messages(ASYNCHRONOUS) == Messages(7 * 64 + 2 * 7 / 8 * 12, 64 + 12, 2)


def test_groups_are_read_in_every_form():
    """As jax 0.12 writes those of a mesh, and as lists and as iota."""
    forms = {"mesh['x'=4,'y'=2] {'y'}": 2, "mesh['x'=4,'y'=2] {'x','y'}": 8, "mesh['x'=4,'y'=2] {'x':(1)2,'y'}": 4,
             "{{0,2,4,6},{1,3,5,7}}": 4, "[4,2]<=[8]": 2, "{}": 8}  # fmt: skip
    for form, size in forms.items():
        text = ASYNCHRONOUS.replace("to_apply=%add", f"replica_groups={form}, to_apply=%add")
        sent = read_messages(text).sent - 7 * 64
        assert sent == pytest.approx(2 * (size - 1) / size * 12)


def test_a_loop_with_messages_that_runs_until_something_happens_is_refused():
    text = """HloModule m, num_partitions=4

%body (p: f32[4]) -> f32[4] {
  %r = f32[4]{0} all-reduce(%p), to_apply=%add
}

ENTRY %main (p: f32[4]) -> f32[4] {
  ROOT %w = f32[4]{0} while(%p), condition=%c, body=%body
}
"""
    with pytest.raises(ValueError, match="a loop of the program sends messages, and runs an unknown number of times"):
        read_messages(text)
    assert read_messages(text.replace("all-reduce", "add")) == Messages(0, 0, 0)
