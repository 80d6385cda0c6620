"""Recording how much each pixel attends to one token, with gradient, beside the fused attention the UNet already uses."""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class AttentionRecorder:
    """Keeps the column of one token, a sample, of every decoder cross-attention.

    Only `up_blocks.*.attn2` get a processor: recording everywhere multiplies memory, mostly by self-attention.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        """Install the processors; they do nothing but attend until `recording`."""
        self._maps: list[Tensor] = []
        self._columns: Tensor | None = None
        self._rows = slice(None)
        self.layers = [name for name in unet.attn_processors if name.startswith("up_blocks") and ".attn2." in name]
        if not self.layers:
            raise ValueError("the UNet has no cross-attention in its up blocks; DefectFill needs at least one")
        unet.set_attn_processor({**unet.attn_processors, **dict.fromkeys(self.layers, self._attend)})

    @contextmanager
    def recording(self, columns: Tensor, rows: slice = slice(None)) -> Iterator[list[Tensor]]:
        """Record the token at `columns` (B,) of the prompts of the batch's `rows`; the list is filled by one forward.

        Raises:
            RuntimeError: If not exactly one map a layer was recorded.
        """
        self._maps, self._columns, self._rows = [], columns, rows
        try:
            yield self._maps
        finally:
            self._columns = None
        if len(self._maps) != len(self.layers):
            raise RuntimeError(f"{len(self._maps)} attention maps were recorded, expected {len(self.layers)}")

    def checkpointed(self, block: Callable[..., Any], *args: Any) -> Any:
        """Run a block whose activations backward computes anew; for the UNet's `enable_gradient_checkpointing`."""
        return checkpoint(block, *args, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Of a block's first run, which records as always, and of its second one, in backward."""
        return nullcontext(), self._second_run(self._columns, self._rows)

    @contextmanager
    def _second_run(self, columns: Tensor | None, rows: slice) -> Iterator[None]:
        """Compute the maps of the first run again, since autograd wants the same tensors, into a list that nobody reads."""
        present = self._maps, self._columns, self._rows
        self._maps, self._columns, self._rows = [], columns, rows
        try:
            yield
        finally:
            self._maps, self._columns, self._rows = present

    def _attend(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: object) -> Tensor:
        """Cross-attention of (B, N, C) queries to (B, L, D) tokens, equal to the fused processor's output."""
        assert encoder_hidden_states is not None, "installed on cross-attention only"
        batch = len(hidden_states)
        query, key, value = (
            part.view(batch, -1, attn.heads, part.shape[-1] // attn.heads).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        )
        if self._columns is not None:
            self._maps.append(token_column(query[self._rows], key[self._rows], self._columns))
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.transpose(1, 2).reshape(batch, -1, attn.heads * attended.shape[-1])
        return attn.to_out[1](attn.to_out[0](attended)) / attn.rescale_output_factor


def token_column(query: Tensor, key: Tensor, columns: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) at one key a sample, averaged over heads, as square maps.

    Args:
        query: (B, heads, N, d); N must be a square number.
        key: (B, heads, L, d).
        columns: (B,) index of the token of each sample.

    Returns:
        (B, sqrt(N), sqrt(N)) probabilities in float32.
    """
    # Autocast would take the product back to half precision.
    with torch.autocast(query.device.type, enabled=False):
        logits = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
        wanted = columns.view(-1, 1, 1, 1).expand(-1, logits.shape[1], logits.shape[2], 1)
        column = (logits.gather(-1, wanted)[..., 0] - torch.logsumexp(logits, dim=-1)).exp().mean(dim=1)
    side = round(column.shape[1] ** 0.5)
    return column.view(len(column), side, side)
