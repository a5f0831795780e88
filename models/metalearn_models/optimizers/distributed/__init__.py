"""Training on many devices: compressed all-reduce with error feedback, and local steps between rare exchanges."""

from metalearn_models.optimizers.distributed.compressor import Compressor as Compressor
from metalearn_models.optimizers.distributed.compressor import from_messages as from_messages
from metalearn_models.optimizers.distributed.eight_bit import eight_bit as eight_bit
from metalearn_models.optimizers.distributed.error_feedback import CompressionState as CompressionState
from metalearn_models.optimizers.distributed.error_feedback import all_reduce as all_reduce
from metalearn_models.optimizers.distributed.error_feedback import compressed_all_reduce as compressed_all_reduce
from metalearn_models.optimizers.distributed.error_feedback import residual as residual
from metalearn_models.optimizers.distributed.low_rank import low_rank as low_rank
from metalearn_models.optimizers.distributed.sign import sign as sign
from metalearn_models.optimizers.distributed.top_k import top_k as top_k

__all__ = [
    "CompressionState",
    "Compressor",
    "all_reduce",
    "compressed_all_reduce",
    "eight_bit",
    "from_messages",
    "low_rank",
    "residual",
    "sign",
    "top_k",
]
