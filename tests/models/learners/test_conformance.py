"""What every learner with a name must do, whoever made it; a learner that is registered later is tested too.

Each learner gets two compiled programs: the loop over all variants of a sequence at once, and its parallel `run`. A
learner without one gets the loop without `vmap`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.learner import Signature, prediction_loss, predictions_in_order, select_classes
from metalearn.ranges import fields_of
from metalearn_models.learners import library
from metalearn_models.learners.averaged import averaged
from metalearn_models.learners.mixed import mixed
from metalearn_models.learners.registry import LEARNERS, build_learner

SIGNATURE = Signature(inputs=3, outputs=4, length=6)
SMALL = {
    "transformer": {"width": 8, "layers": 2, "heads": 2, "key_size": 4},
    "lstm": {"hidden": 5},
    "outer-lstm": {"hidden": 4, "heads": 2},
    "vsml": {"hidden": 3, "messages": 2},
    "mlp": {"hidden": 5},
    "maml": {"hidden": (4,)},
    "epistemic": {"steps": 2, "indices": 3},
}
"""Sizes for tests. A learner that is not here is built with its defaults."""
NAMED = (
    "transformer",
    "lstm",
    "outer-lstm",
    "mlp",
    "maml",
    "learned-optimizer",
    "pretrained-optimizer",
    "sgd",
    "epistemic",
)
"""Learners to which names of classes matter: each output has weights of its own, which are drawn or meta-learned."""
CLASSES_ONLY = ("centroid", "logistic", "epistemic")
COMPOSED = ("averaged transformer", "mixed transformer")
CASES = (*LEARNERS, *COMPOSED)
RENAMED = jnp.array([2, 0, 3, 1])
CHANGED_FROM = 3


class Found(NamedTuple):
    learner: object
    theta: object
    xs: np.ndarray
    ys: np.ndarray
    logits: dict
    other: np.ndarray


def build(name, signature=SIGNATURE):
    if name == "averaged transformer":
        return averaged(build("transformer", signature), 3)
    if name == "mixed transformer":
        return mixed(build("transformer", signature), build("kernel", signature))
    return build_learner(signature, LEARNERS[name].config(**SMALL.get(name, {})))


def variants():
    """Sequences by what is special about them; of the largest inputs float32 still holds the squares."""
    key = jax.random.key(1)
    x, y = jax.random.normal(key, (6, 3)), jnp.array([0, 1, 2, 0, 1, 3], jnp.int32)
    return {
        "plain": (x, y),
        "later": (x.at[CHANGED_FROM + 1 :].set(7.0), y.at[CHANGED_FROM:].set(2)),
        "renamed": (x, RENAMED[y]),
        "two classes": (x, y % 2),
        "constant": (jnp.ones_like(x), y),
        "nothing": (jnp.zeros_like(x), y),
        "one class": (x, jnp.zeros_like(y)),
        **{f"times {scale:g}": (x * scale, y) for scale in (1e4, 1e15, 1e-30)},
    }


@pytest.fixture(scope="module", params=CASES)
def found(request):
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        learner = build(request.param)
        key = jax.random.key(0)
        theta = jax.jit(learner.init)(key)
        cases = variants()
        xs, ys = (jnp.stack(parts) for parts in zip(*cases.values(), strict=True))

        def loop(xs, ys):
            return predictions_in_order(learner, theta, xs, ys, key)

        logits = np.asarray(jax.jit(jax.vmap(loop))(xs, ys))
        again = (lambda xs, ys: jax.lax.map(lambda xy: loop(*xy), (xs, ys))) if learner.run is None else None
        other = np.asarray(jax.jit(again or (lambda xs, ys: learner.run(theta, xs, ys)))(xs[:4], ys[:4]))
        return Found(learner, theta, xs, ys, dict(zip(cases, logits, strict=True)), other)


def test_a_row_depends_on_what_came_before_it_alone(found):
    rows = slice(CHANGED_FROM + 1)
    np.testing.assert_array_equal(found.logits["plain"][rows], found.logits["later"][rows])
    assert found.learner.state_size == 0 or not np.allclose(found.logits["plain"], found.logits["later"], atol=1e-6)


def test_the_parallel_run_or_the_loop_without_vmap_gives_the_same(found):
    np.testing.assert_allclose(found.other, np.stack(list(found.logits.values()))[:4], rtol=2e-4, atol=2e-5)


def test_names_of_classes_do_not_matter_unless_outputs_have_weights_of_their_own(found, request):
    name = request.node.callspec.params["found"]
    if name in (*NAMED, *COMPOSED):
        pytest.skip("outputs have weights of their own")
    # A tie goes to the lowest name, so rows whose class is tied are left out.
    plain, renamed = found.logits["plain"], found.logits["renamed"][:, RENAMED]
    np.testing.assert_allclose(renamed, plain, rtol=1e-3, atol=1e-3)


def test_what_is_constant_huge_tiny_or_of_one_class_gives_finite_predictions(found):
    finite = {name: bool(np.isfinite(logits).all()) for name, logits in found.logits.items()}
    assert all(finite.values()), [name for name, good in finite.items() if not good]
    assert all(logits.shape == (6, 4) and logits.dtype == np.float32 for logits in found.logits.values())


def test_of_fewer_classes_than_outputs_only_these_are_answers(found):
    two = SIGNATURE._replace(outputs=2)
    logits = select_classes(jnp.asarray(found.logits["two classes"]), two)
    losses = np.asarray(prediction_loss(logits, found.ys[list(found.logits).index("two classes")]))
    assert logits.shape == (6, 2) and np.isfinite(losses).all()
    whole = np.asarray(prediction_loss(jnp.asarray(found.logits["two classes"]), variants()["two classes"][1]))
    assert (losses <= whole + 1e-6).all()  # names that no class has took some probability


def test_a_state_has_no_empty_leaf_and_can_be_donated_without_losing_theta(found):
    """Outside of a compiled function, where one array can be in two places."""
    learner, theta = found.learner, found.theta
    state = learner.start(theta, jax.random.key(0))
    assert all(leaf.size > 0 for leaf in jax.tree.leaves(state))
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((theta, state)) if isinstance(leaf, jax.Array)]
    assert len(places) == len(set(places)) and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    inside = jax.jit(learner.start)(theta, jax.random.key(0))
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((theta, inside))]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("regression", [False, True])
def test_with_64_bits_enabled_everything_stays_in_32(name, regression):
    if regression and name in (*CLASSES_ONLY, *COMPOSED):
        pytest.skip("for classes only")
    signature = Signature(3, 1, 6, True) if regression else SIGNATURE
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        learner, key = build(name, signature), jax.random.key(0)
        ys = jax.ShapeDtypeStruct((2, 6), jnp.float32 if regression else jnp.int32)
        xs = jax.ShapeDtypeStruct((2, 6, 3), jnp.float32)

        def everything(key, xs, ys):
            theta = learner.init(key)
            parallel = () if learner.run is None else learner.run(theta, xs, ys)
            state = learner.start(theta, key)
            return theta, state, parallel, predictions_in_order(learner, theta, xs[0], ys[0], key)

        kinds = {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(everything, key, xs, ys))}
    assert not {kind for kind in kinds if kind in (jnp.float64, jnp.int64)}, kinds


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in CLASSES_ONLY])
def test_with_numbers_to_predict_a_row_depends_on_what_came_before_it_alone(name):
    rng = np.random.default_rng(0)
    xs, ys = (np.repeat(rng.standard_normal(shape).astype(np.float32), 2, 0) for shape in ((1, 6, 3), (1, 6)))
    xs[1, CHANGED_FROM + 1 :], ys[1, CHANGED_FROM:] = 7.0, 2.0
    with jax.numpy_dtype_promotion("standard"):
        learner = build(name, Signature(3, 1, 6, True))

        def predict(key, xs, ys):
            theta = learner.init(key)
            if learner.run is not None:
                return learner.run(theta, xs, ys)
            return jax.vmap(lambda x, y: predictions_in_order(learner, theta, x, y, key))(xs, ys)

        plain, later = np.asarray(jax.jit(predict)(jax.random.key(0), xs, ys))
    rows = slice(CHANGED_FROM + 1)
    np.testing.assert_allclose(plain[rows], later[rows], rtol=0, atol=1e-6)  # sums may be taken in another order
    assert not np.allclose(plain[CHANGED_FROM + 1 :], later[CHANGED_FROM + 1 :], atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_sequence_of_one_example_is_predicted(name):
    with jax.numpy_dtype_promotion("standard"):
        learner = build(name, SIGNATURE._replace(length=1))

        def one(key, x, y):
            theta = learner.init(key)
            return learner.run(theta, x, y) if learner.run else predictions_in_order(learner, theta, x, y, key)

        shape = jax.eval_shape(one, jax.random.key(0), jnp.ones((1, 3)), jnp.zeros(1, jnp.int32))
    assert shape.shape == (1, 4)


@pytest.mark.unchecked_types
@pytest.mark.parametrize("name", LEARNERS)
def test_a_setting_out_of_range_is_named(name):
    entry = LEARNERS[name]
    for field in fields_of(entry.config()):
        if isinstance(field.value, int | float) and not isinstance(field.value, bool):
            for wrong in (-4, float("nan")):
                for build in (partial(library.make, name), lambda s, **v: entry.build(s, entry.config(**v))):
                    with pytest.raises(ValueError, match=rf"^{field.name} must be .*got {wrong}"):
                        build(SIGNATURE, **{field.name: wrong})
    for part in ("inputs", "outputs", "length"):
        with pytest.raises(ValueError, match=f"{part} of a signature must be at least 1, got 0"):
            entry.build(SIGNATURE._replace(**{part: 0}), entry.config())


@pytest.mark.unchecked_types
def test_sizes_of_zero_are_named_too_and_numpys_numbers_are_taken():
    for name in ("width", "layers", "heads", "key_size", "mlp_ratio"):
        with pytest.raises(ValueError, match=f"^{name} must be a whole number from 1 to 65536, got 0"):
            library.make("transformer", SIGNATURE, **{name: np.int64(0)})
    sizes = {name: np.int64(size) for name, size in SMALL["transformer"].items()}
    assert library.make("transformer", SIGNATURE, **sizes).state_size == build("transformer").state_size


@pytest.mark.parametrize("name", library.shipped())
def test_what_is_shipped_is_loaded_inside_a_trace(name):
    @jax.jit
    def predict(x):
        loaded = library.load(name)
        state = loaded.learner.start(loaded.theta, jax.random.key(0))
        return loaded.learner.predict(loaded.theta, state, x)

    signature = library.load(name).signature
    assert np.isfinite(predict(jnp.ones(signature.inputs))).all()
