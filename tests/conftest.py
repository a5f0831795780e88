"""Strictness for every test: no silent rank or dtype promotion. And speed: most of their time would be compilation."""

import os

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Also for the processes that tests start, so that their bits can be compared.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
