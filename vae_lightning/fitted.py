"""What a score, a threshold and preprocessing have in common: what they learn is state that travels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .recipe import Recorded


class Fitted(Recorded, nn.Module):
    """A module that learns buffers: they are empty until it is fitted, and load whatever their shape."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and saved.shape != buffer.shape:
                self._buffers[name] = torch.empty_like(saved, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
