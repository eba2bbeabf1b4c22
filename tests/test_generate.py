"""Generation: batches, padding, cache, stops, samples, streams, and what it must leave as it was."""

import math
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from arrays import draw, draw_integers
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds
from test_transformer import model_config, model_of, parameters_of
from tolerance import assert_same

from minimind_ref.config import PRESETS, ModelConfig
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.generate.generate import generate, stream
from minimind_ref.model.attention import KeyValue
from minimind_ref.model.transformer import Output, Transformer
from minimind_ref.oracle import transformer as oracle
from minimind_ref.oracle.bounded import bound, bound_inputs, value

V, TABLE = 11, 40
PROMPTS = [[4, 7, 2, 9, 1], [3], [10, 0, 6]]
NAMES = ("minimind2", "minimind-3", "minimind-3-moe", "yarn")


class Scripted(Transformer):
    """A network whose logits are a function of the last id and of the length, and which notes how it was called."""

    def __init__(self, logits, vocab_size=V, **config):
        shape = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
        super().__init__(
            ModelConfig(vocab_size=vocab_size, max_position_embeddings=TABLE, intermediate_size=3, **shape, **config)
        )
        self.logits, self.calls = logits, []

    def forward(self, input_ids, attention_mask=None, *, cache=None, logits_mask=None):
        past = cache[0].keys.shape[1] if cache else 0
        total = past + input_ids.shape[1]
        assert attention_mask.shape == (len(input_ids), total)
        self.calls.append((tuple(input_ids.shape), self.training, torch.is_grad_enabled()))
        rows = [[self.logits(index, past + s + 1) for s, index in enumerate(row)] for row in input_ids.tolist()]
        kept = torch.zeros(len(input_ids), total, 1, 2)
        assert logits_mask.sum() == len(input_ids), "the head runs on the last positions only"
        return Output(torch.tensor(rows)[logits_mask], torch.zeros(()), (KeyValue(kept, kept),))


def successor(index, length, step=1):
    """Logits that prefer the next id."""
    return [float(i == (index + step) % V) for i in range(V)]


def loaded(name, seed=2, **changes):
    """A small network whose greedy answers are neither constant nor alike."""
    config = model_config(name, tie_word_embeddings=False, **changes)
    parameters = parameters_of(config, seed, scale=1.0)
    return config, parameters, model_of(config, parameters)


# ---- greedy, in batches and alone ----
@pytest.mark.parametrize("name", NAMES)
def test_ragged_prompts_give_what_each_gives_alone_and_what_the_oracle_gives_without_a_cache(name):
    config, parameters, model = loaded(name)
    together = generate(model, PROMPTS, max_new_tokens=5, temperature=0.0)
    assert together == [generate(model, [p], max_new_tokens=5, temperature=0.0)[0] for p in PROMPTS]
    assert len(set(map(tuple, together))) == 3 and max(len(set(row)) for row in together) > 2
    decided = []
    for prompt, answer in zip(PROMPTS, together, strict=True):
        ids = np.array([prompt + answer[:-1]])
        exact = {n: bound_inputs(p, profile="float64")[0] for n, p in parameters.items()}
        logits = oracle.transformer(exact, ids, config.to_dict())[0]
        for row, e, chosen in zip(
            value(logits)[0, len(prompt) - 1 :], bound(logits)[0, len(prompt) - 1 :], answer, strict=True
        ):
            rest = np.delete(row + 2 * e, chosen).max()
            decided.append(bool(row[chosen] - 2 * e[chosen] > rest))
            assert decided[-1] or row[chosen] + 2 * e[chosen] >= rest, "another token is better"
    assert np.mean(decided) > 0.9


@settings(max_examples=6)
@given(seeds, st.permutations(range(3)), st.floats(1.1, 3))
def test_the_order_of_the_batch_and_its_padding_do_not_matter(seed, order, penalty):
    _, _, model = loaded("minimind2", seed)
    options = {"max_new_tokens": 6, "temperature": 0.0, "repetition_penalty": penalty}
    found = generate(model, [PROMPTS[i] for i in order], **options)
    assert found == [generate(model, [PROMPTS[i]], **options)[0] for i in order]


def test_each_step_sees_one_token_and_the_prompt_is_seen_once_for_all_samples():
    model = Scripted(successor)
    generate(model, PROMPTS[:2], max_new_tokens=3, num_samples=5)
    assert [shape for shape, _, _ in model.calls] == [(2, 5), (10, 1), (10, 1)]


# ---- settings reach the choice ----
def test_padding_is_not_penalised_and_the_answer_is():
    """Id 0 is best; the padding in front of the second row must not count as having seen it."""
    model = Scripted(lambda index, length: [3.0, 2.9, 2.0, *[-1.0] * (V - 3)])
    options = {"temperature": 0.0, "repetition_penalty": 2.0}
    assert generate(model, [[5, 4, 0], [5]], max_new_tokens=4, **options) == [[1, 2, 0, 0], [0, 1, 2, 0]]


@pytest.mark.parametrize(
    "options, allowed",
    (({"top_k": 3}, {8, 9, 10}), ({"top_p": 0.3}, {9, 10}), ({"min_p": 0.6}, {9, 10}), ({"temperature": 0.02}, {10})),
    ids=str,
)
def test_only_kept_tokens_are_sampled_and_all_of_them(options, allowed):
    model = Scripted(lambda index, length: [i * 0.3 for i in range(V)])
    generator = torch.Generator().manual_seed(7)
    rows = generate(model, [[1, 2]], max_new_tokens=8, num_samples=13, generator=generator, **options)
    assert {index for row in rows for index in row} == allowed


def test_sampled_frequencies_are_the_softmax_of_the_scaled_logits():
    """Exact binomial tails, one seed; the second token, so that samples were apart before it was drawn."""
    logits, n = draw(21, (5,), 1.0), 1000
    model = Scripted(lambda index, length: logits.tolist(), vocab_size=5)
    rows = generate(
        model,
        [[3, 1]],
        max_new_tokens=2,
        num_samples=n,
        temperature=1.7,
        generator=torch.Generator().manual_seed(3),
    )
    counts = Counter(row[1] for row in rows)
    assert min(counts.values()) > 10
    for index, p in enumerate((torch.tensor(logits) / 1.7).softmax(dim=-1).tolist()):
        tail = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(counts[index] + 1)]
        assert min(sum(tail), 1 - sum(tail[:-1])) > 1e-4
    pairs = Counter(map(tuple, rows))
    assert len(pairs) == 25, "two tokens of a row are drawn independently"


@pytest.mark.parametrize("function", [generate, stream])
def test_settings_that_are_not_given_leave_the_probabilities_alone(function):
    """Of so many tokens, one part in a thousand of any setting changes some."""
    model, neutral = Scripted(lambda index, length: [7.0, 6.0, 3.0, -0.5, *[-30.0] * (V - 4)]), {
        "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0
    }  # fmt: skip

    def drawn(**settings):
        generator = torch.Generator().manual_seed(3)
        return list(function(model, [[0]], max_new_tokens=1, num_samples=20_000, generator=generator, **settings))

    expected = drawn(**neutral)
    assert drawn() == expected
    changes = {"temperature": 1.001, "top_k": 1, "top_p": 0.999, "min_p": 0.001, "repetition_penalty": 1.001}
    for name, other in changes.items():
        assert drawn(**{**neutral, name: other}) != expected, name


# ---- stops and lengths ----
def test_a_stop_ends_its_own_row_only():
    model = Scripted(successor)
    options = {"max_new_tokens": 6, "temperature": 0.0}
    assert generate(model, [[3], [7, 1], [5]], stop_ids=[6, 4], **options) == [[4], [2, 3, 4], [6]]
    assert len(model.calls) == 3, "and when all rows have ended nothing is computed any more"
    assert generate(model, [[3], [7]], stop_ids=[9], **options) == [[4, 5, 6, 7, 8, 9], [8, 9]]


def test_a_row_that_ended_changes_no_number_of_the_others():
    _, _, model = loaded("minimind2")
    options = {"max_new_tokens": 7, "temperature": 1.5}
    free = generate(model, PROMPTS, generator=torch.Generator().manual_seed(5), **options)
    stop = free[0][1]
    ended = generate(model, PROMPTS, stop_ids=[stop], generator=torch.Generator().manual_seed(5), **options)
    expected = [row[: row.index(stop) + 1] if stop in row else row for row in free]
    assert ended == expected
    assert len({len(row) for row in ended}) > 1


def test_a_row_that_ended_costs_nothing_and_its_samples_go_on():
    model = Scripted(successor)
    rows = generate(model, [[3], [7, 1], [5]], max_new_tokens=6, stop_ids=[6, 4], temperature=0.0, num_samples=2)
    assert rows == [[4], [4], [2, 3, 4], [2, 3, 4], [6], [6]]
    assert [shape for shape, _, _ in model.calls] == [(3, 2), (2, 1), (2, 1)]
    prompt, (_, _, model) = [4, 7, 2], loaded("minimind2")
    options = {"max_new_tokens": 9, "num_samples": 7, "temperature": 2.0}
    free = generate(model, [PROMPTS[1], prompt], generator=torch.Generator().manual_seed(5), **options)
    stops = [row[n] for n, row in enumerate(free[:3])]
    ended = generate(model, [PROMPTS[1], prompt], stop_ids=stops, generator=torch.Generator().manual_seed(5), **options)
    cut = [next((n for n, index in enumerate(row, start=1) if index in stops), len(row)) for row in free]
    assert ended == [row[:n] for n, row in zip(cut, free, strict=True)] and len(set(cut)) > 3


def test_the_table_may_be_filled_and_not_exceeded():
    model = Scripted(successor)
    longest = [0] * (TABLE - 3)
    assert len(generate(model, [longest, [1]], max_new_tokens=4)[1]) == 4  # the last id is never an input
    with pytest.raises(ValueError, match=rf"{TABLE - 3} and 5 new.*max_position_embeddings={TABLE}.*YaRN"):
        generate(model, [[1], longest], max_new_tokens=5)


def test_yarn_makes_room_for_a_longer_prompt():
    _, _, model = loaded("yarn", max_position_embeddings=64)
    prompt = draw_integers(22, (TABLE + 9,), 0, V).tolist()
    assert len(generate(model, [prompt], max_new_tokens=3)[0]) == 3
    with pytest.raises(ValueError, match="max_position_embeddings=40"):
        generate(loaded("yarn")[2], [prompt], max_new_tokens=3)


def test_no_new_tokens_are_no_work():
    model = Scripted(successor)
    assert generate(model, [[1], [2]], max_new_tokens=0, num_samples=2) == [[], [], [], []]
    assert model.calls == []


# ---- samples and seeds ----
def test_samples_are_grouped_by_prompt_and_differ():
    model = Scripted(successor)
    greedy = generate(model, [[1], [5, 6]], max_new_tokens=2, temperature=0.0, num_samples=3)
    assert greedy == [[2, 3]] * 3 + [[7, 8]] * 3
    _, _, model = loaded("minimind2")
    once = generate(model, PROMPTS, max_new_tokens=4, temperature=0.0)
    assert len(set(map(tuple, once))) == 3, "prompts whose samples could be exchanged show nothing"
    thrice = generate(model, PROMPTS, max_new_tokens=4, temperature=0.0, num_samples=3)
    assert thrice == [row for row in once for _ in range(3)]
    even = Scripted(lambda index, length: [0.0] * V)
    rows = generate(even, [[1]], max_new_tokens=1, num_samples=16, generator=torch.Generator().manual_seed(2))
    assert len({row[0] for row in rows}) > 4, "the first token is drawn for each sample, not once for all"


def test_a_generator_makes_the_tokens_repeatable_and_leaves_the_global_one_alone():
    _, _, model = loaded("minimind2")
    state, generator = torch.get_rng_state(), torch.Generator().manual_seed(11)

    def run():
        return generate(model, PROMPTS, max_new_tokens=6, num_samples=2, generator=generator)

    first, second = run(), run()
    generator.manual_seed(11)
    assert run() == first != second
    assert_same(torch.get_rng_state(), state)


def test_greedy_draws_nothing():
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    generate(loaded("minimind2")[2], PROMPTS, max_new_tokens=3, temperature=0.0, generator=generator)
    assert_same(generator.get_state(), state)


# ---- streams ----
def test_a_stream_gives_each_step_as_it_is_chosen():
    model = Scripted(successor)
    steps = stream(model, [[3], [7, 1]], max_new_tokens=6, stop_ids=[4], temperature=0.0)
    assert model.calls == []
    assert next(steps) == [4, 2] and len(model.calls) == 1
    assert list(steps) == [[None, 3], [None, 4]]


def test_a_stream_and_a_list_are_the_same_tokens():
    _, _, model = loaded("minimind-3")
    options = {"max_new_tokens": 5, "num_samples": 2, "top_p": 0.9, "repetition_penalty": 1.2}
    steps = stream(model, PROMPTS, generator=torch.Generator().manual_seed(4), **options)
    rows = generate(model, PROMPTS, generator=torch.Generator().manual_seed(4), **options)
    assert [list(row) for row in zip(*steps, strict=True)] == rows


def test_streamed_text_never_has_half_a_character():
    tokenizer = Tokenizer.load()
    text = "naïve 中文字 🙂🙃 end"
    ids = [*tokenizer.encode(text), tokenizer.end_id]
    assert any("\ufffd" in tokenizer.decode([index]) for index in ids), "some token must hold half a character"

    def script(index, length):
        return [float(i == ids[length - 2]) for i in range(tokenizer.vocab_size)]

    model = Scripted(script, vocab_size=tokenizer.vocab_size)
    steps = stream(model, [[9, 9]], max_new_tokens=len(ids), stop_ids=[tokenizer.end_id], temperature=0.0)
    pieces = list(tokenizer.decode_stream(index for (index,) in steps))
    assert "".join(pieces) == text and len(pieces) > 5
    assert not any("\ufffd" in piece for piece in pieces)


# ---- what is left as it was ----
def test_modes_are_eval_inside_and_restored_at_every_yield_and_at_the_end():
    model = Scripted(successor).train()
    model.model.norm.eval()  # a part that its owner has frozen
    before = [module.training for module in model.modules()]
    steps = stream(model, [[1]], max_new_tokens=4)
    for _ in islice(steps, 2):
        assert [module.training for module in model.modules()] == before
        assert torch.is_grad_enabled()
    steps.close()
    assert [module.training for module in model.modules()] == before
    assert model.calls and all(call[1:] == (False, False) for call in model.calls)


def test_modes_are_restored_after_an_error():
    def fails(index, length):
        raise RuntimeError("out of memory")

    model = Scripted(fails).train()
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(model, [[1]], max_new_tokens=4)
    assert model.training and torch.is_grad_enabled()
    broken = Scripted(lambda index, length: [math.nan] * V).train()
    with pytest.raises(ValueError, match="logits of row 0"):
        generate(broken, [[1]], max_new_tokens=4)
    assert broken.training


def test_dropout_does_not_act():
    model = loaded("minimind2", dropout=0.5)[2].train()
    options = {"max_new_tokens": 6, "temperature": 0.0}
    assert generate(model, PROMPTS, **options) == generate(loaded("minimind2")[2], PROMPTS, **options)


@pytest.mark.parametrize("mode", (torch.enable_grad, torch.inference_mode))
def test_a_training_step_after_generation_has_the_gradients_of_one_before(mode):
    _, _, model = loaded("minimind2")
    ids = torch.tensor([PROMPTS[0]])

    def gradients():
        model.zero_grad()
        output = model(ids)
        output.logits.square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    before = gradients()
    with mode():
        generate(model, PROMPTS, max_new_tokens=3, num_samples=2)
    for one, other in zip(before, gradients(), strict=True):
        assert_same(one, other)


class Remembering(Transformer):
    """A network that makes a table when it first runs, and keeps it."""

    def forward(self, *arguments, **options):
        output = super().forward(*arguments, **options)
        if not hasattr(self, "table"):
            self.table = torch.linspace(0.5, 1.5, V, dtype=output.logits.dtype)
        return output._replace(logits=output.logits * self.table)


def test_what_a_network_keeps_of_a_generation_is_fit_for_training():
    model = Remembering(model_config("minimind2"))
    generate(model, [[1, 2]], max_new_tokens=2)
    model(torch.tensor([[1, 2]])).logits.square().sum().backward()
    assert all((p.grad != 0).any() for p in model.parameters())


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_low_precision_networks_generate(dtype):
    model = Transformer(PRESETS["tiny"], generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = generate(model, PROMPTS, max_new_tokens=3, top_p=0.9, temperature=0.7, repetition_penalty=1.1)
    assert [len(row) for row in rows] == [3, 3, 3]


# ---- refusals ----
@pytest.mark.parametrize(
    "changes, message",
    (
        ({"prompts": []}, "prompts.*0 given"),
        ({"prompts": [[1], []]}, r"prompts\[1\]"),
        ({"prompts": [[1], [2, V]]}, rf"prompts\[1\] holds {V}.*vocab_size={V}"),
        ({"prompts": [[-1]]}, r"prompts\[0\] holds -1"),
        ({"stop_ids": [V + 3]}, rf"stop_ids holds {V + 3}.*vocab_size={V}"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_k": -2}, "top_k=-2"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"min_p": -0.5}, "min_p=-0.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"repetition_penalty": math.nan}, "repetition_penalty=nan"),
        ({"repetition_penalty": math.inf}, "repetition_penalty=inf"),
    ),
    ids=str,
)
@pytest.mark.parametrize("function", (generate, stream))
def test_what_cannot_be_continued_is_refused_before_the_network_runs(function, changes, message):
    model = Scripted(successor)
    with pytest.raises(ValueError, match=message):
        function(model, **{"prompts": [[1]], "max_new_tokens": 2, **changes})
    assert model.calls == []
