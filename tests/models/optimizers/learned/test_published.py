"""Learned optimizers against numbers recorded from the authors' own code, google/learned_optimization.

Recorded from commit 32186aa with jax 0.10.2 on a CPU: `AdafacMLPLOpt`, `MLPNomLOpt`, `MLPLOpt`, `NNAdam` and
`RNNMLPLOpt`, every array of theta, the parameters and the gradients filled by `_wave`, three updates with the
losses 2, 1.7 and 1.4; every fifth entry of the parameters after them.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.optimizers import mlp_optimizer, small_fc
from metalearn_models.optimizers.learned.nn_adam import NNAdamTheta, nn_adam
from metalearn_models.optimizers.learned.parts.per_tensor import LSTMState
from metalearn_models.optimizers.learned.rnn_mlp import RNNMLPTheta, rnn_mlp
from metalearn_models.optimizers.learned.small_fc import SmallFCTheta
from metalearn_models.optimizers.learned.star import star

SHAPES = {"bias": (5,), "gain": (), "kernel": (4, 2, 3), "matrix": (6, 4)}


def _wave(shape, phase, scale):
    waves = scale * np.sin(phase + 1.3 * np.arange(np.prod(shape, dtype=int)))
    return jnp.asarray(waves.reshape(shape), jnp.float32)


def _tree(phase, scale):
    return {name: _wave(shape, phase + i, scale) for i, (name, shape) in enumerate(SHAPES.items())}


def _layer(widths, phase, scale):
    return {"weight": _wave(widths, phase, scale), "bias": _wave(widths[1:], phase + 1, scale)}


def _layers(widths, scale):
    return tuple(_layer(pair, 2 * i + 1, scale) for i, pair in enumerate(pairwise(widths)))


def _factored(outputs, used):
    *first, last = _layers((39, 4, 4, outputs), 0.5)
    last = {name: x[..., :used] for name, x in last.items()}
    return SmallFCTheta((*first, last), _wave((3,), 7, 0.02), _wave((1,), 8, 0.02), _wave((3,), 9, 0.02))


THETAS = {
    "small_fc": lambda: _factored(2, 2),
    "star": lambda: _factored(4, 3),  # the fourth output, of the weight decay, was off
    "mlp": lambda: _layers((19, 32, 32, 2), 0.3),
    "nn_adam": lambda: NNAdamTheta(
        _layer((51, 128), 1, 0.3),
        _layer((32, 4), 3, 0.5),
        LSTMState(_wave((32,), 5, 0.5), _wave((32,), 6, 0.5)),
        jnp.array([-0.3, -0.2, -0.4, -0.5]),
    ),
    "rnn_mlp": lambda: RNNMLPTheta(
        _layers((54, 32, 32, 18), 0.3),
        _layer((116, 256), 7, 0.2),
        _layer((64, 17), 9, 0.3),
        _layer((64, 18), 11, 0.3),
        LSTMState(_wave((64,), 15, 0.3), _wave((64,), 16, 0.3)),
        from_network=_wave((16,), 14, 0.3),
        from_lstm=_wave((18,), 13, 0.3),
    ),
}
OPTIMIZERS = {
    "small_fc": small_fc(step_size=0.1, exponent=0.1),
    "star": star(step_size=0.0003, nominal_step_size=0.01, exponent=0.1),
    "mlp": mlp_optimizer(step_size=0.1, exponent=0.1),
    "nn_adam": nn_adam(output_scale=0.1),
    "rnn_mlp": rnn_mlp(step_size=0.1, exponent=0.1),
}
RECORDED = {
    "small_fc": {
        "bias": [0.488734066],
        "gain": [1.01381671],
        "kernel": [0.614637971, 0.433608562, 0.246948197, 0.0349943489, -0.179774061],
        "matrix": [-0.303088993, -0.49136883, -0.652240157, -0.786388338, -0.877145946],
    },
    "star": {
        "bias": [0.493454397],
        "gain": [1.00644135],
        "kernel": [0.571257889, 0.375224888, 0.173582286, -0.0673757344, -0.284217328],
        "matrix": [-0.410169274, -0.59924227, -0.76044935, -0.891444862, -0.982324839],
    },
    "mlp": {
        "bias": [0.531520545],
        "gain": [1.02168024],
        "kernel": [0.590557218, 0.387424529, 0.168477654, -0.0647691861, -0.295868009],
        "matrix": [-0.431318372, -0.633885384, -0.807635307, -0.944866896, -1.03926396],
    },
    "nn_adam": {
        "bias": [0.575303316],
        "gain": [1.09380734],
        "kernel": [0.635319412, 0.427173942, 0.195540681, -0.069620952, -0.307438791],
        "matrix": [-0.442121744, -0.642563641, -0.813909709, -0.949128687, -1.04220152],
    },
    "rnn_mlp": {
        "bias": [0.497709244],
        "gain": [1.01741946],
        "kernel": [0.619897842, 0.43394801, 0.228191376, 0.0007523268, -0.199856907],
        "matrix": [-0.327322185, -0.519302905, -0.68571955, -0.819855809, -0.915412843],
    },
}


@pytest.mark.parametrize("name", RECORDED)
def test_parameters_after_three_updates_are_those_recorded_from_the_published_code(name):
    transform = OPTIMIZERS[name].transform(THETAS[name](), 10)
    params = _tree(0.5, 1.0)
    state = jax.jit(transform.init)(params)
    update = jax.jit(transform.update)
    for t, loss in enumerate((2.0, 1.7, 1.4)):
        extra = {}
        if name == "rnn_mlp" and t == 1:  # a validation loss, there a step of its own
            state = state._replace(step=state.step + 1)  # pyright: ignore[reportAttributeAccessIssue]  # any pytree, says optax
            extra = {"valid_value": 1.7}
        updates, state = update(_tree(10.0 + t, 0.3), state, params, value=loss, **extra)
        params = jax.tree.map(lambda p, u: jnp.asarray(np.asarray(p) + np.asarray(u)), params, updates)
    for leaf, recorded in RECORDED[name].items():
        np.testing.assert_allclose(np.ravel(params[leaf])[::5], recorded, rtol=1e-6, atol=1e-6, err_msg=leaf)
