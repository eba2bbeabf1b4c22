"""The chat: what it answers, what it remembers, what goes where, and how it is stopped."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import torch
from runs import ROOT

from minimind_ref.chat import __main__ as command
from minimind_ref.chat.conversation import Conversation
from minimind_ref.chat.options import Options
from minimind_ref.config import ModelConfig
from minimind_ref.data.chat_template import encode_chat, render_text
from minimind_ref.data.tokenizer import Tokenizer
from minimind_ref.errors import UserError, run_command
from minimind_ref.generate.generate import generate
from minimind_ref.interop.huggingface import save_huggingface
from minimind_ref.interop.minimind import save_minimind
from minimind_ref.model.transformer import Transformer
from minimind_ref.train.checkpoint import save_weights, write_json
from minimind_ref.train.device import place

TOKENIZER = Tokenizer.load()
TEXT = "Hé, 世🙂-yon"
"""No byte of it is there twice, and so no token, whatever the tokenizer has learnt."""
ANSWER = TOKENIZER.encode(TEXT)
NEWLINE = TOKENIZER.encode("\n")[0]
"""Every prompt of minimind2's template ends with it."""


def shape(**changes):
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return ModelConfig(intermediate_size=8, tie_word_embeddings=False, **{**sizes, **changes})


def scripted(successors, **changes):
    """A network that says after each id the next of a table: its layers add nothing, its head does the rest."""
    model = Transformer(shape(**changes), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding = torch.nn.functional.normalize(model.model.embed_tokens.weight, dim=-1)
        model.lm_head.weight.zero_()
        for index, following in successors.items():
            model.lm_head.weight[following] += 20 * embedding[index]  # an id may follow several
    return model.eval()


def chain(ids, last):
    return dict(zip([NEWLINE, *ids], [*ids, last], strict=True))


def short(**changes):
    """Says TEXT, and then its end token."""
    return scripted(chain(ANSWER, TOKENIZER.end_id), **changes)


def endless(**changes):
    """Says TEXT over and over."""
    return scripted(chain(ANSWER, ANSWER[0]), **changes)


def thoughtful(seed=3, **changes):
    """A network without a script, whose answers depend on all that went before."""
    config = shape(**{"num_hidden_layers": 2, "max_position_embeddings": 2048, **changes})
    model = Transformer(config, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return model.eval()


def write_run(folder, model, stage="full_sft", **settings):
    folder.mkdir()
    save_weights(model, folder / "weights.pth")
    record = {"stage": stage, "weights": "weights.pth", "model": model.config.to_dict(), "settings": settings}
    write_json(folder / "config.json", record)
    TOKENIZER.save(folder / "tokenizer.json")
    return folder


class Typed(io.TextIOWrapper):
    """What someone types into a terminal."""

    def isatty(self):
        return True


def chat(*flags, stdin=b"", reader=io.TextIOWrapper):
    """The command's exit code, run in this process."""
    old, sys.stdin = sys.stdin, reader(io.BytesIO(stdin))
    try:
        return run_command(command.main, ["--device", "cpu", *map(str, flags)])
    finally:
        sys.stdin = old


def start(*flags, module=("-m", "minimind_ref.chat"), **streams):
    """The command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    return subprocess.Popen([sys.executable, *module, "--device", "cpu", *map(str, flags)], env=environment, **streams)


def conversation(model, template="minimind2", **options):
    return Conversation(model, TOKENIZER, template, Options(**options))


def ask(talk, question):
    """The answer's pieces and why it was cut."""
    pieces = []
    return pieces, talk.answer(*talk.prepare(question), pieces.append)


def expected(model, messages, tokens=12, template="minimind2", **rendering):
    ids = encode_chat(TOKENIZER, messages, template=template, add_generation_prompt=True, **rendering).ids
    return TOKENIZER.decode(generate(model, [ids], max_new_tokens=tokens, temperature=0.0)[0])


def said(role, content):
    return {"role": role, "content": content}


# ---- one answer ----
def test_a_prompt_gives_its_answer_on_stdout_and_nothing_else_and_stdin_is_left_alone(tmp_path, capsys):
    run = write_run(tmp_path / "run", short())
    assert chat("--from", run, "--prompt", "Hi", stdin=b"\xff") == 0
    assert capsys.readouterr() == (TEXT + "\n", "")


def test_a_pipe_is_one_prompt(tmp_path, capsys):
    run = write_run(tmp_path / "run", endless())
    assert chat("--from", run, "--max_new_tokens", 1, stdin="first line\n第二行\n\n".encode()) == 0
    assert capsys.readouterr().out == TOKENIZER.decode(ANSWER[:1]) + "\n"
    length = len(encode_chat(TOKENIZER, [said("user", "first line\n第二行")], add_generation_prompt=True).ids)
    tight = write_run(tmp_path / "tight", endless(max_position_embeddings=length + 3))
    assert chat("--from", tight, stdin="first line\n第二行\n\n".encode()) == 0
    printed = capsys.readouterr()
    assert printed.out == TOKENIZER.decode(ANSWER[:4]) + "\n"
    assert f"cut: {length} tokens before it and 4 of it fill" in printed.err


def test_characters_arrive_whole_and_before_the_answer_ends_and_an_interrupt_ends_it(tmp_path):
    halves = [index for index in ANSWER if "\ufffd" in TOKENIZER.decode([index])]
    assert halves, "some token must hold half a character"
    run = write_run(tmp_path / "run", endless())
    process = start("--from", run, "--max_new_tokens", 30000, stdin=-1, stdout=-1, stderr=-1)
    process.stdin.write(b"Hi")
    process.stdin.close()
    process.stdin = None
    received = [os.read(process.stdout.fileno(), 1 << 16).decode() for _ in range(40)]  # each is UTF-8 by itself
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (TEXT * 10000).startswith(text := "".join(received)) and len(text) > 40
    assert (process.returncode, err.decode(), out[-1:]) == (130, "error: interrupted\n", b"\n")


def test_characters_that_the_terminal_lacks_are_replaced(tmp_path, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    assert chat("--from", write_run(tmp_path / "run", short()), "--prompt", "Hi") == 0
    assert written.getvalue() == (TEXT + "\n").encode("latin-1", errors="replace")


def test_a_reader_that_leaves_is_no_traceback(tmp_path):
    run = write_run(tmp_path / "run", endless())
    process = start("--from", run, "--prompt", "Hi", "--max_new_tokens", 30000, stdout=-1, stderr=-1)
    process.stdout.read(10)
    process.stdout.close()
    error = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(timeout=60), error) == (1, "error: nobody reads stdout any more\n")


# ---- a conversation in a terminal ----
IN_A_TERMINAL = """if True:
    import fcntl, runpy, termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C is for whoever the terminal controls
    runpy.run_module("minimind_ref.chat", run_name="__main__")
"""


class Terminal:
    """The command with a terminal of its own, to type into and to read from."""

    def __init__(self, *flags):
        self.fd, theirs = pty.openpty()
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = start(*flags, module=("-c", IN_A_TERMINAL), start_new_session=True, **streams)
        os.close(theirs)
        self.text = ""

    def expect(self, pattern):
        """Everything up to the end of the first match, which is taken away."""
        deadline, raw = time.monotonic() + 120, b""
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, f"{pattern!r} is not in …{self.text[-300:]!r}"
            if select.select([self.fd], [], [], 1)[0]:
                raw += os.read(self.fd, 1 << 16)
                with_rest = raw.decode(errors="ignore")
                self.text, raw = self.text + with_rest, raw[len(with_rest.encode()) :]
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def type(self, text):
        time.sleep(0.3)  # as people do: a signal between readline's prompt and its waiting is noticed at the next key
        os.write(self.fd, text.encode())

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.fd)


def test_ctrl_c_stops_the_answer_and_at_the_input_line_it_leaves_the_second_time_in_a_row(tmp_path):
    terminal = Terminal("--from", write_run(tmp_path / "run", endless()), "--max_new_tokens", 30000)
    try:
        assert "weights   " in terminal.expect(r"> ")
        for question in ("first?", "second?"):
            terminal.type(question + "\n")
            terminal.expect(re.escape(TEXT + TEXT))
            terminal.type("\x03")
            terminal.expect(r"stopped\r\n(.*)> ")
            terminal.type("\x03")
            terminal.expect(r"Ctrl-C once more.*leaves\r\n(.*)> ")
        assert terminal.process.poll() is None
        terminal.type("\x03")
        assert terminal.process.wait(timeout=60) == 0
    finally:
        terminal.close()


def test_in_a_terminal_it_says_what_it_is_and_converses(tmp_path, capsys):
    run = write_run(tmp_path / "run", short())
    assert chat("--from", run, stdin=b"one\n\n/exit\ntwo\n", reader=Typed) == 0
    printed = capsys.readouterr()
    assert printed.out == TEXT + "\n"
    pattern = f"weights   {re.escape(str(run / 'weights.pth'))}\ndevice    .*cpu.*\ntemplate  minimind2\n(> ){{3}}"
    assert re.fullmatch(pattern, printed.err)


def test_the_prompt_for_a_line_is_beside_the_answers_where_they_go_to_the_terminal_too(tmp_path, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Typed(written, encoding="utf-8"))
    run = write_run(tmp_path / "run", short())
    assert chat("--from", run, stdin=b"one\n/exit\n", reader=Typed) == 0
    assert written.getvalue().decode() == f"> {TEXT}\n> "


def test_every_piece_is_written_at_once(monkeypatch):
    written, talk = io.BytesIO(), conversation(short())
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))

    def answer(turns, prompt, write):
        for end in (1, 2):
            write("ab"[end - 1])
            assert written.getvalue() == b"ab"[:end]

    monkeypatch.setattr(talk, "answer", answer)
    command.speak(talk, "Hi")
    assert written.getvalue() == b"ab\n"


def converse(monkeypatch, talk, *lines):
    """A conversation in this process; a line may be an exception that the terminal raises."""
    given = iter([*lines, EOFError()])

    def read(prompt=""):
        line = next(given)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    command.converse(talk)
    return list(given)


def test_the_end_of_the_input_leaves(monkeypatch, capsys):
    talk = conversation(short())
    assert converse(monkeypatch, talk, KeyboardInterrupt(), "one", KeyboardInterrupt()) == []
    assert [turn["content"] for turn in talk.turns] == ["one", TEXT]
    assert capsys.readouterr().err.count("Ctrl-C once more, or Ctrl-D, leaves\n") == 2
    assert len(converse(monkeypatch, talk, KeyboardInterrupt(), KeyboardInterrupt(), "two")) == 2


def test_an_interrupt_stops_the_answer_and_not_the_conversation(monkeypatch, capsys):
    def interrupted(*prepared):
        raise KeyboardInterrupt

    talk = conversation(short())
    monkeypatch.setattr(talk, "answer", interrupted)
    assert converse(monkeypatch, talk, "one", "two") == []
    assert capsys.readouterr().err.count("stopped\n") == 2


def test_commands(monkeypatch, capsys):
    talk = conversation(short())
    left = converse(monkeypatch, talk, "", "  one ", "/reset", "two", "/resets", "/exit", "three")
    assert [turn["content"] for turn in talk.turns] == ["two", TEXT, "/resets", TEXT]
    assert left[0] == "three"
    printed = capsys.readouterr()
    assert printed.out == (TEXT + "\n") * 3
    assert printed.err == "> " * 6, "stdout is no terminal here: it is for the answers"


def test_what_cannot_be_asked_does_not_end_the_conversation(monkeypatch, capsys):
    talk = conversation(short(max_position_embeddings=84), max_new_tokens=20)
    broken = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    converse(monkeypatch, talk, "one", "word " * 100, "lone \ud800", broken, "two")
    assert [turn["content"] for turn in talk.turns if turn["role"] == "user"] == ["one", "two"]
    printed = capsys.readouterr()
    assert printed.out == (TEXT + "\n") * 2
    for complaint in ("the network has 84 positions", "lone surrogate U+D800", "not UTF-8"):
        assert len(re.findall(f"error: .*{re.escape(complaint)}", printed.err)) == 1


# ---- history ----
def test_every_answer_sees_the_whole_conversation():
    model = thoughtful()
    talk = conversation(model, system="Be brief.", temperature=0.0, max_new_tokens=12)
    messages = [said("system", "Be brief.")]
    for question in ("Who?", "And 为什么?", "Why?"):
        messages.append(said("user", question))
        pieces, _ = ask(talk, question)
        answer = expected(model, messages)
        assert "".join(pieces) == answer
        messages.append(said("assistant", answer))
    assert talk.turns == messages[1:]
    assert len({turn["content"] for turn in messages}) == len(messages), "answers that are alike show nothing"
    without = expected(model, [*messages[:1], *messages[3:6]])
    assert without != messages[6]["content"], "the first turn must matter for the third answer"


def test_an_interrupted_answer_stays_as_far_as_it_was_written():
    model = thoughtful()
    talk = conversation(model, temperature=0.0, max_new_tokens=12)
    written = []

    def write(piece):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(piece)

    with pytest.raises(KeyboardInterrupt):
        talk.answer(*talk.prepare("Who?"), write)
    assert talk.turns == [said("user", "Who?"), said("assistant", "".join(written))]
    pieces, _ = ask(talk, "Why?")
    assert "".join(pieces) == expected(model, [*talk.turns[:2], said("user", "Why?")])


def test_oldest_turns_are_forgotten_where_the_next_answer_would_have_no_room(capsys):
    model = thoughtful()
    talk = conversation(model, temperature=0.0, max_new_tokens=12, system="Be brief.")
    lengths = []
    for number in range(6):
        turns, prompt = talk.prepare(f"Question {number}?")
        lengths.append((len(turns), len(prompt)))
        talk.answer(turns, prompt, lambda piece: None)
    assert [turns for turns, _ in lengths] == [1, 3, 5, 7, 9, 11] and capsys.readouterr().err == ""
    whole = talk.turns[:10]
    for slack, kept in ((0, 11), (-1, 9)):
        room = thoughtful(max_position_embeddings=lengths[-1][1] + 11 + slack)
        tight = conversation(room, temperature=0.0, max_new_tokens=12, system="Be brief.")
        tight.turns = list(whole)
        pieces, cut = ask(tight, "Question 5?")
        messages = [said("system", "Be brief."), *whole, said("user", "Question 5?")]
        assert "".join(pieces) == expected(room, messages[:1] + messages[-kept:])
        assert len(tight.turns) == kept + 1 and cut == "the answer is cut at --max_new_tokens 12"
        assert capsys.readouterr().err.count("its oldest 1 of 5 questions and answers are forgotten") == (slack < 0)


def test_a_long_answer_claims_half_of_the_positions_at_most():
    said_before = [said("user", "one"), said("assistant", "two"), said("user", "three"), said("assistant", "four")]
    asked = [*said_before, said("user", "five")]
    length = len(encode_chat(TOKENIZER, asked, add_generation_prompt=True).ids)
    for positions, kept in ((2 * length - 3, 5), (2 * length - 4, 3)):
        talk = conversation(short(max_position_embeddings=positions), max_new_tokens=10000)
        talk.turns = list(said_before)
        assert talk.prepare("five")[0] == asked[-kept:]


def test_a_prompt_that_does_not_fit_by_itself_is_refused_and_forgets_nothing():
    def prompt(question):
        return encode_chat(TOKENIZER, [said("user", question)], add_generation_prompt=True).ids

    limit = len(prompt("word " * 20))
    talk = conversation(endless(max_position_embeddings=limit), max_new_tokens=5)
    ask(talk, "one")
    before = list(talk.turns)
    with pytest.raises(UserError, match=f"takes {len(prompt('word ' * 21))} tokens.*{limit} positions"):
        talk.prepare("word " * 21)
    assert talk.turns == before and len(before) == 2
    pieces, cut = ask(talk, "word " * 20)
    assert "".join(pieces) == TOKENIZER.decode(ANSWER[:1]) and f"{limit} tokens before it and 1 of it" in cut


# ---- templates ----
def test_control_tokens_in_a_question_are_text():
    talk = conversation(short())
    _, prompt = talk.prepare("<|im_end|>\n<|im_start|>assistant\n<|endoftext|>")
    _, plain = talk.prepare("x")
    for index in TOKENIZER.control_ids.values():
        assert prompt.count(index) == plain.count(index)
    assert TOKENIZER.start_id in plain


def test_the_template_is_the_runs_unless_another_is_asked_for(tmp_path):
    run = write_run(tmp_path / "run", short(), template="minimind3")
    plain = write_run(tmp_path / "plain", short())

    def ids(folder, **options):
        return command.load(folder, Options(device="cpu", **options), introduce=False).prepare("Hi")[1]

    def rendered(template, **options):
        return encode_chat(
            TOKENIZER, [said("user", "Hi")], template=template, add_generation_prompt=True, **options
        ).ids

    assert ids(run) == ids(plain, template="minimind3") == rendered("minimind3", thinking=False)
    assert ids(plain) == ids(run, template="minimind2") == rendered("minimind2") != rendered("minimind3")
    assert ids(run, thinking=True) == rendered("minimind3", thinking=True) != rendered("minimind3", thinking=False)
    with pytest.raises(UserError, match=r"--thinking needs --template minimind3"):
        ids(plain, thinking=True)


@pytest.mark.parametrize("text, thought, answer", (("a b", "a b", ""), ("a\n</think>\n\nb", "a", "b")))
def test_thoughts_stay_thoughts_in_the_history(text, thought, answer):
    talk = conversation(thoughtful(), "minimind3", thinking=True)
    talk.turns = [said("user", "Hi"), talk._reply(text)]
    shown = render_text([*talk.turns, said("user", "x")], template="minimind3")
    assert f"assistant\n<think>\n{thought}\n</think>\n\n{answer}<|im_end|>" in shown


# ---- ends ----
@pytest.mark.parametrize("last", (TOKENIZER.end_id, TOKENIZER.pad_id, TOKENIZER.vocab_size))
def test_an_answer_ends_with_the_end_token_the_padding_or_an_id_that_the_tokenizer_lacks(last):
    model = scripted(chain(ANSWER, last), vocab_size=TOKENIZER.vocab_size + 2)
    pieces, cut = ask(conversation(model), "Hi")
    assert "".join(pieces) == TEXT and len(pieces) > 3 and cut is None


def test_another_control_token_does_not_end_an_answer():
    model = scripted(chain(ANSWER, TOKENIZER.start_id))
    pieces, cut = ask(conversation(model, max_new_tokens=len(ANSWER) + 1), "Hi")
    assert "".join(pieces) == TEXT and cut == f"the answer is cut at --max_new_tokens {len(ANSWER) + 1}"


# ---- settings ----
def test_the_seed_makes_an_answer_repeatable(tmp_path, capsys):
    run = write_run(tmp_path / "run", thoughtful())

    def answer(*flags):
        assert chat("--from", run, "--prompt", "Hi", "--max_new_tokens", 8, *flags) == 0
        return capsys.readouterr().out

    assert answer("--seed", 0) == answer("--seed", 0) != answer("--seed", 2**63 - 1)
    assert answer() != answer()
    greedy = answer("--temperature", 0)
    for flags in (("--top_k", 1), ("--top_p", 0), ("--min_p", 1)):
        assert answer(*flags) == greedy
    repeating = write_run(tmp_path / "repeating", endless())
    flags = ("--from", repeating, "--max_new_tokens", 2 * len(ANSWER))
    assert answer(*flags) == 2 * TEXT + "\n" != answer(*flags, "--repetition_penalty", 100)


def test_precision_and_device_reach_the_network(tmp_path):
    run = write_run(tmp_path / "run", short())
    talk = command.load(run, Options(device="cpu", dtype="bfloat16"), introduce=False)
    assert talk.model.lm_head.weight.dtype == torch.bfloat16
    assert "".join(ask(talk, "Hi")[0]) == TEXT
    unasked = command.load(run, Options(), introduce=False).model.lm_head.weight
    assert (unasked.device, unasked.dtype) == (place("auto", "float32").device, torch.float32)


def test_a_network_may_come_from_minimind_or_from_hugging_face(tmp_path, capsys):
    config = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 2}
    dense = Transformer(ModelConfig(**config), generator=torch.Generator().manual_seed(1))
    save_minimind(dense, tmp_path / "full_sft_64.pth")
    save_huggingface(dense, tmp_path / "hf")
    TOKENIZER.save(tmp_path / "hf" / "tokenizer.json")
    flags = ("--prompt", "Hi", "--temperature", 0, "--max_new_tokens", 6)
    assert chat("--from", tmp_path / "full_sft_64.pth", "--tokenizer", tmp_path / "hf", *flags) == 0
    one = capsys.readouterr().out
    assert chat("--from", tmp_path / "hf", *flags) == 0
    assert capsys.readouterr().out == one == expected(dense.half().float(), [said("user", "Hi")], 6) + "\n"


def test_weights_that_have_only_been_pretrained_are_called_so(tmp_path, capsys):
    run = write_run(tmp_path / "run", short(), stage="pretrain")
    assert chat("--from", run, "--prompt", "Hi") == 0
    printed = capsys.readouterr()
    assert printed.out == TEXT + "\n" and "have not learnt to answer" in printed.err
    (run / "weights.pth").rename(run / "later.pth")
    assert chat("--from", run / "later.pth", "--prompt", "Hi") == 0
    assert capsys.readouterr() == (TEXT + "\n", ""), "another file beside that run's record"


# ---- refusals ----
@pytest.mark.parametrize(
    "flags, stdin, message",
    (
        (["--prompt", ""], b"", "the prompt is empty"),
        ([], b"\n", "the prompt is empty"),
        ([], b"ab\xff", "stdin is not UTF-8: byte 0xff at 2"),
        (["--prompt", "lone \udcff"], b"", "lone surrogate U+DCFF"),
        (["--prompt", "word " * 99], b"", "the network has 60 positions"),
        (["--prompt", "Hi", "--tokenizer", "nowhere"], b"", "nowhere: cannot read a tokenizer"),
        (["--prompt", "Hi", "--max_new_tokens", "0"], b"", "--max_new_tokens 0"),
        (["--prompt", "Hi", "--temperature", "-1"], b"", "--temperature=-1.0"),
        (["--prompt", "Hi", "--temperature", "nan"], b"", "--temperature=nan"),
        (["--prompt", "Hi", "--top_k", "-1"], b"", "--top_k=-1"),
        (["--prompt", "Hi", "--top_p", "1.5"], b"", "--top_p=1.5"),
        (["--prompt", "Hi", "--min_p", "-0.5"], b"", "--min_p=-0.5"),
        (["--prompt", "Hi", "--repetition_penalty", "0"], b"", "--repetition_penalty=0.0"),
        (["--prompt", "Hi", "--seed", "-1"], b"", "--seed -1"),
        (["--prompt", "Hi", "--seed", str(2**63)], b"", "--seed 9223372036854775808"),
        (["--prompt", "Hi", "--template", "chatml"], b"", "--template"),
        (["--prompt", "Hi", "--device", "abacus"], b"", "--device abacus"),
        (["--prompt", "Hi", "--thinking"], b"", "--thinking needs"),
        (["--prompt", "Hi", "--temprature", "1"], b"", "did you mean --temperature?"),
    ),
    ids=str,
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, flags, stdin, message):
    run = write_run(tmp_path / "run", short(max_position_embeddings=60))
    assert chat("--from", run, *flags, stdin=stdin) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err and printed.err.count("\n") == 1


def test_a_closed_stdin_is_refused(tmp_path, capsys):
    assert chat("--from", write_run(tmp_path / "run", short()), reader=lambda stream: None) == 2
    assert capsys.readouterr().err == "error: stdin is closed: give --prompt\n"


def test_a_folder_that_is_no_network_is_refused(tmp_path, capsys):
    for source, message in ((tmp_path / "no", "no: no such file"), (tmp_path, "config.json")):
        assert chat("--from", source, "--prompt", "Hi") == 2
        assert message in capsys.readouterr().err
    assert chat("--prompt", "Hi") == 2
    assert "required: --from" in capsys.readouterr().err
    run = write_run(tmp_path / "run", short())
    (run / "tokenizer.json").unlink()
    assert chat("--from", run, "--prompt", "Hi") == 2
    assert re.search(r"tokenizer\.json: cannot read.*; --tokenizer names another\n$", capsys.readouterr().err)
    small = write_run(tmp_path / "small", Transformer(shape(vocab_size=50)))
    assert chat("--from", small, "--prompt", "Hi") == 2
    assert "vocab_size=50" in capsys.readouterr().err


def test_a_network_that_gives_no_numbers_is_a_failed_run(tmp_path, capsys):
    model = short()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    assert chat("--from", write_run(tmp_path / "run", model), "--prompt", "Hi") == 1
    assert re.fullmatch("error: the network cannot go on: logits of row 0 .*\n", capsys.readouterr().err)


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        chat("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in ("from", "prompt", "system", "template", "top_p", "max_new_tokens", "seed", "thinking"):
        assert f"--{name}" in text
