"""The part ``cost``: what the deployed student costs."""

from typing import Any

from dotkd.analysis import flops, latency, parameter_count
from dotkd.data import Images
from dotkd.train.session import Session


def cost(session: Session, data: Images) -> dict[str, Any]:
    """Parameters, FLOPs and latency of what is deployed."""
    model, one = session.deployable.eval(), data.batch([0]).images
    return {
        "parameters": parameter_count(model),
        "flops": flops(model, one),
        "latency_seconds": latency(model, one).median,
    }
