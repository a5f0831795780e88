"""What a step costs: floating-point operations, memory and messages, read from its program before it runs."""

from metalearn.costs.flops import peak_flops as peak_flops
from metalearn.costs.flops import step_flops as step_flops
from metalearn.costs.memory import available_bytes as available_bytes
from metalearn.costs.memory import bound_bytes as bound_bytes
from metalearn.costs.memory import check_memory as check_memory
from metalearn.costs.memory import format_bytes as format_bytes
from metalearn.costs.memory import needed_bytes as needed_bytes
from metalearn.costs.messages import Messages as Messages
from metalearn.costs.messages import program_messages as program_messages
from metalearn.costs.products import Product as Product
from metalearn.costs.products import count_products as count_products

__all__ = [
    "Messages",
    "Product",
    "available_bytes",
    "bound_bytes",
    "check_memory",
    "count_products",
    "format_bytes",
    "needed_bytes",
    "peak_flops",
    "program_messages",
    "step_flops",
]


def __dir__() -> list[str]:
    return sorted(__all__)
