"""What reinforcement samples, judges, scores and logs: each answer with its own prompt, as the settings say."""

import json
import math
from dataclasses import replace

import pytest
import torch
from chat_runs import SHAPE, session, turns, write_conversations, write_network, write_records
from tolerance import assert_same

from minimind_ref import ModelConfig
from minimind_ref.data.chat_template import encode_chat
from minimind_ref.data.packing import IGNORE
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError
from minimind_ref.generate.generate import generate
from minimind_ref.loss.cross_entropy import token_logp
from minimind_ref.loss.grpo import is_clipped, kl_k3
from minimind_ref.train.answers import score, score_fixed
from minimind_ref.train.distributed import Ranks
from minimind_ref.train.loop import optimisation_step
from minimind_ref.train.policy_measures import PolicyMeasures
from minimind_ref.train.reward_model import RewardModel
from minimind_ref.train.rewards import BUILT_IN, Rewards, Term
from minimind_ref.train.rollout import Scored

OPTIONS = dict(max_seq_len=64, batch_size=3, num_generations=4, max_new_tokens=5, learning_rate=0.01, reward="length")


def made(folder, network=(), **options):
    data = folder / "data.jsonl"
    data = data if data.exists() else write_conversations(data)
    start = write_network(folder / "start", **dict(network))
    return session("grpo", init_from=start, data_path=data, out_dir=folder, **{**OPTIONS, **options})


def likely_to_end(ready):
    """Give the end token a row of the head that is likely after some prompts."""
    head = ready.run.model.lm_head.weight
    with torch.no_grad():
        ((likely, *_),) = generate(ready.run.model, [ready.stage.prompts[0].ids], max_new_tokens=1, temperature=0.0)
        head[ready.stage.tokenizer.end_id] = 2 * head[likely]


def laid_out(answers):
    """The prompt and the answer of each row."""
    found = []
    for ids, mask, labels in zip(answers.input_ids, answers.attention_mask, answers.labels, strict=True):
        real, new = ids[mask.bool()].tolist(), labels[labels != IGNORE].tolist()
        assert real[len(real) - len(new) :] == new
        found.append((real[: len(real) - len(new)], new))
    return found


@pytest.mark.parametrize("template", ["minimind2", "minimind3"])
def test_every_answer_stands_behind_its_prompt_and_is_judged_with_it(tmp_path, template):
    ready, seen = made(tmp_path, {"tie_word_embeddings": False}, template=template, max_new_tokens=2), []
    likely_to_end(ready)

    def judge(prompts, answers, references):
        seen.extend(zip(prompts, answers, references, strict=True))
        return [0.0] * len(answers)

    stage, tokenizer = ready.stage, ready.stage.tokenizer
    stage.sampler = replace(stage.sampler, rewards=Rewards((Term("judge", 1.0, judge),)))
    rows = [row for window in stage.windows(0) for answers in window for row in laid_out(answers)]
    ended = at_last = 0
    for (prompt, new), (messages, text, reference) in zip(rows, seen, strict=True):
        assert encode_chat(tokenizer, messages, template=template, add_generation_prompt=True).ids == prompt
        end = new[-1] in tokenizer.stop_ids
        ended, at_last = ended + end, at_last + (end and len(new) == 2)
        assert text == tokenizer.decode(new[: len(new) - end])
        assert [*messages, {"role": "assistant", "content": reference}] in written(tmp_path)
    assert 0 < at_last < ended < len(rows)
    assert stage.measures()["finished"] == ended / len(rows)
    prompts = [prompt for prompt, _ in rows]
    assert all(prompts[i] == prompts[i - i % 4] for i in range(len(prompts)))


def written(folder):
    return [json.loads(line)["conversations"] for line in (folder / "data.jsonl").read_text().splitlines()]


def test_answers_are_sampled_under_the_temperature_that_is_asked_for(tmp_path):
    ready = made(tmp_path, temperature=1e-4)
    for prompt, new in laid_out(next(ready.stage.windows(0))[0]):
        stops = ready.stage.tokenizer.stop_ids
        assert [new] == generate(ready.run.model, [prompt], max_new_tokens=5, stop_ids=stops, temperature=0.0)


def test_sampling_scoring_and_evaluation_take_the_precision_of_the_run(tmp_path):
    ready, seen = made(tmp_path, dtype="bfloat16"), []
    for network in (ready.run.model, ready.stage.reference):
        network.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    (answers,) = next(ready.stage.windows(0))
    ready.stage.evaluate(ready.run.model)
    assert len(seen) > 5 and all(seen)
    assert not answers.old_logp.requires_grad and not answers.reference_logp.requires_grad


def test_logits_are_divided_by_the_temperature_in_float32(tmp_path):
    ready = made(tmp_path, dtype="bfloat16")
    (answers,) = next(ready.stage.windows(0))
    with torch.no_grad(), ready.run.placement.autocast():
        logits = ready.run.model(answers.input_ids, attention_mask=answers.attention_mask).logits[answers.mask]
        found, _ = score(ready.run.model, answers.input_ids, answers.attention_mask, answers.labels, 0.7)
    assert logits.dtype is torch.bfloat16
    assert_same(found[answers.mask], token_logp(logits.float() / 0.7, answers.labels[answers.mask]))


def test_every_seed_batch_micro_step_and_rank_draws_other_answers(tmp_path):
    """All prompts are the same, so that nothing but the generator can tell the answers apart."""
    write_records(tmp_path / "data.jsonl", [{"conversations": turns("one two", "red")}] * 20)

    def drawn(seed, rank, unrelated=0):
        ready = made(tmp_path, seed=seed, batch_size=1, accumulation_steps=2)
        object.__setattr__(ready.stage.epochs, "ranks", Ranks(rank, 2))
        ready.stage.ranks = Ranks(rank, 2)
        torch.manual_seed(unrelated)
        windows = ready.stage.windows(0)
        return [str(laid_out(answers)) for _ in range(2) for answers in next(windows)]

    found = [drawn(seed, rank) for seed in (42, 43) for rank in (0, 1)]
    assert len({text for texts in found for text in texts}) == 16
    assert drawn(42, 1, unrelated=1) == found[1]


def test_what_is_logged_of_updates_is_what_the_scores_say(tmp_path):
    ready = made(tmp_path, num_updates=2, temperature=0.7, beta=0.1)
    for number, window in zip(range(3), ready.stage.windows(0), strict=False):
        (a,) = window
        inputs = (a.input_ids, a.attention_mask, a.labels)
        logp = score_fixed(ready.run.model, *inputs, placement=ready.run.placement, temperature=0.7)
        kl = kl_k3(logp, a.reference_logp)[a.mask]
        clipped = is_clipped(logp, a.old_logp, a.advantages, a.mask, clip_low=0.2, clip_high=0.2)
        optimisation_step(ready.run, window, ready.stage.loss)
        logged, ratio = ready.stage.measures(), (logp - a.old_logp)[a.mask].exp()
        assert (logged["ratio_min"], logged["ratio_max"]) == (ratio.min().item(), ratio.max().item())
        assert (logged["kl"], logged["clipped"]) == (kl.sum().item() / len(kl), clipped.sum().item() / len(kl))
        assert (logged["ratio_max"] == 1) == (number != 1) and (logged["kl"] > 0) == (number > 0)


def test_measures_are_means_and_extremes_since_they_were_last_taken():
    measures = PolicyMeasures()
    for rewards in ([[1.0, 1.0], [0.0, 2.0]], [[3.0, 5.0], [2.0, 6.0]]):
        measures.add_rollout(Scored([[1, 2], [3], [4, 5, 6], [7]], [True, False, True, True], torch.tensor(rewards)))
    for ratios in ([1.0, 4.0, 0.5], [2.0, 0.125], []):
        logp, old = torch.tensor(ratios).log2().mul(math.log(2)), torch.zeros(len(ratios))
        measures.add_update(logp, old, torch.ones(len(ratios)), torch.tensor(ratios) > 1)
    found = measures.take(Ranks())
    assert found.pop("ratio_min") == torch.tensor(-3 * math.log(2)).exp().item()
    assert found.pop("ratio_max") == torch.tensor(2 * math.log(2)).exp().item()
    means = {"reward": 2.5, "answer_length": 1.75, "finished": 0.75, "equal_groups": 0.25, "kl": 1.0, "clipped": 0.4}
    assert found == means
    assert measures.take(Ranks()) == {}


def test_an_evaluation_judges_greedy_answers_to_the_first_held_out_prompts(tmp_path):
    ready = made(tmp_path, {"tie_word_embeddings": False}, held_out=0.2, eval_prompts=3, batch_size=2)
    likely_to_end(ready)
    stage, chosen = ready.stage, ready.stage.held[:3]
    assert len(stage.held) == 4
    found = stage.evaluate(ready.run.model)
    stops = stage.tokenizer.stop_ids
    new = generate(ready.run.model, [p.ids for p in chosen], max_new_tokens=5, stop_ids=stops, temperature=0.0)
    ended = [ids[-1] in stops for ids in new]
    texts = [stage.tokenizer.decode(ids[: len(ids) - end]) for ids, end in zip(new, ended, strict=True)]
    rewards = BUILT_IN["length"]([], texts, [p.reference for p in chosen])
    assert found == (sum(rewards) / 3, sum(map(len, new)) / 3, sum(ended) / 3, 3)


def test_held_out_prompts_are_not_learnt_and_every_batch_is_updated_on_as_often_as_asked(tmp_path):
    stage = made(tmp_path, held_out=0.1, num_updates=3, epochs=2).stage
    ids = [encode_chat(stage.tokenizer, c[:-1], add_generation_prompt=True).ids for c in written(tmp_path)]
    assert [p.ids for p in stage.held] == ids[9::10]
    assert [p.ids for p in stage.prompts] == [x for n, x in enumerate(ids) if n % 10 != 9]
    assert stage.total_windows == 7 * 2 * 3
    assert len(list(stage.windows(0))) == stage.total_windows
    assert stage.state_dict()["rollouts"] == []  # all updates are taken


def test_the_advantage_and_the_divisor_are_those_that_are_asked_for(tmp_path):
    for scale, normalise in ((True, "sequence"), (False, "token"), (False, "constant")):
        stage = made(tmp_path, scale_rewards=scale, normalise=normalise, reward="length=1,repetition=-3").stage
        (answers,) = next(stage.windows(0))
        groups = answers.advantages.view(3, 4)
        tokens = int(answers.mask.sum())
        assert answers.num_documents == 12 and not answers.attention_mask.all()
        assert answers.num_targets == (tokens if normalise == "token" else 12) != tokens - 12
        spread = groups.square().mean(dim=1).sqrt()
        assert ((spread > 0.99).all() or not scale) and (scale or (spread < 0.9).all())


def test_a_continuation_needs_the_weights_and_the_references_that_the_run_started_with(tmp_path):
    def fingerprint(**network):
        return made(tmp_path, network).stage.fingerprint

    first = fingerprint()
    assert fingerprint() == first != fingerprint(scale=0.75)
    records = written(tmp_path)
    records[0][-1]["content"] += "!"
    write_records(tmp_path / "data.jsonl", [{"conversations": c} for c in records])
    assert fingerprint() != first


def test_prompt_and_answer_may_fill_the_positions_and_no_more(tmp_path):
    made(tmp_path, {"max_position_embeddings": 70}, max_new_tokens=6)
    with pytest.raises(UserError, match="--max_seq_len 64 for a prompt and --max_new_tokens 7 are more than"):
        made(tmp_path, {"max_position_embeddings": 70}, max_new_tokens=7)


def test_a_reward_model_reads_answers_in_the_template_of_the_run(tmp_path):
    torch.manual_seed(0)
    model = RewardModel(ModelConfig(**SHAPE), Tokenizer.load()).eval()
    model.save(tmp_path / "judge")
    ready = made(tmp_path, template="minimind3", reward=f"model:{tmp_path / 'judge'}")
    asked = ([turns("one two")], ["red"], [None])
    assert ready.stage.sampler.rewards(*asked) == model.reward(*asked, template="minimind3") != model.reward(*asked)
