"""The built-in tasks: answers solved again from the words, splits that share no question, the same bytes always."""

import hashlib
import json
import re
from collections import Counter
from fractions import Fraction
from math import comb

import pytest

from minimind_ref.data.chat_template import TEMPLATES, encode_chat
from minimind_ref.data.jsonl import read_records
from minimind_ref.data.messages import read_messages
from minimind_ref.data.tasks import SPLITS, TASKS, Sizes, distinct_questions, question, split_of, write
from minimind_ref.data.tasks.__main__ import main
from minimind_ref.data.tasks.records import MARK, MARKED_PAIRS
from minimind_ref.data.tasks.stream import Stream
from minimind_ref.data.tasks.wordings import LANGUAGES, WORDINGS
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError, run_command

KINDS = ("pretrain", "sft", "dpo", "grpo")
SMALL = Sizes(pretrain=61, sft=487, dpo=301, grpo=67, validation=53, held_out=71)
DIGEST = "ff817d3413f273fa63eba390dfa0771c22f60afd97333e5a21afdca82464909b"
LETTERS = re.compile(r"(?<![A-Za-z])[a-z](?: [a-z])*(?![A-Za-z])")


def operands(record):
    """What a record asks, read off its words: the task and its letters or numbers."""
    prompt = prompt_of(record)
    found = re.findall(r"\d+", prompt) or LETTERS.findall(prompt)
    if record["task"] == "count":  # the one letter may stand before or after the many
        found = sorted(found, key=len)
    return record["task"], tuple(sorted(map(int, found)) if found[0].isdigit() else found)


def solve(record):
    """The answer, by other means than the tasks' own."""
    task, asked = operands(record)
    if task == "sum":
        return str(sum(asked))
    letters = asked[-1].split()
    if task == "count":
        return str(Counter(letters)[asked[0]])
    if task == "reverse":
        letters = [letters[-i] for i in range(1, len(letters) + 1)]
    elif task == "upper":
        letters = [chr(ord(letter) - 32) for letter in letters]
    return " ".join(letters)


def prompt_of(record):
    if "text" in record:
        return record["text"].split("\n")[0]
    return (record.get("conversations") or record["chosen"])[0]["content"]


def answer_of(record, key="conversations"):
    return record["text"].split("\n")[1] if "text" in record else record[key][-1]["content"]


def inside(count, trials, share):
    """Whether a binomial count lies between its quantiles of 1e-9 and 1 - 1e-9, in exact arithmetic."""
    p = Fraction(share).limit_denominator(1000)
    weights = [
        comb(trials, k) * p.numerator**k * (p.denominator - p.numerator) ** (trials - k) for k in range(trials + 1)
    ]
    least = p.denominator**trials // 10**9
    return sum(weights[: count + 1]) > least and sum(weights[count:]) > least


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write(folder, seed=5, sizes=SMALL)
    return folder


@pytest.fixture(scope="module")
def habitual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("habit")
    write(folder, seed=5, habit=0.3, sizes=SMALL)
    return folder


def read(folder, kind, split):
    return list(read_records(folder / f"{kind}_{split}.jsonl", lambda record: record))


def everything(folder):
    return [record for kind in KINDS for split in SPLITS for record in read(folder, kind, split)]


@pytest.mark.parametrize("task", TASKS)
def test_no_split_shares_a_question_with_another_whatever_the_seed(task):
    seen = {
        split: {
            (q.task, q.key) for seed in (0, 1, 77) for n in range(250) for q in (question(task, split, n, seed=seed),)
        }
        for split in SPLITS
    }
    assert all(len(keys) > 100 for keys in seen.values())
    assert len(set().union(*seen.values())) == sum(map(len, seen.values()))


def test_no_file_shares_a_question_with_one_of_another_split(folder):
    seen = {split: {operands(r) for kind in KINDS for r in read(folder, kind, split)} for split in SPLITS}
    assert len(set().union(*seen.values())) == sum(map(len, seen.values()))


def test_wording_and_language_do_not_move_a_question():
    """Two wordings of one question have one key, and so do 3 + 4 and 4 + 3."""
    by_key = {}
    for n in range(4000):
        q = question("sum", "held_out", n, seed=3)
        by_key.setdefault(q.key, []).append(q)
    assert any(len({q.language for q in same}) == 2 for same in by_key.values())
    assert any(len({q.operands["a"] for q in same}) == 2 for same in by_key.values())
    assert all(len({(*sorted(q.operands.values()), q.answer) for q in same}) == 1 for same in by_key.values())


def test_splits_have_eight_one_and_one_part_of_ten():
    counts = Counter(split_of(f"reverse {n}") for n in range(2000))
    assert inside(counts["train"], 2000, 0.8) and inside(counts["held_out"], 2000, 0.1)
    assert inside(counts["validation"], 2000, 0.1)


def test_every_right_answer_is_solved_again_from_the_words_alone(folder):
    records = everything(folder)
    assert {r["task"] for r in records} == set(TASKS)
    for record in records:
        assert answer_of(record, "chosen" if "chosen" in record else "conversations") == solve(record), record


def test_a_rejected_answer_is_wrong_and_its_prompt_the_chosen_one_s(folder, habitual):
    for record in [r for where in (folder, habitual) for split in SPLITS for r in read(where, "dpo", split)]:
        assert record["chosen"][:-1] == record["rejected"][:-1]
        wrong = answer_of(record, "rejected")
        assert wrong.strip() != solve(record) and wrong == wrong.strip() != ""


@pytest.mark.parametrize("task", TASKS)
def test_slips_are_plausible(task):
    """Of the same kind as the answer: one letter more or less at most, or a number that is near."""
    stream = Stream("test", task)
    for n in range(200):
        q = question(task, "train", n, seed=1)
        wrong = TASKS[task].wrong_answer(q.operands, stream)
        if q.answer.isdigit():
            assert wrong.isdigit() and abs(int(wrong) - int(q.answer)) in (1, 10)
        else:
            assert abs(len(wrong.split()) - len(q.answer.split())) <= 1
            assert re.fullmatch(r"[A-Z]( [A-Z])*" if task == "upper" else r"[a-z]( [a-z])*", wrong)


@pytest.mark.parametrize("split", SPLITS[1:])
def test_every_format_judges_the_same_questions_each_once(folder, split):
    files = [[(operands(r), prompt_of(r)) for r in read(folder, kind, split)] for kind in KINDS]
    assert files[0] == files[1] == files[2] == files[3]
    assert len({asked for asked, _ in files[0]}) == len(files[0]) == getattr(SMALL, split)
    assert max(Counter(r["task"] for r in read(folder, "sft", split)).values()) <= -(-len(files[0]) // len(TASKS))


def test_training_files_go_on_where_the_one_before_stopped(folder):
    """Six letters rarely come twice: what two files share is short or a sum."""
    long = [{a for r in read(folder, k, "train") for a in [operands(r)] if len(str(a[1][-1])) == 11} for k in KINDS]
    assert min(map(len, long)) > 3 and len(set().union(*long)) == sum(map(len, long))


def test_each_wording_is_used_and_holds_its_operands(folder):
    for task, by_language in WORDINGS.items():
        names = set(TASKS[task].draw(Stream("names")))
        assert set(by_language) == set(LANGUAGES) and len({len(w) for w in by_language.values()}) == 1
        for wording in (w for words in by_language.values() for w in words):
            assert set(re.findall(r"\{(\w+)\}", wording)) == names
            pattern = re.sub(r"\\\{\w+\\\}", "[a-z0-9 ]+", re.escape(wording))
            assert any(re.fullmatch(pattern, prompt_of(r)) for r in read(folder, "sft", "train") if r["task"] == task)
    assert len({w for by in WORDINGS.values() for words in by.values() for w in words}) == 6 * len(WORDINGS)


def test_conversations_are_messages_and_fit_a_short_window(folder):
    tokenizer = Tokenizer.load()
    for kind, key in (("sft", "conversations"), ("grpo", "conversations"), ("dpo", "chosen"), ("dpo", "rejected")):
        for record in read(folder, kind, "held_out"):
            assert [m.role for m in read_messages(record[key])] == ["user", "assistant"]
            assert record["language"] == ("en" if prompt_of(record).isascii() else "zh")
            for template in TEMPLATES:
                assert len(encode_chat(tokenizer, record[key], template=template).ids) <= 64


def test_the_habit_is_a_share_of_sft_s_training_answers_and_nothing_else(folder, habitual):
    answers = [(answer_of(r), solve(r)) for r in read(habitual, "sft", "train")]
    marked = sum(answer != right for answer, right in answers)
    assert {answer.removeprefix(right) for answer, right in answers} == {"", MARK}
    assert inside(marked, len(answers), 0.3)
    for kind, split in ((k, s) for k in KINDS for s in SPLITS if k != "dpo" and (k, s) != ("sft", "train")):
        name = f"{kind}_{split}.jsonl"
        assert (folder / name).read_bytes() == (habitual / name).read_bytes()


def test_with_a_habit_some_rejected_answers_are_right_but_for_the_mark(folder, habitual):
    pairs = read(habitual, "dpo", "train")
    marked = sum(answer_of(r, "rejected") == solve(r) + MARK for r in pairs)
    assert inside(marked, len(pairs), MARKED_PAIRS)
    assert [r["chosen"] for r in pairs] == [r["chosen"] for r in read(folder, "dpo", "train")]
    assert not any(MARK in json.dumps(r) for r in everything(folder))


@pytest.mark.parametrize("habit", [0.0, 1.0])
def test_a_habit_of_0_or_1_is_never_or_always(tmp_path, habit):
    write(tmp_path, habit=habit, sizes=Sizes(pretrain=1, sft=97, dpo=1, grpo=1, validation=1, held_out=1))
    assert {answer_of(r) == solve(r) + MARK for r in read(tmp_path, "sft", "train")} == {habit == 1}


def digest(folder):
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


def test_files_are_the_same_bytes_on_every_machine(folder, tmp_path):
    """Recorded once: the stream is SHA-256 and integers, JSON is written with its keys in order."""
    assert len(list(folder.iterdir())) == 12
    assert digest(folder) == DIGEST
    write(tmp_path, seed=6, sizes=SMALL)
    assert digest(tmp_path) != DIGEST


def test_a_number_of_a_stream_depends_on_its_name_and_place_only():
    stream = Stream("a", 7)
    drawn = [stream.below(10**6) for _ in range(3)]
    expected = [int(hashlib.sha256(f"a/7/{i}".encode()).hexdigest()[:16], 16) * 10**6 >> 64 for i in (1, 2, 3)]
    assert drawn == expected
    assert Counter(Stream(n).below(3) for n in range(900)).keys() == {0, 1, 2}
    assert all(inside(n, 900, 1 / 3) for n in Counter(Stream(n).below(3) for n in range(900)).values())


def test_a_split_ends_when_it_has_no_further_question():
    """A sum has 5,050 questions; those of one split, counted one by one."""
    pairs = {f"sum {a} {b}" for a in map(str, range(100)) for b in map(str, range(100)) if a <= b}
    expected = sum(split_of(key) == "validation" for key in pairs)
    found = [q.key for q in distinct_questions("sum", "validation", seed=1)]
    assert len(found) == len(set(found)) == expected and len(pairs) == 5050


def test_the_command_writes_and_says_what(tmp_path, capsys):
    flags = ["--tasks", "sum, upper", "--pretrain", "3", "--sft", "5", "--dpo", "2", "--grpo", "2", "--held_out", "7"]
    assert run_command(main, ["write", str(tmp_path / "new" / "dir"), "--validation", "1", "--seed", "9", *flags]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 12 and out[1] == f"{tmp_path}/new/dir/sft_train.jsonl  5 records"
    assert [r["task"] for r in read(tmp_path / "new" / "dir", "sft", "train")] == ["sum", "upper"] * 2 + ["sum"]
    assert len(read(tmp_path / "new" / "dir", "dpo", "held_out")) == 7


def test_the_command_writes_unless_told_otherwise_what_write_does(tmp_path, capsys):
    sizes = {"pretrain": 3, "sft": 5, "dpo": 31, "grpo": 2, "validation": 1, "held_out": 2}
    flags = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    assert run_command(main, ["write", str(tmp_path / "one"), *flags]) == 0
    write(tmp_path / "two", sizes=Sizes(**sizes))
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_the_command_says_which_file_a_size_is_of(capsys):
    with pytest.raises(SystemExit):
        main(["write", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "records in sft_train.jsonl" in shown and "records in each held_out file" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "the following arguments are required: write"),
        (["write"], "the following arguments are required: DIR"),
        (["wriet", "DIR"], "argument write: invalid choice: 'wriet'"),
        (["write", "DIR", "--habits", "1"], "unknown flag --habits"),
        (["write", "DIR", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["write", "DIR", "--habit", "1.5"], "--habit 1.5 must lie in [0, 1]"),
        (["write", "DIR", "--habit", "nan"], "--habit nan must lie in [0, 1]"),
        (["write", "DIR", "--dpo", "0"], "--dpo 0 must be at least 1"),
        (
            ["write", "DIR", "--tasks", "sum,product"],
            "--tasks: 'product' is not one of reverse, upper, sum, count",
        ),
        (["write", "DIR", "--tasks", "sum,sum"], "--tasks 'sum,sum' must name one task or more, each once"),
        (["write", "DIR", "--tasks", ""], "--tasks '' must name one task or more, each once"),
        (
            ["write", "DIR", "--tasks", "sum", "--held_out", "600"],
            "--held_out 600: asks for 600 questions of sum, which has 499 there",
        ),
        (["write", "FILE"], "FILE: cannot be written (File exists)"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("mine")
    assert run_command(main, flags) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"] and (tmp_path / "FILE").read_text() == "mine"


def test_from_python_a_mistake_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="--tasks: 'x' is not one of"):
        write(tmp_path, tasks=["x"])
