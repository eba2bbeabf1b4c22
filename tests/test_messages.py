"""Conversations that are none: each refusal names the message and the value."""

import pytest

from minimind_ref.data.messages import read_messages

U = {"role": "user", "content": "u"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the conversation has no message"),
        ("hello", "a conversation is a list of messages, not 'hello'"),
        ([U, "hello"], "message 1 is 'hello', not an object with role and content"),
        ([U, {"role": "bot", "content": "x"}], "message 1 has role 'bot', not one of system, user, assistant, tool"),
        ([U, {"role": ["user"], "content": "x"}], "message 1 has role ['user'], not one of"),
        ([U, {"role": "assistant"}], "message 1 (assistant) has no content"),
        ([{"role": "user", "content": None}], "message 0 (user) has no content"),
        ([{"role": "user", "tool_calls": [{"name": "f", "arguments": ""}]}], "message 0 (user) has no content"),
        ([U, {"content": 5}], "message 1 (assistant) has content 5, not a string"),
        (
            [U, {"content": "", "reasoning_content": 5}],
            "message 1 (assistant) has reasoning_content 5, not a string",
        ),
        ([U, {"content": "", "tool_calls": "["}], "message 1 has tool_calls '[', which is not JSON"),
        ([U, {"content": "", "tool_calls": 5}], "message 1 has tool_calls 5, not a list"),
        (
            [U, {"content": "", "tool_calls": [{"name": "f"}]}],
            "message 1 has the tool call {'name': 'f'}, not an object",
        ),
        (
            [U, {"content": "", "tool_calls": [5]}],
            "message 1 has the tool call 5, not an object with name and arguments",
        ),
        ([U, {"content": "", "tool_calls": [{"name": "f", "arguments": {1, 2}}]}], "cannot be written as JSON"),
    ],
)
def test_bad_messages_are_named(messages, message):
    with pytest.raises(ValueError) as error:
        read_messages(messages)
    assert message in str(error.value)
