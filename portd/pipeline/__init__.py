"""Between decoder and lanes: the byte budget, the queue of batches, and the fences around big keys."""

from portd.pipeline.budget import BudgetStatistics, ByteBudget, OwnerStatistics
from portd.pipeline.fence import Fence, FenceStatistics, Run
from portd.pipeline.queue import BatchQueue, QueueClosed, QueueStatistics

__all__ = [
    "BatchQueue",
    "BudgetStatistics",
    "ByteBudget",
    "Fence",
    "FenceStatistics",
    "OwnerStatistics",
    "QueueClosed",
    "QueueStatistics",
    "Run",
]
