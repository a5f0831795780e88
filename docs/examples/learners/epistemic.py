"""What does a network not know? Joint predictions of one network and of an epinet, on a task of the neural testbed."""

import jax
import jax.numpy as jnp

from metalearn.joint import draw_polyad, marginals
from metalearn_models.epistemic import Knowledge, joint, make_agent, train
from metalearn_tasks.families.testbed import TestbedConfig, draw_label, testbed

# [task]
family = testbed(TestbedConfig(inputs=2, length=20, temperatures=(0.1,)))
teacher = family.unseen((), 0)  # a random network that draws the labels
xs, ys = family.episode((), teacher, jax.random.key(0))
told = Knowledge(jnp.float32(len(ys)), teacher.temperature)


# [score]
def ask(log_prob, key):
    """Log-probability of ten labels at two new places: together, and each on its own."""
    key_places, key_labels, key_index = jax.random.split(key, 3)
    anchors = jax.random.normal(key_places, (2, 2))
    queries, labels = draw_polyad(key_labels, anchors, lambda k, x: draw_label(teacher, k, x), 10)
    asked = (key_index, xs[:0], ys[:0], queries, labels)  # agents do not read a context: they were trained on it
    return log_prob(*asked), marginals(log_prob)(*asked)


def main(steps=1000, polyads=100):
    """Train both agents, ask both, print and return the mean log-probabilities in nats."""
    found = {}
    for name in ("mlp", "epinet"):
        agent = make_agent(name, family.signature, steps=steps)
        params = jax.jit(lambda key, agent=agent: train(agent, xs, ys, told, key))(jax.random.key(1))
        log_prob = joint(agent, params, indices=200)
        scored = jax.jit(jax.vmap(lambda key, log_prob=log_prob: ask(log_prob, key)))
        together, apart = scored(jax.random.split(jax.random.key(2), polyads))
        found[name] = float(together.mean()), float(apart.mean())
        print(f"{name:<7} ten labels together {found[name][0]:.2f}, each on its own {found[name][1]:.2f}")
    return found


# [end]

if __name__ == "__main__":
    main()
