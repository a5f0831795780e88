"""The Fisher matrix from `fisher_grads`, against its definition, and every optimizer of it against dense solves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.optimizers import curvature
from metalearn_models.optimizers.curvature import (
    kfac,
    mark_logits,
    mark_means,
    reads_statistics,
    value_grad_and_sampled_statistics,
    value_grad_and_sampled_statistics_if,
)
from metalearn_models.optimizers.curvature.foof import input_second_moment
from metalearn_models.optimizers.curvature.kfac import output_second_moment
from tests.models.optimizers.curvature.small_network import draw

LAYERS = ("['a']", "['b']")
DAMPING = 0.3


def _params():
    return {"a": draw(4, 3), "b": draw(3, 3, seed=1)}


def _logits(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def _loss(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(mark_logits(_logits(params, x)), y).mean()


@pytest.fixture(scope="module")
def exact():
    """Gradients and exact statistics in float64, and the dense Fisher matrix of all kernels by its definition."""
    with jax.enable_x64(True):
        params, x, y = _params(), draw(5, 4, seed=2), jnp.array([0, 1, 2, 1, 0])

        @jax.jit
        def compute(params):
            found = curvature.value_grad_and_exact_statistics(_loss)(params, x, y)
            jacobian = jax.jacobian(_logits)(params, x)
            p = jax.nn.softmax(_logits(params, x))
            return found, jax.value_and_grad(_loss)(params, x, y), jacobian, p

        (loss, grads, statistics), (expected, same), jacobian, p = jax.tree.map(np.asarray, compute(params))
        np.testing.assert_allclose(loss, expected, rtol=1e-12)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), grads, same)
        flat = np.concatenate([jacobian[k].reshape(5, 3, -1) for k in "ab"], -1)  # [B, C, parameters]
        covariance = np.stack([np.diag(q) - np.outer(q, q) for q in p])
        fisher = np.einsum("bcp,bcd,bdq->pq", flat, covariance, flat) / 5
    return grads, statistics, fisher


def _update(tx, grads, statistics):
    with jax.enable_x64(True):
        grads = jax.tree.map(jnp.asarray, grads)
        run = jax.jit(lambda grads, statistics: tx.update(grads, tx.init(grads), grads, statistics=statistics)[0])
        return jax.tree.map(np.asarray, run(grads, jax.tree.map(jnp.asarray, statistics)))


def _dense(matrix, grads):
    flat = np.concatenate([grads[k].ravel() for k in "ab"])
    found = np.linalg.solve(matrix + DAMPING * np.eye(len(flat)), flat)
    return {"a": found[:12].reshape(4, 3), "b": found[12:].reshape(3, 3)}


def _compare(found, expected):
    for k in "ab":
        np.testing.assert_allclose(found[k], expected[k], rtol=1e-10, atol=1e-12)


def test_the_natural_gradient_equals_the_dense_solve_with_the_exact_fisher_matrix(exact):
    grads, statistics, fisher = exact
    found = _update(curvature.scale_by_natural_gradient(DAMPING), grads, statistics)
    _compare(found, _dense(fisher, grads))


def test_kfac_with_standard_damping_equals_the_dense_solve(exact):
    grads, statistics, _ = exact
    found = _update(curvature.scale_by_kfac_standard(DAMPING), grads, statistics)
    blocks = _blocks(statistics)
    expected = {}
    for k, (a, e) in blocks.items():
        matrix = np.kron(a, e) + DAMPING * np.eye(a.shape[0] * e.shape[0])
        expected[k] = np.linalg.solve(matrix, grads[k].ravel()).reshape(grads[k].shape)
    _compare(found, expected)


def test_kfac_with_heuristic_damping_equals_the_dense_solve(exact):
    grads, statistics, _ = exact
    found = _update(curvature.scale_by_kfac(DAMPING), grads, statistics)
    expected = {}
    for k, (a, e) in _blocks(statistics).items():
        ratio = (np.trace(a) / len(a)) / (np.trace(e) / len(e))
        on_a, on_e = (DAMPING * ratio) ** 0.5, (DAMPING / ratio) ** 0.5
        np.testing.assert_allclose(on_a * on_e, DAMPING)
        matrix = np.kron(a + on_a * np.eye(len(a)), e + on_e * np.eye(len(e)))
        expected[k] = np.linalg.solve(matrix, grads[k].ravel()).reshape(grads[k].shape)
    _compare(found, expected)


def _blocks(statistics):
    """Factors of both kernels as matrices of NumPy, from the definition with one example at a time."""
    found = {}
    for k in "ab":
        layer = statistics[f"['{k}']"]
        a, e = np.asarray(layer.inputs), np.asarray(layer.fisher_grads)
        found[k] = sum(np.outer(x, x) for x in a) / 5, sum(np.outer(x, x) for column in e for x in column) / 5
    return found


def test_the_last_factor_is_the_covariance_of_the_softmax(exact):
    """And one example has an exact Kronecker product as its Fisher block."""
    _, statistics, _ = exact
    with jax.enable_x64(True):
        x = draw(5, 4, seed=2)
        p = np.asarray(jax.nn.softmax(_logits(_params(), x)))
        expected = np.mean([np.diag(q) - np.outer(q, q) for q in p], 0)
        layer = jax.tree.map(jnp.asarray, statistics["['b']"])
        np.testing.assert_allclose(output_second_moment(layer, jnp.float64), expected, rtol=1e-12)
        y = jnp.array([0])
        one = jax.jit(curvature.value_grad_and_exact_statistics(_loss))(_params(), x[:1], y)[2]["['a']"]
        kron = np.kron(*(np.asarray(f(one, jnp.float64)) for f in (input_second_moment, output_second_moment)))
        jacobian = np.asarray(jax.jacobian(_logits)(_params(), x[:1])["a"]).reshape(3, 12)
        np.testing.assert_allclose(
            kron, jacobian.T @ (np.diag(p[0]) - np.outer(p[0], p[0])) @ jacobian, rtol=1e-10, atol=1e-14
        )


def test_sampled_labels_have_the_exact_fisher_matrix_on_average(exact):
    _, statistics, _ = exact
    params, x, y = jax.tree.map(np.float32, _params()), np.float32(draw(5, 4, seed=2)), np.array([0, 1, 2, 1, 0])
    fn = curvature.value_grad_and_sampled_statistics(_loss)
    keys = jax.random.split(jax.random.key(0), 4000)

    @jax.jit
    def factors(keys):
        layers = jax.lax.map(lambda key: fn(key, params, x, y)[2], keys, batch_size=500)
        return {at: jax.vmap(output_second_moment)(layers[at]) for at in LAYERS}

    found = factors(keys)
    for at in LAYERS:
        layer = jax.tree.map(jnp.float32, statistics[at])
        samples, expected = np.asarray(found[at]), np.asarray(output_second_moment(layer))
        error = samples.std(0) / len(keys) ** 0.5
        assert (np.abs(samples.mean(0) - expected) < 5 * error + 1e-6).all()


def test_normal_predictions_have_the_gauss_newton_matrix():
    """Positions count as labels of their own; half the squared error has precision 1, and the squared error 2."""

    def loss(params, x, y):
        return jnp.square(mark_means(x @ params, 2.0) - y).sum((1, 2)).mean()

    with jax.enable_x64(True):
        params, x = draw(4, 2), draw(3, 5, 4)
        _, _, statistics = jax.jit(curvature.value_grad_and_exact_statistics(loss))(params, x, jnp.zeros((3, 5, 2)))
        layer = statistics[""]
        assert layer.fisher_grads.shape == (10, 3, 5, 2)
        columns = np.einsum("bpm,kbpn->kbmn", layer.inputs, layer.fisher_grads).reshape(30, 8)
        hessian = jax.hessian(lambda p: loss(p, x, jnp.zeros((3, 5, 2))))(params).reshape(8, 8)
        np.testing.assert_allclose(columns.T @ columns / 3, hessian, rtol=1e-12)
        grads = draw(4, 2, seed=7)
        tx = curvature.scale_by_natural_gradient(DAMPING)
        found, _ = tx.update(grads, tx.init(params), statistics=statistics)
        expected = np.linalg.solve(np.asarray(hessian) + DAMPING * np.eye(8), np.array(grads).ravel())
        np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-10)


def test_mac_is_foof_of_rank_one(exact):
    """With equal inputs, and with the outer product of the mean in place of the second moment."""
    grads, statistics, _ = exact
    mean = {at: np.asarray(layer.inputs).mean(0) for at, layer in statistics.items()}
    found = _update(curvature.scale_by_mac(DAMPING), grads, statistics)
    expected = {}
    for k in "ab":
        a = mean[f"['{k}']"]
        expected[k] = DAMPING * np.linalg.solve(np.outer(a, a) + DAMPING * np.eye(len(a)), grads[k])
    _compare(found, expected)
    equal = {
        at: curvature.LayerStatistics(
            np.broadcast_to(mean[at], layer.inputs.shape), layer.output_grads, layer.gradient, None, layer.layout
        )
        for at, layer in statistics.items()
    }
    mac = _update(curvature.scale_by_mac(DAMPING), grads, equal)
    foof = _update(curvature.scale_by_foof(DAMPING), grads, equal)
    _compare(mac, {k: DAMPING * foof[k] for k in "ab"})


@pytest.mark.parametrize("name", ["foof", "kfac", "kfac_standard", "mac", "natural_gradient"])
def test_meta_gradients_equal_finite_differences(name):
    """With respect to the damping and, through the statistics, to the parameters."""

    def length(damping, params, x):
        _, grads, statistics = curvature.value_grad_and_statistics(lambda w: jnp.square(x @ w).mean())(params)
        tx = getattr(curvature, f"scale_by_{name}")(damping)
        return jnp.square(tx.update(grads, tx.init(params), statistics=statistics)[0]).sum()

    with jax.enable_x64(True):
        x, params, way = draw(6, 4), draw(4, 3, seed=1), draw(4, 3, seed=2)
        along = lambda s: length(0.3 + s, params + s * way, x)  # noqa: E731
        found, ahead, behind = jax.jit(lambda: (jax.grad(along)(0.0), along(1e-5), along(-1e-5)))()
        np.testing.assert_allclose(found, (ahead - behind) / 2e-5, rtol=1e-6)


def test_missing_marks_and_keys_are_named():
    loss = lambda p, x: jnp.square(x @ p).mean()  # noqa: E731
    marked = lambda p, x: optax.softmax_cross_entropy_with_integer_labels(mark_logits(x @ p), 0).mean()  # noqa: E731
    args = jnp.ones((3, 2)), jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"call mark_logits\(logits\) or mark_means\(means\) once .* got 0 calls"):
        curvature.value_grad_and_exact_statistics(loss)(*args)
    with pytest.raises(ValueError, match=r"random key, got key=None: .* exact or the empirical"):
        curvature.loss_and_sampled_statistics(lambda p: marked(p, args[1][0]))(args[0], None)
    with pytest.raises(ValueError, match=r"precision must be positive, got 0"):
        mark_means(args[0], 0)


def test_kfac_moves_the_same_where_labels_are_drawn_only_for_what_it_reads():
    """Two of four batches are read, after one that is burnt in; a state without layers says so."""
    x, y = jax.random.normal(jax.random.key(0), (9, 5, 3)), jnp.zeros(5, jnp.int32)
    loss = lambda w, x: optax.softmax_cross_entropy_with_integer_labels(mark_logits(x @ w), y).mean()  # noqa: E731
    tx = optax.chain(kfac(0.1, 0.1, period=4, collect=2, burn_in=1), optax.identity())

    def run(compute):
        def step(carry, given):
            w, state = carry
            wanted = reads_statistics(state)
            _, grads, found = compute(wanted, jax.random.fold_in(jax.random.key(1), given[1]), w, given[0])
            updates, state = tx.update(grads, state, w, statistics=found)
            layer = found[""]
            return (w + updates, state), (w, wanted, jnp.abs(layer.fisher_grads).max(), jnp.abs(layer.inputs).max())

        w = jnp.tile(jnp.array([[0.0, 1.0]]), (3, 1))
        return jax.lax.scan(step, (w, tx.init(w)), (x, jnp.arange(9)))[1]

    always = value_grad_and_sampled_statistics(loss)
    expected = jax.jit(lambda: run(lambda wanted, *rest: always(*rest)))()
    found = jax.jit(lambda: run(value_grad_and_sampled_statistics_if(loss)))()
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    assert found[1].tolist() == [True, True, False, False, True, True, False, False, True]
    assert (found[2] > 0).tolist() == found[1].tolist() and (found[3] > 0).all() and (expected[2] > 0).all()
    with pytest.raises(ValueError, match="reads_statistics needs the state of an optimizer that measures layers"):
        reads_statistics(optax.adam(0.1).init(jnp.ones(2)))
