"""The table of learned optimizers: names, settings and what each setting means."""

import inspect

import pytest

from metalearn.errors import UnknownNameError
from metalearn.recipes.learned_optimizer.settings import settings_of
from metalearn_models import optimizers
from metalearn_models.optimizers.registry import OPTIMIZERS


@pytest.mark.parametrize("name", optimizers.names())
def test_every_setting_has_a_description_of_one_sentence(name):
    """Every plain argument of every factory, and no argument that the factory does not have."""
    descriptions = optimizers.setting_descriptions(name)
    assert descriptions.keys() <= inspect.signature(OPTIMIZERS[name].make).parameters.keys()
    settings = vars(settings_of(name)).keys()
    assert settings
    for setting in settings:
        text = descriptions[setting]
        assert 5 < len(text) < 120 and "\n" not in text and "the same" not in text, (setting, text)


def test_a_description_is_the_text_after_the_arguments_name():
    described = optimizers.setting_descriptions("lstm-log")
    assert described["output_scale"] == "Factor on the updates."
    assert described["preprocess"].startswith("Turns gradients into the network's inputs: ")  # of two lines, with a ':'
    assert described.keys() == {"hidden", "output_scale", "preprocess"}


def test_unknown_names_come_with_the_nearest():
    for function in (optimizers.make, optimizers.setting_descriptions):
        with pytest.raises(UnknownNameError, match="Did you mean 'rnnprop'"):
            function("rnnpop")


def test_names_are_all_that_make_knows_and_the_package_gives_functions():
    assert optimizers.names() == tuple(OPTIMIZERS)
    assert {optimizers.read(name).name for name in optimizers.shipped()} <= set(optimizers.names())
    for name in optimizers.__all__:  # and never a module of the same name
        assert callable(getattr(optimizers, name)), name
