"""What fine-tuning learns from and how it is evaluated: whole conversations, and the loss of the assistant's words."""

import pytest
import torch
from chat_runs import session, write_conversations, write_network
from tolerance import Ulps, assert_within

from minimind_ref.data.chat_template import encode_chat
from minimind_ref.data.jsonl import read_records
from minimind_ref.loss.cross_entropy import token_logp

SUMS = Ulps(2**8, "float32", "the same sums in batches, padded to another length")


@pytest.mark.parametrize(("eval_tokens", "conversations"), [(300, 3), (1, 1)])
def test_an_evaluation_is_the_loss_of_the_first_held_out_conversations(tmp_path, eval_tokens, conversations):
    """As many as rows of 96 hold the tokens, and at least one.  Dropout is off in it, and on again afterwards."""
    data = write_conversations(tmp_path / "data.jsonl")
    options = dict(max_seq_len=96, batch_size=2, held_out=0.2, template="minimind3", dropout=0.5)
    options |= dict(init_from=write_network(tmp_path / "start"), data_path=data, out_dir=tmp_path)
    ready = session("sft", eval_tokens=eval_tokens, **options)
    model = ready.run.model.train()
    found = ready.stage.evaluate(model)
    assert all(module.training for module in model.modules())
    chats = [
        encode_chat(ready.stage.tokenizer, record["conversations"], template="minimind3")
        for record in read_records(data, lambda record: record)
    ]
    nll, targets = torch.tensor(0.0), 0
    for chat in chats[4::5][:conversations]:
        ids, learnt = torch.tensor(chat.ids), torch.tensor(chat.supervised)[1:]
        with torch.no_grad():
            logp = token_logp(model.eval()(ids[None]).logits[0, :-1], ids[1:])
        nll, targets = nll - logp[learnt].sum(), targets + int(learnt.sum())
    assert found.tokens == targets
    assert_within(torch.tensor(found.loss), nll / targets, SUMS)
    assert_within(torch.tensor(found.values()["held_out_perplexity"]), (nll / targets).exp(), SUMS)
