"""The metrics of a run as TensorBoard events; also the pattern for any other logger.

A callback is any function of one dict, the line that ``metrics.jsonl`` gets for an epoch. For another
logger, pass one to :func:`dotkd.train.loop.train`::

    def log(metrics):
        step = metrics["epoch"]
        my_logger.log({name: value for name, value in metrics.items() if value is not None}, step=step)

    train(recipe, folder, on_epoch=[log])
"""

from pathlib import Path
from typing import Any

from dotkd.errors import missing_extra


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

    def __call__(self, metrics: dict[str, Any]) -> None:
        """Write an epoch; what an earlier, killed run wrote of it or of later ones is hidden."""
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=metrics["epoch"])
        for name, value in metrics.items():
            if value is not None and name != "epoch":
                self._writer.add_scalar(name, value, metrics["epoch"])
        self._writer.flush()
