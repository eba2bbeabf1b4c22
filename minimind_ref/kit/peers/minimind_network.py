"""MiniMind's whole network: logits and balance loss from weights by name."""

from collections.abc import Callable
from typing import Any

import torch
from torch.func import functional_call

from minimind_ref.kit.peers.minimind_checkout import Checkout
from minimind_ref.kit.peers.minimind_layers import COEFFICIENT, EXPERTS
from minimind_ref.kit.peers.offer import offered

SAME = "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size use_moe"
SAME += " max_position_embeddings rope_theta rms_norm_eps num_experts_per_tok norm_topk_prob dropout"


class Network:
    """The network of one checkout; experts run in training, where there is a balance loss."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout, self.generation = checkout, checkout.generation

    def operations(self) -> dict[str, Callable[..., Any]]:
        """Name the functions."""
        return {"transformer": self.transformer}

    def transformer(
        self, parameters: Any, input_ids: Any, config: Any, *, attention_mask: Any = None, cache: Any = None
    ) -> Any:
        """MiniMindForCausalLM, with the head width that the case has."""
        fields = vars(config) if hasattr(config, "__dict__") and not isinstance(config, dict) else dict(config)
        counts = not fields["use_moe"] or fields["aux_loss_counts_padding"]
        offered(counts or attention_mask is None or bool(attention_mask.all()), "padding counts in its balance loss")
        module = self.built(fields)
        past = None if cache is None else [(keys, values) for keys, values in cache]
        options = {"attention_mask": attention_mask, "past_key_values": past}
        if attention_mask is not None and past:
            seen = torch.ones(len(input_ids), past[0][0].shape[1], dtype=attention_mask.dtype)
            if attention_mask.shape[1] == input_ids.shape[1]:
                options["attention_mask"] = torch.cat((seen, attention_mask), dim=1)
        found = functional_call(
            module, dict(parameters), (input_ids,), {k: y for k, y in options.items() if y is not None}
        )
        aux = found["aux_loss"]
        return found["logits"], aux if isinstance(aux, torch.Tensor) else torch.tensor(float(aux))

    def built(self, fields: dict[str, Any]) -> Any:
        """Build the module, and give it the rotary table and head width of the configuration."""
        self.require(fields)
        own = {name: fields[name] for name in SAME.split()}
        if fields["use_moe"]:
            own |= {
                EXPERTS[self.generation]: fields["num_experts"],
                COEFFICIENT[self.generation]: fields["aux_loss_coef"],
            }
            own |= {
                "n_shared_experts": fields["num_shared_experts"],
                "moe_intermediate_size": fields["moe_intermediate_size"],
            }
            own |= {"seq_aux": fields["aux_loss_form"] == "sequence"}
        head_dim = fields["head_dim"] or fields["hidden_size"] // fields["num_attention_heads"]
        made = self.checkout.config(**own, tie_word_embeddings=fields["tie_word_embeddings"])
        scaling = fields["rope_scaling"]
        scaling = None if scaling is None else {key: x for key, x in scaling.items() if key != "type"}
        module = self.checkout.model.MiniMindForCausalLM(made)
        table = self.checkout.model.precompute_freqs_cis(
            head_dim, fields["max_position_embeddings"], fields["rope_theta"], scaling
        )
        module.model.freqs_cos, module.model.freqs_sin = table
        for layer in module.model.layers:
            layer.self_attn.head_dim = head_dim
            if self.generation == 3:
                layer.self_attn.q_norm = self.checkout.model.RMSNorm(head_dim, fields["rms_norm_eps"])
                layer.self_attn.k_norm = self.checkout.model.RMSNorm(head_dim, fields["rms_norm_eps"])
        return module.train(fields["use_moe"])

    def require(self, fields: dict[str, Any]) -> None:
        """Leave out what this generation does not have."""
        third = self.generation == 3
        kind = (fields["rope_scaling"] or {}).get("type", f"yarn-minimind{self.generation}")
        forms = ("slots",) if third else ("sequence", "batch")
        offered(
            fields["qk_norm"] == third and fields["norm_cast"] == ("after" if third else "before"), "another generation"
        )
        offered(kind == f"yarn-minimind{self.generation}", f"{kind} is not its scaling")
        offered(third or fields["tie_word_embeddings"], "its head is always tied")
        if fields["use_moe"]:
            offered(fields["aux_loss_form"] in forms, f"its balance loss is not of the form {fields['aux_loss_form']}")
            offered(not (third and fields["num_shared_experts"]), "it has no shared experts")
