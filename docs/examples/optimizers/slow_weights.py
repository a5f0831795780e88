"""M-FAC, SOAP and Lookahead on digits: plain optax transformations, alone and inside each other."""

# [loop]
import jax
import jax.numpy as jnp
import optax

from metalearn_models.optimizers import lookahead, slow_weights
from metalearn_models.optimizers.curvature import mfac, scale_by_soap
from metalearn_tasks.datasets import load


def loss_fn(params, x, y):
    """Mean cross-entropy of a network with one hidden layer."""
    hidden = jax.nn.relu(x @ params["first"] + params["bias"])
    return optax.softmax_cross_entropy_with_integer_labels(hidden @ params["second"], y).mean()


def train(tx, steps=150, batch=100):
    """Train a small network; returns its parameters, the state of the optimizer, and the loss on all examples."""
    inputs, labels = (jnp.asarray(x) for x in load("digits").train)
    draw = jax.random.normal
    params = {"first": draw(jax.random.key(0), (64, 64)) / 8, "bias": jnp.zeros(64)}
    params["second"] = draw(jax.random.key(1), (64, 10)) / 8

    @jax.jit
    def run(params):
        def step(carry, key):
            params, state = carry
            rows = jax.random.randint(key, (batch,), 0, len(inputs))
            updates, state = tx.update(jax.grad(loss_fn)(params, inputs[rows], labels[rows]), state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(2), steps)
        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
        return params, state, loss_fn(params, inputs, labels)

    return run(params)


# [compare]
def main(steps=150):
    """Four optimizers, each with one setting; the slow weights of the last one are returned too."""
    contenders = {
        "sgd": optax.sgd(0.1, momentum=0.9),
        # A window of 32 gradients of the two kernels; the bias is left out and takes a gradient step.
        "mfac": mfac(0.1, window=32, damping=0.1, max_norm=10.0, include=lambda path, x: x.ndim > 1),
        "soap": optax.chain(scale_by_soap(), optax.scale_by_learning_rate(1e-2)),
    }
    contenders["lookahead(mfac)"] = lookahead(contenders["mfac"], sync_period=5, slow_step_size=0.5)
    final = {}
    for name, tx in contenders.items():
        params, state, loss = train(tx, steps)
        final[name] = float(loss)
        print(f"{name:<16} {loss:.4f}")
    tested = slow_weights(state, params)  # the state of Lookahead, the last one
    return final, tested


# [end]
if __name__ == "__main__":
    main()
