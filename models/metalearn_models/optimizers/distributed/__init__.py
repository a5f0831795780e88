"""Training on many devices: compressed all-reduce with error feedback, and local steps between rare exchanges."""

from metalearn_models.optimizers.distributed.compressor import Coding as Coding
from metalearn_models.optimizers.distributed.compressor import Compressor as Compressor
from metalearn_models.optimizers.distributed.compressor import from_coding as from_coding
from metalearn_models.optimizers.distributed.data_parallel import DataParallel as DataParallel
from metalearn_models.optimizers.distributed.data_parallel import DeviceState as DeviceState
from metalearn_models.optimizers.distributed.data_parallel import data_parallel as data_parallel
from metalearn_models.optimizers.distributed.eight_bit import eight_bit as eight_bit
from metalearn_models.optimizers.distributed.error_feedback import CompressionState as CompressionState
from metalearn_models.optimizers.distributed.error_feedback import all_reduce as all_reduce
from metalearn_models.optimizers.distributed.error_feedback import compressed_all_reduce as compressed_all_reduce
from metalearn_models.optimizers.distributed.error_feedback import residual as residual
from metalearn_models.optimizers.distributed.local_sgd import LocalState as LocalState
from metalearn_models.optimizers.distributed.local_sgd import diloco as diloco
from metalearn_models.optimizers.distributed.local_sgd import local_sgd as local_sgd
from metalearn_models.optimizers.distributed.low_rank import low_rank as low_rank
from metalearn_models.optimizers.distributed.sign import sign as sign
from metalearn_models.optimizers.distributed.top_k import top_k as top_k
from metalearn_models.optimizers.distributed.two_stages import in_two_stages as in_two_stages

__all__ = [
    "Coding",
    "CompressionState",
    "Compressor",
    "DataParallel",
    "DeviceState",
    "LocalState",
    "all_reduce",
    "compressed_all_reduce",
    "data_parallel",
    "diloco",
    "eight_bit",
    "from_coding",
    "in_two_stages",
    "local_sgd",
    "low_rank",
    "residual",
    "sign",
    "top_k",
]
