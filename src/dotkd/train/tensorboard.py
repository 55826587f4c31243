"""TensorBoard events of a run; also the pattern for any other logger.

A callback is a function of one :class:`dotkd.records.EpochMetrics`. For another logger, pass one to
:func:`dotkd.train.train`::

    def log(metrics):
        numbers = metrics.model_dump(exclude_none=True)
        my_logger.log(numbers, step=metrics.epoch)

    train(recipe, folder, on_epoch=[log])
"""

from pathlib import Path
from typing import Any

from dotkd.errors import missing_extra
from dotkd.records import EpochMetrics


class TensorBoard:
    """A callback that writes each number of an epoch as a scalar, into ``FOLDER/tensorboard``.

    Args:
        folder: The run folder.

    Raises:
        BadInput: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing_extra("--tensorboard", "tb") from None
        self._make: Any = SummaryWriter
        self._folder = folder / "tensorboard"
        self._writer: Any = None

    def __call__(self, metrics: EpochMetrics) -> None:
        """Write an epoch; events of a killed run for it or later epochs are hidden."""
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=metrics.epoch)
        numbers = metrics.model_dump(exclude_none=True, exclude={"epoch", "gradient_reason"})
        for name, value in numbers.items():
            if isinstance(value, tuple):  # a momentum for each of several distillation losses
                for number, each in enumerate(value):
                    self._writer.add_scalar(f"{name}/{number}", each, metrics.epoch)
            else:
                self._writer.add_scalar(name, value, metrics.epoch)
        self._writer.flush()
