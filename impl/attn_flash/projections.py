"""The linear projections of a module, and the dtype in which they compute."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Linear(nn.Linear):
    """y = x W^T + b in the dtype of x, or in autocast's: weights held in another one are cast, and only once."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """input: (..., in features); returns (..., out features)."""
        dtype = computing_dtype(input)
        return linear(input, self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))


def computing_dtype(x: Tensor) -> torch.dtype:
    """The dtype of x or, where autocast will replace that in a matrix product, autocast's."""
    device = x.device.type
    if x.dtype == torch.float64 or not x.is_floating_point() or x.is_meta:
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
