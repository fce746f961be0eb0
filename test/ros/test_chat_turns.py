"""Whose answer is coming, whatever overtakes what on the way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip('rclpy', reason='needs ROS 2')
from hobot_llamacpp_py.tools.chat_client import Event, Turns

OWN = 2  # of four questions
Message = tuple[str, int, str]  # topic, source timestamp, text


def turns_of_a_node() -> list[Message]:
    """Four questions and answers, each message with when it was published."""
    messages: list[Message] = []
    for turn in range(4):
        texts = [f'{turn}{letter}' for letter in 'abc']
        for topic, text in [
            ('prompt', f'question {turn}'),
            ('thought', f'hm {turn}'),
            *(('piece', text) for text in texts),
            ('text', ''.join(texts)),
        ]:
            messages.append((topic, len(messages), text))
    return messages


def told(delivered: Sequence[Message], ask_at: int) -> list[Event]:
    """Return what a client is told that asks when so many messages have been delivered."""
    events: list[Event] = []
    turns = Turns(events.append)
    for i, (topic, stamp, text) in enumerate(delivered):
        if i == ask_at:
            turns.ask(f'question {OWN}')
        getattr(turns, f'on_{topic}')(stamp, text)
    return events


@given(st.data())
def test_the_text_is_ours(data: st.DataObject) -> None:
    """However the topics overtake each other, each with its messages in order."""
    topics: dict[str, list[Message]] = {}
    for message in turns_of_a_node():
        topics.setdefault(message[0], []).append(message)
    delivered = []
    while left := [topic for topic in topics if topics[topic]]:
        delivered.append(topics[data.draw(st.sampled_from(left))].pop(0))
    prompts = [i for i, message in enumerate(delivered) if message[0] == 'prompt']
    texts = [i for i, message in enumerate(delivered) if message[0] == 'text']
    # Nothing of our turn comes before we have asked.
    first = min(prompts[OWN], texts[OWN])
    events = told(delivered, data.draw(st.integers(0, first)))
    assert [event for event in events if event[0] == 'text'] == [('text', '2a2b2c')]


@given(st.data())
def test_the_pieces_are_ours(data: st.DataObject) -> None:
    """Where only the whole texts overtake, or are overtaken, no piece is lost or another's."""
    messages = turns_of_a_node()
    delivered = [message for message in messages if message[0] != 'text']
    at = 0
    for message in (message for message in messages if message[0] == 'text'):
        at = data.draw(st.integers(at, len(delivered)))
        delivered.insert(at, message)
        at += 1
    own = delivered.index(('prompt', 12, 'question 2'))
    text = delivered.index(('text', 17, '2a2b2c'))
    events = told(delivered, data.draw(st.integers(0, min(own, text))))
    assert events[-1] == ('text', '2a2b2c')
    whole = [('thought', 'hm 2'), ('piece', '2a'), ('piece', '2b'), ('piece', '2c')]
    come = sum(message[1] > 12 for message in delivered[own:text] if message[0] != 'text')
    assert events[:-1] == whole[: max(0, min(come, 4))]


def test_a_clock_that_is_set_back() -> None:
    """In the middle of our turn: the text is ours all the same, as nothing else comes."""
    events: list[Event] = []
    turns = Turns(events.append)
    turns.ask('question')
    turns.on_prompt(1000, 'question')
    turns.on_text(10, 'answer')
    assert events == []
    for _ in range(3):
        turns.on_state('idle', 0)
    assert events == [('text', 'answer')]


def test_a_question_that_is_lost() -> None:
    """The node has nothing to do, and has never told of our question."""
    events: list[Event] = []
    turns = Turns(events.append)
    turns.on_text(5, 'an earlier answer')
    turns.ask('question')
    for _ in range(3):
        turns.on_state('idle', 0)
    ((kind, text),) = events
    assert kind == 'text' and text.startswith('[error] no answer comes')
