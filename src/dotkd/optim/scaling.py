"""What a GradScaler needs from an optimizer whose gradients are not all in ``.grad``."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .gradients import Gradients, local, present, scaled

if TYPE_CHECKING:
    from torch.amp import GradScaler


def active(scaler: "GradScaler | None") -> "GradScaler | None":
    """Return the scaler, or None where it is switched off (``GradScaler(enabled=False)``)."""
    return scaler if scaler is not None and scaler.is_enabled() else None


def unscale(grads: Gradients, scaler: "GradScaler") -> Gradients:
    """Return the gradients divided by the scale; the tensors given stay as they are."""
    found = present(grads)
    if not found:
        return grads
    scale = scaler.scale(torch.ones((), dtype=torch.float32, device=found[0].device))
    # As GradScaler does it: the reciprocal of a scale that is no power of two wants the wider type.
    return scaled(grads, scale.double().reciprocal().float())


def nonfinite(grads: Gradients, device: torch.device) -> Tensor:
    """Return a boolean scalar on ``device``: whether any gradient holds an infinity or a NaN."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for grad in present(grads):
        by_device.setdefault(grad.device, []).append(local(grad))
    bad = torch.zeros((), dtype=torch.bool, device=device)
    for shards in by_device.values():
        filled = [shard for shard in shards if shard.numel()]
        if filled:
            largest = torch._foreach_norm(filled, torch.inf)
            bad |= (~torch.stack([norm.isfinite() for norm in largest])).any().to(device)
    return bad
