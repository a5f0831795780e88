"""metalearn: a JAX library that learns learning algorithms."""

from metalearn.inner import InnerLoop as InnerLoop
from metalearn.learner import Family as Family
from metalearn.learner import Learner as Learner
from metalearn.learner import Signature as Signature
from metalearn.learner import inner_loop as inner_loop
