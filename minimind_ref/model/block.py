"""One pre-norm block: attention, then a feed-forward network or experts.  Spec: specs/block.md."""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minimind_ref.config import ModelConfig
from minimind_ref.model.attention import Attention, KeyValue
from minimind_ref.model.moe import MoE
from minimind_ref.model.rms_norm import RMSNorm
from minimind_ref.model.swiglu import SwiGLU


class Block(nn.Module):
    """h = x + attention(norm(x)), y = h + ffn(norm(h)) (BLOCK-1), under MiniMind's names.

    Source: Xiong et al. 2020, arXiv:2002.04745, fig. 1b; Touvron et al. 2023, arXiv:2302.13971, sec. 2.2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, config.norm_cast)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, config.norm_cast)
        self.mlp = MoE(config) if config.use_moe else SwiGLU(config.hidden_size, config.intermediate_size)

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        cos: Float[Tensor, "*lead half"],
        sin: Float[Tensor, "*lead half"],
        *,
        mask: Bool[Tensor, "b s t"] | None = None,
        past: KeyValue | None = None,
        counts: Bool[Tensor, "b s"] | None = None,
        sequence_ids: Int[Tensor, "b s"] | None = None,
    ) -> tuple[Float[Tensor, "b s d"], Float[Tensor, ""], KeyValue]:
        """Return the new residual stream, the load-balancing loss (0 without experts) and the extended cache."""
        attended, present = self.self_attn(self.input_layernorm(x), cos, sin, mask=mask, past=past)
        h = x + attended
        normed = self.post_attention_layernorm(h)
        if isinstance(self.mlp, MoE):
            y, aux = self.mlp(normed, counts, sequence_ids)
        else:
            y, aux = self.mlp(normed), x.new_zeros(())
        return h + F.dropout(y, self.dropout, training=self.training), aux, present
