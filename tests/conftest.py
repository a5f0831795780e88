"""Strictness for every test: no silent rank or dtype promotion. And speed: most of their time would be compilation."""

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", True)
