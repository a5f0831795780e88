"""The check of a learner's configuration and signature, for all that build learners."""

from __future__ import annotations

from typing import Any

import numpy as np

from metalearn.learner import Signature
from metalearn.ranges import Named, allows, fields_of, refusal


def check_settings(signature: Signature, config: Any) -> None:
    """Refuse a learner that cannot be built.

    Args:
        signature: the shapes that it is built for.
        config: its configuration. Names in it are left to the library that knows them.

    Raises:
        ValueError: a field of the configuration is out of the range that its type declares, or a size of the signature
            is less than 1; the message names the field, what it may be, and what it is.
    """
    for field in fields_of(config):
        named = any(isinstance(rule, Named) for rule in getattr(field.hint, "__metadata__", ()))
        # NumPy's numbers are as good as Python's.
        value = field.value.item() if isinstance(field.value, np.generic) else field.value
        if not named and not allows(field.hint, value):
            raise ValueError(refusal(field.name, field.hint, value))
    for name, value in signature._asdict().items():
        if name != "regression" and value < 1:
            raise ValueError(f"{name} of a signature must be at least 1, got {value}")
