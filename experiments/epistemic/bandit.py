"""A bandit that asks whether joint predictions beat marginal ones: Thompson sampling with an epistemic network.

Osband et al. 2021 (arXiv 2107.08924); the bandit is that of the neural testbed. Actions are standard normal inputs, and
a teacher of the testbed gives each the probability of its reward. After every reward the agent's network takes some
training steps on all rewards so far. Three rules choose the action, by one and the same agent:

- joint: one index is drawn, and the action that is best under it is taken (Thompson sampling). Actions that the agent
  has doubts about together are tried together.
- marginal: an index is drawn for each action on its own. Every action's reward has the same distribution as above, and
  all that the joint distribution adds is lost.
- greedy: the action with the largest mean reward.

Beside them stands greedy choice by a single network. The score is the regret, the sum of the differences between the
largest probability of reward and that of the action taken.

The rule, written before the first run: "reproduced" if the 95 % interval over seeds of the regret of "marginal" minus
that of "joint" lies above 0, and the mean regret of "joint" is below that of "greedy" and of the single network. "not
reproduced": the interval lies below 0, or both greedy choices have less mean regret than "joint". "open": otherwise.

    python -m experiments epistemic_bandit            # 50 actions, 300 rewards, 16 seeds
    python -m experiments epistemic_bandit standard   # 100 actions, 1,000 rewards, 40 seeds
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from experiments.suite.cells import remember, settings_of
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate
from metalearn.intervals import mean_interval
from metalearn.learner import Signature
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.epistemic import Agent, Examples, Knowledge, Params, make_agent
from metalearn_tasks.families.testbed import draw_teacher, teacher_logits

SCORE = "regret"
RULES = {"joint": "epinet", "marginal": "epinet", "greedy": "epinet", "single network, greedy": "mlp"}
BATCH = 100
"""The most rewards per training step, as everywhere in the testbed."""


@dataclass(frozen=True)
class BanditConfig:
    """Choose actions by an epinet's joint and marginal predictions."""

    actions: int = 50
    """Actions per bandit."""
    inputs: int = 10
    """D, the width of an action."""
    rewards: int = 300
    """Actions that are taken."""
    steps: int = 5
    """Training steps per reward."""
    temperature: float = 0.1
    """Of the teacher."""
    indices: int = 64
    """Indices of a mean, for greedy choices."""
    seeds: int = 16
    """Bandits."""
    out: Path = Path("runs/epistemic_bandit")
    """Folder of the table and the picture."""


PRESETS = {"quick": BanditConfig(), "standard": BanditConfig(actions=100, rewards=1000, seeds=40)}


def choose(
    rule: str, agent: Agent, params: Params, actions: Float[Array, "A D"], key: PRNGKeyArray, indices: int
) -> Int[Array, ""]:
    """The action that a rule takes.

    Args:
        rule: "joint", "marginal", or one that ends in "greedy".
        agent: an agent of two classes, of which the second is the reward.
        params: its parameters.
        actions: inputs.
        key: draws indices.
        indices: of the mean of greedy choices.
    """

    def probability(z: Any) -> Float[Array, "A"]:
        return jax.nn.softmax(agent.apply(params, actions, z))[:, 1]

    if rule == "joint":
        drawn = jax.tree.map(lambda leaf: leaf[0], agent.draw(key, 1))
        return jnp.argmax(probability(drawn))
    if rule == "marginal":
        each = jax.vmap(probability)(agent.draw(key, len(actions)))  # [indices, actions]
        return jnp.argmax(jnp.diagonal(each))
    return jnp.argmax(jax.vmap(probability)(agent.draw(key, indices)).mean(0))


def play(config: BanditConfig, rule: str, agent: Agent, seed: Array) -> Float[Array, "rewards"]:
    """The regret of each action that is taken in one bandit; bandits of one seed are the same for all rules."""
    key = jax.random.fold_in(jax.random.key(11), seed)
    key_actions, key_teacher, key_agent, key_run = jax.random.split(key, 4)
    actions = jax.random.normal(key_actions, (config.actions, config.inputs))
    teacher = draw_teacher(key_teacher, config.inputs, 2, config.temperature)
    truth = jax.nn.softmax(teacher_logits(teacher, actions))[:, 1]
    first = Knowledge(jnp.float32(1), jnp.float32(config.temperature))
    start, tx = agent.init(key_agent, first), agent.optimizer(first, key_agent)

    def body(state: tuple[Any, Any, Array, Array], t: Array) -> tuple[tuple[Any, Any, Array, Array], Array]:
        learned, memory, taken, rewards = state
        key_choice, key_reward, key_train = jax.random.split(jax.random.fold_in(key_run, t), 3)
        action = choose(rule, agent, Params(learned, start.fixed), actions, key_choice, config.indices)
        reward = jax.random.bernoulli(key_reward, truth[action]).astype(jnp.int32)
        taken, rewards = taken.at[t].set(action), rewards.at[t].set(reward)
        knowledge = Knowledge((t + 1).astype(jnp.float32), jnp.float32(config.temperature))

        def step(carry: tuple[Any, Any], i: Array) -> tuple[tuple[Any, Any], None]:
            learned, memory = carry
            key_batch, key_loss = jax.random.split(jax.random.fold_in(key_train, i))
            rows = jax.random.randint(key_batch, (min(BATCH, config.rewards),), 0, t + 1)
            weights = jnp.ones(len(rows))

            def loss(learned: Any) -> Array:
                given = Params(learned, start.fixed)
                return agent.loss(given, Examples(actions[taken[rows]], rewards[rows], weights), knowledge, key_loss)

            updates, memory = tx.update(jax.grad(loss)(learned), memory, learned)
            return (optax.apply_updates(learned, updates), memory), None

        (learned, memory), _ = jax.lax.scan(step, (learned, memory), jnp.arange(config.steps))
        return (learned, memory, taken, rewards), truth.max() - truth[action]

    empty = jnp.zeros(config.rewards, jnp.int32)
    state = (start.learned, tx.init(start.learned), empty, empty)
    return jax.lax.scan(body, state, jnp.arange(config.rewards))[1]


def run(config: BanditConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Play all bandits by all rules, summarise and draw.

    Raises:
        ValueError: a number is out of its range.
    """
    if min(config.inputs, config.rewards, config.steps) < 1 or min(config.actions, config.seeds, config.indices) < 2:
        raise ValueError(
            "--inputs, --rewards and --steps must be at least 1, and --actions, --seeds and --indices "
            f"at least 2; got {config.inputs}, {config.rewards}, {config.steps}, {config.actions}, {config.seeds} and "
            f"{config.indices}"
        )
    if config.temperature <= 0:
        raise ValueError(f"--temperature must be positive, got {config.temperature}")
    start, regrets = time.monotonic(), {}
    for rule, name in RULES.items():

        def compute(rule: str = rule, name: str = name) -> Any:
            agent = make_agent(name, Signature(config.inputs, 2, 1))
            played = jax.jit(jax.vmap(lambda seed: play(config, rule, agent, seed)))
            return np.asarray(played(jnp.arange(config.seeds))).tolist()

        found = remember(config.out, rule.replace(", ", "-").replace(" ", "-"), settings_of(config), compute)
        regrets[rule] = np.array(found, np.float64)
        if progress is not None:
            progress.note(f"{rule}: regret {regrets[rule].sum(1).mean():.1f}")
    totals = {rule: values.sum(1) for rule, values in regrets.items()}
    result = {
        "regret": {rule: list_interval(total) for rule, total in totals.items()},
        "less than": {
            rule: list_interval(total - totals["joint"]) for rule, total in totals.items() if rule != "joint"
        },
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "epistemic_bandit.png"),
    }
    result["verdict"] = judge(result)
    draw(regrets, config.out / "epistemic_bandit.png")
    return write_result(config.out, result)


def judge(result: Mapping[str, Any]) -> str:
    """The rule at the head of this module."""
    means = {rule: estimate[0] for rule, estimate in result["regret"].items()}
    _, low, high = result["less than"]["marginal"]
    greedy = [means[rule] for rule in means if rule.endswith("greedy")]
    if low > 0 and means["joint"] < min(greedy):
        return "reproduced"
    return "not reproduced" if high < 0 or means["joint"] > max(greedy) else "open"


def format_result(result: Mapping[str, Any]) -> str:
    """The table and the verdict."""
    rules, gaps = list(result["regret"]), result["less than"]
    columns = {
        "regret": [format_estimate(result["regret"][rule], ".1f") for rule in rules],
        "minus that of joint": [format_estimate(gaps.get(rule, [0.0, 0.0, 0.0]), ".1f") for rule in rules],
    }
    table = format_columns(rules, columns)
    return f"{table}\nverdict: {result['verdict']}\npicture: {result['picture']} ({result['seconds']:.0f} s)"


def draw(regrets: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw the regret so far against the rewards, means over seeds with their intervals."""
    figure, (ax,) = new_figure(width=5.0, height=3.4)
    for rule, values in regrets.items():
        so_far = mean_interval(values.cumsum(1))
        t = np.arange(1, values.shape[1] + 1)
        ax.plot(t, so_far.mean, label=rule)
        if len(values) > 1:
            ax.fill_between(t, so_far.low, so_far.high, alpha=0.2, linewidth=0)
    ax.set_xlabel("actions taken")
    ax.set_ylabel("regret")
    ax.legend()
    save(figure, path)
