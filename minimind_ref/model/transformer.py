"""The decoder-only network.  Spec: specs/transformer.md."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor, nn

from minimind_ref.checks import require_integers, require_range, require_rank, require_shape
from minimind_ref.config import ModelConfig
from minimind_ref.model.attention import KeyValue
from minimind_ref.model.block import Block
from minimind_ref.model.initialisation import initialise_
from minimind_ref.model.rms_norm import RMSNorm
from minimind_ref.model.rope import rope_frequencies, rope_table, yarn_attention_factor

Cache = tuple[KeyValue, ...]


class Output(NamedTuple):
    """Logits (b s v) or (m v), the load-balancing loss (), and the cache of all tokens so far."""

    logits: Tensor
    aux_loss: Tensor
    cache: Cache


class Decoder(nn.Module):
    """Embedding, blocks and final norm: the part that MiniMind's state dict calls `model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, config.norm_cast)


class Transformer(nn.Module):
    """Pre-norm decoder with rotary positions, grouped-query attention and, optionally, experts (TRANSFORMER-1).

    `generator` makes the initial weights reproducible; it must live on the CPU.
    """

    def __init__(self, config: ModelConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.model.embed_tokens.weight = self.lm_head.weight
        initialise_(self, scheme=config.initialisation, generator=generator)

    def forward(
        self,
        input_ids: Int[Tensor, "..."],
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: Cache | None = None,
        logits_mask: Tensor | None = None,
    ) -> Output:
        """Logits for the token after each of `input_ids`, which follow those in `cache`.

        attention_mask (b t), past tokens included, is 1 where a token is real; padding on the left does not shift
        positions.  position_ids (b s) replace 0, 1, 2, ….  segment_ids (b t) number the documents of a packed row:
        tokens see their own only, and a negative number is padding.  The load-balancing loss has its coefficient, is
        summed over layers, and is there in evaluation too; padding does not count, and a sequence is a (row, segment).
        logits_mask (b s), boolean, asks for the logits of the marked positions only: (m v), row by row.
        """
        past = cache[0].keys.shape[1] if cache else 0
        _check(self.config, input_ids, attention_mask, position_ids, segment_ids, cache)
        cos, sin = self.rope_tables(position_ids, past, input_ids)
        mask = make_mask(attention_mask, segment_ids, input_ids.shape[1])
        counts = real_tokens(attention_mask, segment_ids, past)
        sequence_ids = None if segment_ids is None else number_sequences(segment_ids[:, past:])
        x = F.dropout(self.model.embed_tokens(input_ids.long()), self.config.dropout, training=self.training)
        aux_loss, present = x.new_zeros((), dtype=torch.float32), []
        for layer, block in enumerate(self.model.layers):
            x, aux, key_value = block(
                x,
                cos,
                sin,
                mask=mask,
                past=cache[layer] if cache else None,
                counts=counts,
                sequence_ids=sequence_ids,
            )
            aux_loss = aux_loss + aux
            present.append(key_value)
        if logits_mask is not None:
            require_shape("logits_mask", logits_mask, tuple(input_ids.shape), "the shape of input_ids")
            x = x[logits_mask.bool()]
        return Output(self.lm_head(self.model.norm(x)), aux_loss, tuple(present))

    def rope_tables(self, position_ids: Tensor | None, past: int, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of the positions: (s h/2), or (b s h/2) where position_ids are given.

        MiniMind's YaRN forms act only where the table is longer than the original length; the published one always.
        """
        c, scaling = self.config, self.config.rope_scaling
        if scaling and scaling["type"] != "yarn":
            length = scaling.get("original_max_position_embeddings", 2048)
            scaling = scaling if c.max_position_embeddings > length else None
        if position_ids is None:
            position_ids = torch.arange(past, past + input_ids.shape[1], device=input_ids.device)
        frequencies = rope_frequencies(c.head_dim, theta=c.rope_theta, scaling=scaling)
        table = rope_table(position_ids, frequencies, attention_factor=yarn_attention_factor(scaling))
        wide = torch.promote_types(self.lm_head.weight.dtype, torch.float32)
        return table[0].to(wide), table[1].to(wide)


def make_mask(
    attention_mask: Int[Tensor, "b t"] | Bool[Tensor, "b t"] | None, segment_ids: Int[Tensor, "b t"] | None, s: int
) -> Bool[Tensor, "b s t"] | None:
    """Which keys a query may see for reasons other than order: real tokens, of its own document (TRANSFORMER-6)."""
    mask = None if attention_mask is None else attention_mask.bool()[:, None].expand(-1, s, -1)
    if segment_ids is not None:
        same = segment_ids[:, -s:, None] == segment_ids[:, None, :]
        mask = same if mask is None else mask & same
    return mask


def real_tokens(attention_mask: Tensor | None, segment_ids: Tensor | None, past: int) -> Bool[Tensor, "b s"] | None:
    """Which new tokens are not padding; None where all are."""
    real = None if attention_mask is None else attention_mask[:, past:].bool()
    if segment_ids is not None:
        inside = segment_ids[:, past:] >= 0
        real = inside if real is None else real & inside
    return real


def number_sequences(segment_ids: Int[Tensor, "b s"]) -> Int[Tensor, "b s"]:
    """One number for each (row, segment), so that equal segment ids in two rows are two sequences."""
    row = torch.arange(segment_ids.shape[0], device=segment_ids.device)[:, None]
    low = segment_ids.min()
    return row * (segment_ids.max() - low + 1) + segment_ids - low


def _check(
    config: ModelConfig,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    segment_ids: Tensor | None,
    cache: Cache | None,
) -> None:
    past = cache[0].keys.shape[1] if cache else 0
    require_rank("input_ids", input_ids, 2)
    b, s = input_ids.shape
    if b == 0 or s == 0:
        raise ValueError(f"input_ids is empty: shape {(b, s)}")
    for name, ids in (("input_ids", input_ids), ("position_ids", position_ids), ("segment_ids", segment_ids)):
        if ids is not None:
            require_integers(name, ids)
    require_range("input_ids", input_ids, config.vocab_size, "vocab_size")
    if attention_mask is not None:
        require_shape("attention_mask", attention_mask, (b, past + s), "batch, and past plus new tokens")
        wrong = attention_mask[(attention_mask != 0) & (attention_mask != 1)]
        if wrong.numel():
            raise ValueError(f"attention_mask holds {wrong[0].item()}, neither 0 (padding) nor 1 (a real token)")
    if segment_ids is not None:
        require_shape("segment_ids", segment_ids, (b, past + s), "batch, and past plus new tokens")
    limit = config.max_position_embeddings
    if position_ids is None and past + s > limit:
        raise ValueError(f"{past} past and {s} new tokens exceed max_position_embeddings={limit}")
    if position_ids is not None:
        require_shape("position_ids", position_ids, (b, s), "the shape of input_ids")
        require_range("position_ids", position_ids, limit, "max_position_embeddings")
    if cache:
        _check_cache(config, cache, b, past)


def _check_cache(config: ModelConfig, cache: Cache, batch: int, past: int) -> None:
    if len(cache) != config.num_hidden_layers:
        raise ValueError(f"cache has {len(cache)} layers but num_hidden_layers={config.num_hidden_layers}")
    shape = (batch, past, config.num_key_value_heads, config.head_dim)
    for layer in cache:
        for name, tensor in zip(("keys", "values"), layer, strict=True):
            require_shape(f"cached {name}", tensor, shape, "batch, past tokens, key/value heads and head width")  # type: ignore[arg-type]
