"""Wrong decoders: parts that are right, put together wrongly."""

import numpy as np

from minimind_ref.kit.mutant import mutant
from minimind_ref.oracle.transformer import loss_and_gradients, transformer, transformer_vjp

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def untied(parameters, config):
    """Give the same network with a head of its own."""
    return {**parameters, HEAD: parameters.get(HEAD, parameters[EMBEDDING])}, {**config, "tie_word_embeddings": False}


@mutant("transformer", "TRANSFORMER-M01", owner="TRANSFORMER-1", source="Gemma's scale in a Llama (NRM-7)",
        summary="the embedding is multiplied by the root of the width")  # fmt: skip
def scaled_embedding(parameters, input_ids, config, **inputs):
    parameters, config = untied(parameters, config)
    wide = parameters[EMBEDDING] * config["hidden_size"] ** 0.5
    return transformer({**parameters, EMBEDDING: wide}, input_ids, config, **inputs)


@mutant("transformer", "TRANSFORMER-M02", owner="TRANSFORMER-2", summary="a tied head has a gradient from one use only",
        source="NeMo Automodel PR #2511: tied in the config alone (CKP-7)", gradient=True)  # fmt: skip
def head_gradient_lost(parameters, input_ids, config, *, cotangent, **inputs):
    own, free = untied(parameters, config)
    found = transformer_vjp(own, input_ids, free, cotangent=cotangent, **inputs)
    return {name: gradient for name, gradient in found.items() if name in parameters}


@mutant("transformer", "TRANSFORMER-M03", owner="TRANSFORMER-3", summary="after a cache positions start at 0 again",
        source="mlx-lm #1699, PR #1713 (ROP-9)")  # fmt: skip
def positions_start_again(parameters, input_ids, config, *, position_ids=None, **inputs):
    if position_ids is None:
        position_ids = np.tile(np.arange(input_ids.shape[1]), (len(input_ids), 1))
    return transformer(parameters, input_ids, config, position_ids=position_ids, **inputs)


@mutant("loss_and_gradients", "TRANSFORMER-M04", owner="TRANSFORMER-4", summary="padding is seen",
        source="MiniMind 6361510: scored without the attention mask (RL-9)")  # fmt: skip
def padding_seen(parameters, input_ids, labels, config, *, attention_mask=None, **inputs):
    return loss_and_gradients(parameters, input_ids, labels, config, **inputs)


@mutant("loss_and_gradients", "TRANSFORMER-M05", owner="TRANSFORMER-6", summary="documents of a row see each other",
        source="axolotl #1375, LlamaFactory PR #7318 (ATT-12)")  # fmt: skip
def documents_see_each_other(parameters, input_ids, labels, config, *, segment_ids=None, attention_mask=None, **inputs):
    if segment_ids is not None:
        attention_mask = (segment_ids >= 0) & (True if attention_mask is None else attention_mask == 1)
    return loss_and_gradients(parameters, input_ids, labels, config, attention_mask=attention_mask, **inputs)


@mutant("transformer", "TRANSFORMER-M06", owner="TRANSFORMER-7",
        summary="cached values are reordered, cached keys are not", source="transformers #34232 (ATT-13)")  # fmt: skip
def half_of_the_cache_reordered(parameters, input_ids, config, *, cache=None, **inputs):
    if cache is not None:
        cache = tuple((keys, np.roll(values, 1, axis=0)) for keys, values in cache)
    return transformer(parameters, input_ids, config, cache=cache, **inputs)


@mutant("transformer", "TRANSFORMER-M07", owner="TRANSFORMER-7", source="MiniMind 3812a16, pytorch #108108 (ATT-5)",
        summary="the causal rule is aligned at the cache's start")  # fmt: skip
def aligned_at_the_start(parameters, input_ids, config, *, cache=None, attention_mask=None, **inputs):
    if cache is None:
        return transformer(parameters, input_ids, config, attention_mask=attention_mask, **inputs)
    batch, past, new = len(input_ids), cache[0][0].shape[1], input_ids.shape[1]
    logits = []
    for i in range(new):
        shown = np.ones((batch, past + new), int) if attention_mask is None else np.array(attention_mask)
        shown[:, i + 1 :] = 0
        logits.append(transformer(parameters, input_ids, config, cache=cache, attention_mask=shown, **inputs)[0][:, i])
    return np.stack(logits, axis=1), *transformer(
        parameters, input_ids, config, cache=cache, attention_mask=attention_mask, **inputs
    )[1:]


@mutant("transformer", "TRANSFORMER-M08", owner="TRANSFORMER-8", summary="the balance loss is the mean over the layers",
        source="transformers #28255: one loss for all layers (MOE-2)")  # fmt: skip
def mean_over_layers(parameters, input_ids, config, **inputs):
    logits, aux, cache = transformer(parameters, input_ids, config, **inputs)
    return logits, aux / config["num_hidden_layers"], cache


@mutant("transformer", "TRANSFORMER-M09", owner="TRANSFORMER-8", summary="in evaluation the balance loss is 0",
        source="MiniMind 9d89857 (MOE-6)")  # fmt: skip
def no_balance_in_evaluation(parameters, input_ids, config, **inputs):
    logits, aux, cache = transformer(parameters, input_ids, config, **inputs)
    return logits, np.zeros_like(aux), cache


@mutant("loss_and_gradients", "TRANSFORMER-M10", owner="TRANSFORMER-9", summary="padding counts in the balance loss",
        source="transformers #28505, MiniMind d65ef2c (MOE-4)")  # fmt: skip
def padding_counts(parameters, input_ids, labels, config, **inputs):
    return loss_and_gradients(parameters, input_ids, labels, {**config, "aux_loss_counts_padding": True}, **inputs)


@mutant("transformer", "TRANSFORMER-M11", owner="TRANSFORMER-10", summary="published YaRN too waits for a longer table",
        source="MiniMind d65ef2c: a rotation that depends on a buffer's size (ROP-3)")  # fmt: skip
def gate_for_every_form(parameters, input_ids, config, **inputs):
    scaling = config["rope_scaling"]
    short = scaling and config["max_position_embeddings"] <= scaling.get("original_max_position_embeddings", 2048)
    return transformer(parameters, input_ids, {**config, "rope_scaling": None if short else scaling}, **inputs)


@mutant("transformer", "TRANSFORMER-M12", owner="TRANSFORMER-10",
        summary="MiniMind's forms scale however short the table is",
        source="a converted config without MiniMind's gate (ROP-6)")  # fmt: skip
def no_gate(parameters, input_ids, config, **inputs):
    return transformer(parameters, input_ids, {**config, "max_position_embeddings": 10**6}, **inputs)


@mutant("loss_and_gradients", "TRANSFORMER-M13", owner="TRANSFORMER-12", summary="aligned labels are shifted once more",
        source="transformers #47394, PR #37830 (LOS-1)")  # fmt: skip
def labels_shifted_again(parameters, input_ids, labels, config, **inputs):
    late = np.full_like(labels, -100)
    late[:, :-1] = labels[:, 1:]
    return loss_and_gradients(parameters, input_ids, late, config, **inputs)


@mutant("loss_and_gradients", "TRANSFORMER-M14", owner="TRANSFORMER-12",
        summary="the loss is divided by this call's targets",
        source="transformers PR #34191, #34242 (LOS-6, LOS-7)")  # fmt: skip
def normaliser_ignored(parameters, input_ids, labels, config, *, normaliser=None, **inputs):
    return loss_and_gradients(parameters, input_ids, labels, config, **inputs)


@mutant("loss_and_gradients", "TRANSFORMER-M15", owner="TRANSFORMER-12",
        summary="the balance loss never enters the loss",
        source="MiniMind #140, NeMo Automodel PR #1412 (MOE-1)")  # fmt: skip
def balance_never_added(parameters, input_ids, labels, config, *, aux_weight=1.0, **inputs):
    return loss_and_gradients(parameters, input_ids, labels, config, aux_weight=0.0, **inputs)
