"""What is rendered of a conversation, and which of its tokens have a loss."""

import copy

import numpy as np
import pytest
from chat_helpers import CHAT, CHATML, MARKED, bpe, parts
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from tandem_pl.datamodules.chat.messages import check_messages, pair, prompt_of
from tandem_pl.datamodules.chat.templates import ConversationEncoder, render
from tandem_pl.datamodules.text.tokenization import ByteTokenizer
from tandem_pl.errors import InputError


def test_plain_rendering_of_a_pair():
    encoder = ConversationEncoder(ByteTokenizer(), prompt_template="Q: {prompt}\nA: ")
    ids, response = encoder(pair("{x} é", "ja"), "here")
    assert bytes(ids[:-1].tolist()) == "Q: {x} é\nA: ja".encode()
    assert ids[-1] == 256
    assert response.tolist() == [False] * (len(ids) - 3) + [True] * 3
    assert ids.dtype == np.int64


@pytest.mark.parametrize(("turns", "expected"), [("all", ["deux", "C'est trois."]), ("last", None)])
def test_plain_rendering_of_a_chat(turns, expected):
    encoder = ConversationEncoder(ByteTokenizer(), turns=turns)
    ids, response = encoder(CHAT, "here")
    text = "".join(chr(i) if i < 256 else "$" for i in ids)
    assert text.encode("latin-1").decode() == (
        "Be short.\nHow do you say two in French?\ndeux$And three, élève?\nC'est trois.$"
    )
    said = "".join(chr(i) if i < 256 else "$" for i in ids[response])
    assert said == ("deux$C'est trois.$" if expected else "C'est trois.$")


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_a_template_gives_its_own_tokens_and_a_loss_to_responses_and_their_end(template):
    tokenizer = bpe(template)
    encoder = ConversationEncoder(tokenizer)
    sample = encoder(CHAT, "here")
    expected = tokenizer.tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=True)
    assert sample.ids.tolist() == expected["input_ids"]
    assert parts(encoder, sample) == ["deux<|im_end|>", "C'est trois.<|im_end|>"]
    last = ConversationEncoder(tokenizer, turns="last")
    assert parts(last, last(CHAT, "here")) == ["C'est trois.<|im_end|>"]


BARE = MARKED.replace(
    "{{ m.content }}<|im_end|>{% endgeneration %}", "{{ m.content }}{% endgeneration %}<|im_end|>"
)


def test_the_end_token_has_a_loss_where_the_mark_leaves_it_out():
    assert BARE != MARKED
    encoder = ConversationEncoder(bpe(BARE))
    assert parts(encoder, encoder(CHAT, "here")) == ["deux<|im_end|>", "C'est trois.<|im_end|>"]


def test_the_next_turns_first_token_is_not_an_end():
    joined = MARKED.replace("{{ '\n' }}", "")  # the response's own end, then <|im_start|> at once
    encoder = ConversationEncoder(bpe(joined))
    assert parts(encoder, encoder(CHAT, "here")) == ["deux<|im_end|>", "C'est trois.<|im_end|>"]


def test_an_added_end_takes_the_place_of_white_space():
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    encoder = ConversationEncoder(bpe(template))
    sample = encoder(CHAT[:3], "here")
    assert parts(encoder, sample) == ["deux<|endoftext|>"]
    text = encoder.tokenizer.tokenizer.decode(sample.ids.tolist(), skip_special_tokens=False)
    assert text.endswith("assistant: deux<|endoftext|>")


def test_plain_rendering_starts_as_the_tokenizer_starts_a_text():
    tokenizer = bpe()
    assert len(ConversationEncoder(tokenizer).start) == 0
    inner = tokenizer.tokenizer
    inner.bos_token = "<|im_start|>"
    inner.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", inner.bos_token_id)]
    )
    sample = ConversationEncoder(tokenizer)(CHAT[1:3], "here")
    assert sample.ids[0] == inner.bos_token_id
    assert (sample.ids == inner.bos_token_id).sum() == 1
    assert not sample.response[0]


def test_prompts_that_differ_in_case_or_spaces_are_one():
    assert prompt_of(pair("Say  two.", "a")) == prompt_of(pair("say two. ", "b"))
    assert prompt_of(pair("Say two.", "a")) != prompt_of(pair("Say three.", "a"))


texts = st.text(alphabet="ab é.\n", max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, texts.filter(str.strip)), min_size=1, max_size=3))
def test_the_mark_of_transformers_and_ours_agree(turns):
    """The oracle is apply_chat_template's own mask, for a template that marks responses."""
    tokenizer = MARKED_TOKENIZER
    messages = [message for prompt, response in turns for message in pair(prompt, response)]
    theirs = tokenizer.tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ours = ConversationEncoder(tokenizer)(messages, "here")
    assert ours.ids.tolist() == theirs["input_ids"]
    assert ours.response.astype(int).tolist() == theirs["assistant_masks"]
    prefix = ConversationEncoder(tokenizer, chat_template=CHATML)(messages, "here")
    assert prefix.ids.tolist() == ours.ids.tolist()
    assert prefix.response.tolist() == ours.response.tolist()


MARKED_TOKENIZER = bpe(MARKED)


def test_a_response_that_the_template_leaves_open_gets_the_end_of_text_token():
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
    template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    tokenizer = bpe()
    encoder = ConversationEncoder(tokenizer, chat_template=template)
    sample = encoder(pair("Hi", "deux"), "here")
    assert sample.ids[-1] == tokenizer.eos_token_id
    assert sample.response[-1]
    assert "".join(parts(encoder, sample)).replace(" ", "") == "deux<|endoftext|>"


def test_the_template_may_be_a_file_or_the_tokenizers_own(tmp_path):
    (tmp_path / "chat.jinja").write_text(CHATML)
    by_file = ConversationEncoder(bpe(), chat_template=str(tmp_path / "chat.jinja"))
    own = ConversationEncoder(bpe(CHATML))
    plain = ConversationEncoder(bpe())
    assert by_file(CHAT, "x").ids.tolist() == own(CHAT, "x").ids.tolist()
    assert plain.template is None
    assert plain(CHAT, "x").ids.tolist() != own(CHAT, "x").ids.tolist()


def test_a_template_that_rewrites_what_came_before_is_refused():
    rewriting = "{% for m in messages %}{{ messages | length }}{{ m.content }}{% endfor %}"
    with pytest.raises(InputError, match=r"a.jsonl, line 2: .* turn 3 .*generation"):
        render(bpe().tokenizer, rewriting, CHAT, "a.jsonl, line 2")


def test_what_a_template_raises_says_where():
    strict = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match=r"a.jsonl, line 2 cannot .* roles must alternate"):
        ConversationEncoder(bpe(strict))(CHAT, "a.jsonl, line 2")


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("Hi", "messages of type str"),
        ([], "messages of type list"),
        ([{"role": "user"}], "no text 'content' in message 1"),
        ([*CHAT, {"from": "human", "value": "x"}], "no text 'role' in message 6"),
        ([*CHAT, {"role": "assistant", "content": None}], "no text 'content' in message 6"),
        (CHAT[:2], r"no turn of the role \"assistant\" \(its roles are 'system', 'user'\)"),
    ],
)
def test_chats_that_cannot_be_used(messages, problem):
    with pytest.raises(InputError, match=f"^f.jsonl, line 7 has {problem}"):
        check_messages(messages, "f.jsonl, line 7")


def test_settings_that_cannot_be_used():
    with pytest.raises(InputError, match=r"prompt_template is 'Q:'; it must have \{prompt\}"):
        ConversationEncoder(ByteTokenizer(), prompt_template="Q:")
    with pytest.raises(InputError, match="turns='first' must be"):
        ConversationEncoder(ByteTokenizer(), turns="first")
    with pytest.raises(InputError, match="needs a Hugging Face tokenizer"):
        ConversationEncoder(ByteTokenizer(), chat_template=CHATML)
    with pytest.raises(InputError, match=r"'chat\.jinja' is neither a file nor"):
        ConversationEncoder(bpe(), chat_template="chat.jinja")


def test_the_prompt_is_all_before_the_first_response():
    other = copy.deepcopy(CHAT)
    other[2]["content"] = other[4]["content"] = "autre"
    assert prompt_of(CHAT) == prompt_of(other) == prompt_of(CHAT[:3])
    other[0]["content"] = "Be long."
    assert prompt_of(CHAT) != prompt_of(other)
