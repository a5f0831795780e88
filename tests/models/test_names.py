"""What is no name and no path is refused by everything that loads by name, with the names that there are."""

import pytest

from metalearn.errors import UnknownNameError
from metalearn_models import learners, losses, optimizers
from metalearn_models.tabular.transformer import library as tables
from metalearn_tasks import objectives

LOADERS = {
    optimizers.load: ("a name or a path", "compass"),
    optimizers.read: ("a name or a path", "compass"),
    optimizers.make: ("a name", "small-fc"),
    learners.load: ("a name or a path", "digits-synthetic-16x10"),
    losses.load: ("a name or a path", "focal"),
    tables.load: ("a name or a path", "tables"),
    objectives.load: ("a name", "quadratic"),
}


@pytest.mark.unchecked_types
@pytest.mark.parametrize("source", [None, 3, b"x", ["star"]])
def test_what_is_no_name_is_refused_with_what_was_got_and_what_is_known(source):
    for load, (right, known) in LOADERS.items():
        with pytest.raises(UnknownNameError) as refused:
            load(source)
        message = str(refused.value)
        assert f"{right} is needed, got {source!r}. Known: " in message and known in message, load
