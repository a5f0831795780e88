"""The settings of a learned optimizer as a dataclass, from the arguments of its factory."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import tyro

from metalearn.errors import RunError
from metalearn.ranges import Decay, NonNegative, Positive, Size, Steps
from metalearn_models.optimizers.registry import OPTIMIZERS, setting_descriptions

__all__ = ["settings_of"]

_RANGES: dict[str, Any] = {
    "hidden": Size,
    "units": Size,
    "embed": Size,
    "window": Size,
    "rank": Size,
    "knots": Size,
    "horizons": Steps,
    "step_size": Positive,
    "nominal_step_size": Positive,
    "learning_rate": Positive,
    "output_scale": Positive,
    "epsilon": Positive,
    "exponent": NonNegative,
    "trust_coefficient": Positive,
    "rms": Positive,
    "rho": Positive,
    "damping": Positive,
    "period": Size,
    "slow_step_size": Positive,
    "sync_period": Steps,
    "weight_decay": Positive,
    "decay": Decay,
    "momentum": Decay,
    "beta1": Decay,
    "beta2": Decay,
}
"""What the settings of learned optimizers may be; of a tuple, each of its items."""


def settings_of(name: str, values: Mapping[str, Any] | None = None) -> Any:
    """The settings of a learned optimizer as a dataclass: the arguments of its factory that are plain values.

    Args:
        name: of the learned optimizer.
        values: settings to begin from; the factory's defaults where there are none.

    Raises:
        UnknownNameError: no such optimizer.
        RunError: a value that the factory has no argument for.
    """
    descriptions = setting_descriptions(name)
    factory = OPTIMIZERS[name].make
    hints = typing.get_type_hints(getattr(factory, "func", factory))
    plain = {
        p.name: p.default
        for p in inspect.signature(factory).parameters.values()
        if isinstance(p.default, int | float | str | tuple)
    }
    unknown = sorted((values or {}).keys() - plain.keys())
    if unknown:
        raise RunError(f"{name} has no setting {', '.join(unknown)}: it has {', '.join(plain) or 'none'}")
    fields = [
        (n, Annotated[_with_range(n, hints[n]), tyro.conf.arg(help=descriptions.get(n, ""))], field(default=default))
        for n, default in plain.items()
    ]
    cls = dataclasses.make_dataclass("Settings", fields, frozen=True)
    cls.__doc__ = f"Settings of the learned optimizer {name}."
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in (values or {}).items()})


def _with_range(name: str, hint: Any) -> Any:
    if name not in _RANGES:
        return hint
    return tuple[_RANGES[name], ...] if typing.get_origin(hint) is tuple else _RANGES[name]
