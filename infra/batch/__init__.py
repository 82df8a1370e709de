"""Natural group commit: what waits while a transaction runs shares the next one."""

from infra.batch.batch import Batch, BatchFailed

__all__ = ["Batch", "BatchFailed"]
