import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metalearn_models.losses
from metalearn.errors import UnknownNameError
from metalearn_models.losses import SymbolicLoss, check_inputs, parse
from metalearn_models.losses.symbolic_loss import per_example

CROSS_ENTROPY = SymbolicLoss(parse("-y * log(f)"))


def slope_of(loss):
    return jax.jit(loss.cotangent)


def value_of(loss, logits, labels):
    return np.asarray(jax.jit(loss)(logits, labels))


def batch(shape=(6, 5), scale=3.0):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(scale * rng.normal(size=shape), jnp.float32)
    return logits, jnp.asarray(rng.integers(0, shape[-1], shape[:-1]), jnp.int32)


def softmax(logits):
    raised = np.exp(np.float64(logits))
    return raised / raised.sum(-1, keepdims=True)


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (5,)])
def test_cross_entropy_as_a_formula_is_optaxs_in_value_and_gradient(shape):
    logits, labels = batch(shape)
    loss = value_of(CROSS_ENTROPY, logits, labels)
    assert loss.shape == shape[:-1]
    np.testing.assert_allclose(
        loss, value_of(optax.softmax_cross_entropy_with_integer_labels, logits, labels), rtol=1e-5, atol=1e-6
    )
    want = softmax(logits) - np.eye(shape[-1])[np.asarray(labels)]
    np.testing.assert_allclose(slope_of(CROSS_ENTROPY)(logits, labels), want, atol=1e-6)


def test_one_hot_and_soft_labels():
    logits, labels = batch()
    hot, want = np.eye(5, dtype=np.float32)[np.asarray(labels)], value_of(CROSS_ENTROPY, logits, labels)
    for kind in (jnp.float32, jnp.int32):
        np.testing.assert_allclose(value_of(CROSS_ENTROPY, logits, jnp.asarray(hot, kind)), want, rtol=1e-6)
    soft = jnp.asarray(0.8 * hot + 0.04)
    want = value_of(optax.softmax_cross_entropy, logits, soft)
    np.testing.assert_allclose(value_of(CROSS_ENTROPY, logits, soft), want, rtol=1e-5)


def test_a_confidently_wrong_example_keeps_its_gradient():
    logits = jnp.array([[60.0, 0.0, -40.0]])
    np.testing.assert_allclose(value_of(CROSS_ENTROPY, logits, jnp.array([2])), [100.0], rtol=1e-6)
    np.testing.assert_allclose(slope_of(CROSS_ENTROPY)(logits, jnp.array([2])), [[1.0, 0.0, -1.0]], atol=1e-6)


def test_fused_logarithm_equals_the_clamp_where_p_is_above_the_floor():
    logits, labels = batch(scale=3.0)
    assert softmax(logits).min() > 1e-7
    clamped = lambda z: per_example(  # noqa: E731
        lambda y, p: metalearn_models.losses.evaluate(CROSS_ENTROPY.expr, None, y, p.f), "softmax", z, labels
    )
    value, slope = jax.jit(lambda z: (clamped(z), jax.grad(lambda z: clamped(z).sum())(z)))(logits)
    np.testing.assert_allclose(value_of(CROSS_ENTROPY, logits, labels), value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope_of(CROSS_ENTROPY)(logits, labels), slope, rtol=1e-4, atol=1e-5)


def test_masked_and_huge_logits_stay_finite():
    logits = jnp.array([[0.0, -jnp.inf, 1.0], [1e30, 0.0, -1e30]])
    for formula in ("-y * log(f)", "mul(y, log(sub(1, f))) + log(f)^2", "div(y, f) + sqrt(f)", "tanh(log(f)) + y"):
        loss = SymbolicLoss(parse(formula))
        assert np.isfinite(jax.jit(loss)(logits, jnp.array([0, 2]))).all(), formula
        assert np.isfinite(slope_of(loss)(logits, jnp.array([0, 2]))).all(), formula


def test_sigmoid_link_sums_binary_cross_entropy_over_outputs():
    loss = SymbolicLoss(parse("-y * log(f) - (1 - y) * log(1 - f)"), link="sigmoid")
    logits, _ = batch()
    labels = np.random.default_rng(1).integers(0, 2, (6, 5)).astype(np.float32)
    want = value_of(optax.sigmoid_binary_cross_entropy, logits, jnp.asarray(labels)).sum(-1)
    np.testing.assert_allclose(value_of(loss, logits, jnp.asarray(labels)), want, rtol=1e-4, atol=1e-5)
    one = jnp.asarray(np.asarray(logits)[:, :1])
    flat, column = (value_of(loss, one, jnp.asarray(y)) for y in (labels[:, 0], labels[:, :1]))
    np.testing.assert_allclose(flat, column)


def test_identity_link_is_a_mean_over_outputs():
    loss = SymbolicLoss(parse("(f - y)^2"), link="identity")
    prediction, target = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    want = np.square(prediction - target).mean(-1)
    np.testing.assert_allclose(value_of(loss, jnp.asarray(prediction), jnp.asarray(target)), want, rtol=1e-5)
    one = jnp.asarray(prediction[:, :1])
    flat, column = (value_of(loss, one, jnp.asarray(y)) for y in (target[:, 0], target[:, :1]))
    np.testing.assert_allclose(flat, column)


def test_half_precision_is_widened():
    logits, labels = batch()
    half = logits.astype(jnp.bfloat16)
    low = value_of(CROSS_ENTROPY, half, labels)
    assert low.dtype == np.float32
    assert jax.eval_shape(CROSS_ENTROPY.cotangent, half, labels).dtype == jnp.bfloat16
    np.testing.assert_allclose(low, value_of(CROSS_ENTROPY, half.astype(jnp.float32), labels), rtol=1e-6)


def test_jit_vmap_and_a_loss_as_an_argument():
    logits, labels = batch()
    loss = CROSS_ENTROPY.with_coefficients([1.1, 0.9, 1.0, 1.2, 0.8])
    want = np.asarray(loss(logits, labels))  # op by op
    np.testing.assert_allclose(jax.jit(loss)(logits, labels), want, rtol=1e-6)
    in_array = loss.with_coefficients(jnp.array(loss.coefficients))
    np.testing.assert_allclose(jax.jit(in_array)(logits, labels), want, rtol=1e-6)
    assert in_array != loss.with_coefficients(jnp.ones(5))
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(logits, labels), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda loss: loss(logits, labels))(loss), want, rtol=1e-6)
    static = jax.jit(lambda loss: loss(logits, labels), static_argnums=0)
    np.testing.assert_allclose(static(CROSS_ENTROPY), value_of(CROSS_ENTROPY, logits, labels), rtol=1e-6)


def test_coefficients_are_the_leaves_and_can_be_trained():
    logits, labels = batch()
    loss = CROSS_ENTROPY.with_coefficients(jnp.ones(5))
    leaves, structure = jax.tree.flatten(loss)
    assert [leaf.shape for leaf in leaves] == [(5,)]
    assert jax.tree.unflatten(structure, leaves).expr == loss.expr

    @jax.jit
    def total(loss):
        return loss(logits, labels).sum()

    slope = jax.grad(total)(loss).coefficients
    for i in range(5):
        step = 1e-2 * jnp.eye(5)[i]
        difference = (total(loss.with_coefficients(1 + step)) - total(loss.with_coefficients(1 - step))) / 2e-2
        np.testing.assert_allclose(slope[i], difference, rtol=1e-3)


def test_the_coefficients_move_a_network_by_a_step_that_can_be_differentiated():
    """d (loss after one step) / d coefficients through the cotangent, as refinement needs it, against differences."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3)), jnp.float32)
    _, labels = batch()
    weights = 0.1 * jnp.arange(15.0).reshape(3, 5)

    @jax.jit
    def after(c):
        slope = CROSS_ENTROPY.with_coefficients(c).cotangent(x @ weights, labels)
        moved = weights - 0.5 * x.T @ slope / 6
        return optax.softmax_cross_entropy_with_integer_labels(x @ moved, labels).mean()

    c = jnp.array([1.0, 0.9, 1.1, 1.2, 0.8])
    slope = jax.jit(jax.grad(after))(c)
    for i in range(5):
        step = 1e-2 * jnp.eye(5)[i]
        np.testing.assert_allclose(slope[i], (after(c + step) - after(c - step)) / 2e-2, rtol=1e-2, atol=1e-4)


def test_labels_out_of_range_show_as_nan_under_jit_and_can_be_masked():
    logits, _ = batch()
    labels = jnp.array([0, -1, 5, 4, 3, 2])
    loss = jax.jit(CROSS_ENTROPY)(logits, labels)
    np.testing.assert_array_equal(np.isnan(loss), [False, True, True, False, False, False])
    mask = jnp.array([True, False, False, True, True, True])
    slope = np.asarray(jax.jit(jax.grad(lambda z: jnp.where(mask, CROSS_ENTROPY(z, labels), 0).sum()))(logits))
    assert np.isfinite(slope).all()
    assert not slope[1].any()


@pytest.mark.parametrize(
    ("logits", "labels", "link", "message"),
    [
        ([[0.0, np.nan]], [0], "softmax", r"logits must be numbers; 1 of 2 are not, the first is nan at \(0, 1\)"),
        ([[0.0, np.inf]], [0], "softmax", "logits must be numbers"),
        ([[0.0, 1.0], [0.0, 1.0]], [0, 2], "softmax", r"classes from 0 to 1; 1 of 2 are not, the first is 2 at \(1,\)"),
        ([[0.0, 1.0]], [-1], "softmax", "classes from 0 to 1"),
        ([[0.0, 1.0]], [[0.7, 0.7]], "softmax", "must sum to 1"),
        ([[0.0, 1.0]], [[-0.5, 1.5]], "softmax", "probabilities from 0 to 1"),
        ([[0.0, 1.0]], [[np.nan, 1.0]], "softmax", "labels must be finite"),
        ([[0.0, 1.0]], [[2.0, 1.0]], "sigmoid", "probabilities from 0 to 1"),
        ([[0.0]], [[np.inf]], "identity", "labels must be finite"),
        ([[-np.inf]], [[0.0]], "identity", "logits must be numbers"),
    ],
)
def test_check_inputs_says_which_value_is_wrong(logits, labels, link, message):
    with pytest.raises(ValueError, match=message):
        check_inputs(np.array(logits, np.float32), np.array(labels), link)


def test_check_inputs_lets_right_ones_pass_and_refuses_traced_ones():
    logits, labels = batch()
    check_inputs(logits, labels)
    check_inputs(logits.at[0, 1].set(-jnp.inf), jax.nn.one_hot(labels, 5))
    check_inputs(logits, 100 * logits, "identity")
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(check_inputs)(logits, labels)


@pytest.mark.parametrize(
    ("link", "logits", "labels", "error", "message"),
    [
        ("softmax", (6, 5), (5,), ValueError, r"need labels of shape \(6, 5\) or integers \(6,\), got \(5,\)"),
        ("softmax", (6, 1), (6, 1), ValueError, "at least 2 classes"),
        ("softmax", (6, 5), (6,), TypeError, "must be integer classes, got float32"),
        ("identity", (6, 5), (6,), ValueError, r"need labels of shape \(6, 5\), got \(6,\)"),
        ("identity", (6,), (6, 1), ValueError, "need labels of shape"),
        ("identity", (), (), ValueError, "last axis"),
    ],
)
@pytest.mark.unchecked_types
def test_shapes_that_do_not_belong_together_are_refused(link, logits, labels, error, message):
    loss = SymbolicLoss(parse("f - y"), link=link)
    with pytest.raises(error, match=message):
        loss(jnp.zeros(logits), jnp.zeros(labels))


@pytest.mark.unchecked_types
def test_integer_logits_are_refused():
    with pytest.raises(TypeError, match="logits must be floating point, got int32"):
        CROSS_ENTROPY(jnp.zeros((2, 3), jnp.int32), jnp.zeros(2, jnp.int32))


@pytest.mark.unchecked_types
def test_a_wrong_loss_is_refused_when_it_is_made():
    with pytest.raises(ValueError, match="lacks y"):
        SymbolicLoss(parse("log(f)"))
    with pytest.raises(UnknownNameError, match=r"unknown link 'softmx'. Did you mean 'softmax'"):
        SymbolicLoss(parse("f - y"), link="softmx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has 2 coefficients, one per edge; got shape \(3,\)"):
        SymbolicLoss(parse("f - y"), (1.0, 1.0, 1.0))


def test_a_saved_loss_reads_back_with_its_provenance(tmp_path):
    loss = SymbolicLoss(parse("tanh(f - y)^2"), (1.0, 0.5, 2.0, 1.25), "identity", {"seed": 3, "tasks": ["a", "b"]})
    loss.save(tmp_path / "loss.json")
    read = SymbolicLoss.read(tmp_path / "loss.json")
    assert read == loss
    assert read.provenance == loss.provenance
    record = json.loads((tmp_path / "loss.json").read_text())
    (tmp_path / "loss.json").write_text(json.dumps(record | {"link": "logit"}))
    with pytest.raises(UnknownNameError, match=r"loss.json: unknown link 'logit'"):
        SymbolicLoss.read(tmp_path / "loss.json")
    (tmp_path / "loss.json").write_text(json.dumps(record | {"version": 9}))
    with pytest.raises(ValueError, match="version 9"):
        SymbolicLoss.read(tmp_path / "loss.json")


def test_every_shipped_loss_loads_and_has_a_provenance():
    shipped = [
        name for name in metalearn_models.losses.names() if isinstance(metalearn_models.losses.load(name), SymbolicLoss)
    ]
    assert {"robust-regression", "label-noise"} <= set(shipped)
    for name in shipped:
        loss = metalearn_models.losses.load(name)
        assert isinstance(loss, SymbolicLoss)
        assert loss.provenance and loss.provenance["note"]


def test_shipped_losses_have_the_formulas_that_were_found():
    prediction, target = np.random.default_rng(0).normal(size=(2, 7, 1)).astype(np.float32)
    loss = metalearn_models.losses.load("robust-regression")
    got = value_of(loss, jnp.asarray(prediction), jnp.asarray(target))
    squared = (prediction - target)[:, 0] ** 2
    np.testing.assert_allclose(got, (squared - 1) / (squared + 1), rtol=1e-4, atol=1e-6)
    logits, labels = batch()
    p = softmax(logits)
    right = np.take_along_axis(p, np.asarray(labels)[:, None], 1)[:, 0]
    expected = np.sqrt(-np.log(right)) + np.sqrt(np.log1p(p)).sum(-1) - np.sqrt(np.log1p(right))
    got = value_of(metalearn_models.losses.load("label-noise"), logits, labels)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_unknown_losses_and_parameters():
    with pytest.raises(
        UnknownNameError, match=r"unknown loss 'focl', and there is no such file or folder. Did you mean 'focal'"
    ):
        metalearn_models.losses.load("focl")
    with pytest.raises(UnknownNameError, match="Did you mean 'gce'"):
        metalearn_models.losses.load("GCE")
    with pytest.raises(UnknownNameError, match="unknown loss ''"):  # and not the present folder
        metalearn_models.losses.load("")
    with pytest.raises(TypeError, match="the loss robust-regression has the parameters scale, got gamma"):
        metalearn_models.losses.load("robust-regression", gamma=1.0)
    with pytest.raises(TypeError, match="gama"):
        metalearn_models.losses.load("focal", gama=1.0)


def test_a_network_trains_with_a_loaded_loss():
    """Three lines in plain optax; the accuracy of a linear classifier on separable data."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(200, 4)).astype(np.float32)
    labels = (xs @ rng.normal(size=(4, 3))).argmax(-1)
    x, truth = jnp.asarray(xs), jnp.asarray(labels, jnp.int32)
    loss = metalearn_models.losses.load("label-noise")
    optimizer = optax.adam(0.1)

    def step(carry, _):
        weights, state = carry
        slope = jax.grad(lambda w: loss(x @ w, truth).mean())(weights)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state)
        return (weights + updates, state), None

    weights = jnp.zeros((4, 3))
    train = jax.jit(lambda weights: jax.lax.scan(step, (weights, optimizer.init(weights)), length=200))
    (weights, _), _ = train(weights)
    assert ((xs @ np.asarray(weights)).argmax(-1) == labels).mean() > 0.95


def test_importing_losses_is_light():
    code = "import metalearn_models.losses, sys; print([m for m in ('sympy', 'matplotlib') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
