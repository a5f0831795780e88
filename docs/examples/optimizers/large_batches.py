"""Training on many devices that send little: data parallelism with compressed gradients, and with local steps.

Every way to train is an optax transformation on each device. What it sends is counted in the compiled program.
`XLA_FLAGS=--xla_force_host_platform_device_count=8` makes eight devices of one CPU, to try it.
"""

# [loop]
import jax
import jax.numpy as jnp
import optax

from metalearn.costs import program_messages
from metalearn_models.optimizers import distributed as dist
from metalearn_models.optimizers.schedules import linear_scaling_schedule
from metalearn_tasks.datasets import load

AXIS = "devices"


def loss(params, batch):
    """Mean cross-entropy of a network with one hidden layer."""
    x, y = batch
    logits = jax.nn.relu(x @ params["hidden"]) @ params["head"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def train(optimizer, steps, batch, hidden=64, seed=0):
    """Train on digits, each batch split over all devices; returns the test accuracy and the bytes sent per step."""
    digits = load("digits")
    key_hidden, key_head, key_batches = jax.random.split(jax.random.key(seed), 3)
    params = {
        "hidden": jax.random.normal(key_hidden, (64, hidden)) / 8.0,
        "head": jax.random.normal(key_head, (hidden, 10)) / hidden**0.5,
    }
    mesh = jax.make_mesh((jax.device_count(),), (AXIS,))
    init, step, read_params = dist.data_parallel(loss, optimizer, mesh)
    state = init(params)
    x, y = jnp.asarray(digits.train.inputs), jnp.asarray(digits.train.labels)
    rows = jax.random.randint(key_batches, (steps, batch), 0, len(y))
    sent = program_messages(step, state, (x[rows[0]], y[rows[0]])).sent
    for row in rows:
        state, _ = step(state, (x[row], y[row]))
    params = read_params(state)
    logits = jax.nn.relu(digits.test.inputs @ params["hidden"]) @ params["head"]
    return float((logits.argmax(1) == digits.test.labels).mean()), sent


# [compare]
def main(steps=200, batch=256):
    """Uncompressed, compressed and local training, with one schedule of a rate that was tuned for batches of 32."""
    rate = linear_scaling_schedule(0.02, base_batch=32, batch=batch, warmup_steps=steps // 10, total_steps=steps)
    sgd = optax.sgd(rate, momentum=0.9)
    ways = {
        "all-reduce": optax.chain(dist.all_reduce(AXIS), sgd),
        "largest 5 %": optax.chain(dist.compressed_all_reduce(dist.top_k(0.05), AXIS), sgd),
        "8 bits": optax.chain(dist.compressed_all_reduce(dist.in_two_stages(dist.eight_bit()), AXIS), sgd),
        "rank 2": optax.chain(dist.compressed_all_reduce(dist.low_rank(2), AXIS), sgd),
        "DiLoCo": dist.diloco(optax.sgd(0.02, momentum=0.9), period=10, axis=AXIS),  # sends at every tenth step only
    }
    found = {}
    for name, optimizer in ways.items():
        accuracy, sent = train(optimizer, steps, batch)
        found[name] = accuracy
        print(f"{name:>12}: accuracy {accuracy:.3f}, {sent:,.0f} bytes per device and step that exchanges")
    return found


# [end]
if __name__ == "__main__":
    main()
