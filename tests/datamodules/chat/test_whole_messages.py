"""Chat templates get whole messages: tool calls, tools and whatever other fields they have."""

import json

import pytest
from chat_helpers import CHATML, MARKED, bpe, parts, said, write_lines

from tandem_pl.datamodules import InstructionMixtureDataModule
from tandem_pl.datamodules.chat.messages import Chat, check_messages, from_messages, prompt_of
from tandem_pl.datamodules.chat.templates import ConversationEncoder
from tandem_pl.datamodules.text.tokenization import ByteTokenizer
from tandem_pl.errors import InputError

OPTIONS = {"target_fraction": 0.2, "test_fraction": 0.1, "max_length": 64}
FIELDS = (
    "{% if tools %}<|im_start|>tools {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}"
    "{% if m.tool_call_id %}#{{ m.tool_call_id }}{% endif %}{{ '\n' }}"
    "{% if m.reasoning_content %}[{{ m.reasoning_content }}]{% endif %}{{ m.content or '' }}"
    "{% for c in m.tool_calls %}<{{ c.function | tojson }}>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FIELDS_MARKED = (
    "{% macro body(m) %}{% if m.reasoning_content %}[{{ m.reasoning_content }}]{% endif %}"
    "{{ m.content or '' }}{% for c in m.tool_calls %}<{{ c.function | tojson }}>{% endfor %}"
    "<|im_end|>{% endmacro %}"
    "{% if tools %}<|im_start|>tools {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}"
    "{% if m.tool_call_id %}#{{ m.tool_call_id }}{% endif %}{{ '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ body(m) }}{% endgeneration %}"
    "{% else %}{{ body(m) }}{% endif %}{{ '\n' }}{% endfor %}"
)
CALL = {"name": "weather", "arguments": {"city": "Paris", "unit": None}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
MESSAGES = [
    {"role": "user", "content": "Weather?", "name": "Ana"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "I ask.",
        "tool_calls": [{"id": "c1", "type": "function", "function": CALL}],
    },
    {"role": "tool", "content": "21", "tool_call_id": "c1", "name": "weather"},
    {"role": "assistant", "content": "21 degrees."},
]
SAID = ["[I ask.]<" + json.dumps(CALL) + "><|im_end|>", "21 degrees.<|im_end|>"]


@pytest.mark.parametrize("template", [FIELDS, FIELDS_MARKED])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_the_template_gets_what_apply_chat_template_gets(template, tools):
    tokenizer = bpe(template)
    encoder = ConversationEncoder(tokenizer)
    chat = from_messages({"m": MESSAGES, "tools": tools}, "a.jsonl, line 1", "m", "tools")
    sample = encoder(chat, "here")
    expected = tokenizer.tokenizer.apply_chat_template(
        MESSAGES, tools=tools, tokenize=True, return_dict=True
    )
    assert sample.ids.tolist() == expected["input_ids"]
    assert parts(encoder, sample) == SAID
    assert encoder.unused_fields(chat) == set()


@pytest.mark.parametrize("template", [FIELDS, FIELDS_MARKED, CHATML, MARKED, None])
def test_a_turn_of_weight_0_has_no_loss(template):
    encoder = ConversationEncoder(bpe(template) if template else ByteTokenizer())
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "right", "weight": 1},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "so so"},
    ]

    def responses(messages, encoder=encoder):
        ids, response = sample = encoder(messages, "here")
        if template:
            return [part.removesuffix("<|im_end|>") for part in parts(encoder, sample)]
        text = "".join(chr(i) if i < 256 else "\n" for i in ids[response])
        return text.splitlines()

    assert responses(chat) == ["right", "so so"]
    whole = [{**message, "weight": 1} for message in chat]
    assert responses(whole) == ["wrong", "right", "so so"]
    assert encoder(chat, "x").ids.tolist() == encoder(whole, "x").ids.tolist()
    last = ConversationEncoder(encoder.tokenizer, turns="last")
    assert responses([*chat[:5], {**chat[5], "weight": 0}]) == ["right"]
    assert responses([*chat[:5], {**chat[5], "weight": 0}], last) == []
    assert responses([{**message, "weight": 0} for message in chat]) == []


def test_marks_that_some_turns_lack_stay_with_their_turns():
    """A template that marks content and tool calls by themselves: one or two marks a turn."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{{ '\n' }}{% if m.role == 'assistant' %}"
        "{% if m.content %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}"
        "{% if m.tool_calls %}!{% generation %}{{ m.tool_calls[0].function.name }}"
        "{% endgeneration %}{% endif %}<|im_end|>"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    )
    call = [{"function": CALL}]
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "first", "tool_calls": call},
        {"role": "tool", "content": "b"},
        {"role": "assistant", "content": "", "tool_calls": call, "weight": 0},
        {"role": "tool", "content": "c"},
        {"role": "assistant", "content": "third", "tool_calls": call},
    ]
    encoder = ConversationEncoder(bpe(template))
    expected = ["first", "weather<|im_end|>"]
    assert parts(encoder, encoder(chat, "x")) == [*expected, "third", "weather<|im_end|>"]
    last = ConversationEncoder(bpe(template), turns="last")
    assert parts(last, last(chat, "x")) == ["third", "weather<|im_end|>"]


EMPTY = {"role": "assistant", "content": "", "tool_calls": [{"function": CALL}]}


@pytest.mark.parametrize("template", [CHATML, MARKED, None, "text"])
@pytest.mark.parametrize("content", ["", " \n", None])
def test_a_turn_that_renders_to_nothing_is_refused(template, content):
    if template == "text":  # ends that are no special tokens
        template = CHATML.replace("<|im_start|>", "### ").replace("<|im_end|>", "END")
    if template:
        template = template.replace("{{ m.content }}", "{{ m.content or '' }}")
    encoder = ConversationEncoder(bpe(template) if template else ByteTokenizer())
    chat = check_messages([MESSAGES[0], {**EMPTY, "content": content}, *MESSAGES[2:]], "here")
    words = "of message 2, a turn" if template else "without content in message 2"
    with pytest.raises(InputError, match=words) as caught:
        encoder(chat, "a.jsonl, line 7")
    assert str(caught.value).startswith("a.jsonl, line 7")
    last = ConversationEncoder(encoder.tokenizer, turns="last")
    assert last(chat, "x").response.any(), "it has no loss there"
    masked = encoder([chat[0], {**chat[1], "weight": 0}, *chat[2:]], "x")
    assert masked.response.any()


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_a_response_of_one_special_token_is_no_empty_turn(template):
    encoder = ConversationEncoder(bpe(template))
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<|endoftext|>"}]
    assert parts(encoder, encoder(chat, "x"))[0].startswith("<|endoftext|>")


def test_a_mark_without_the_tool_call_is_refused():
    template = MARKED.replace("{% endgeneration %}", "{% endgeneration %}{{ m.tool_calls }}")
    template = template.replace("{{ m.content }}", "{{ m.content or '' }}")
    with pytest.raises(InputError, match="renders nothing of message 2"):
        ConversationEncoder(bpe(template))([MESSAGES[0], EMPTY], "x")


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([{"role": "user", "content": None}], "no text 'content' in message 1"),
        ([{"role": "tool", "tool_call_id": "c"}], "no text 'content' in message 1"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "no text 'content'"),
        ([{"role": "user", "content": ["Hi"]}], "no text 'content' in message 1"),
        ([{"role": "user", "content": 3}], "no text 'content' in message 1"),
        ([{**MESSAGES[3], "weight": 0.5}], "the weight 0.5 in message 1; give 0"),
        ([{**MESSAGES[3], "weight": "0"}], "the weight '0' in message 1; give 0"),
    ],
)
def test_messages_that_cannot_be_used(messages, problem):
    with pytest.raises(InputError, match=f"^f.jsonl, line 7 has {problem}"):
        check_messages(messages, "f.jsonl, line 7")


def test_content_in_parts_is_for_templates_alone():
    words = [{"type": "text", "text": "Hi"}]
    chat = check_messages([{"role": "user", "content": words}, MESSAGES[3]], "x")
    template = CHATML.replace("{{ m.content }}", "{{ m.content[0].text or m.content }}")
    encoder = ConversationEncoder(bpe(template))
    text = encoder.tokenizer.tokenizer.decode(encoder(chat, "x").ids.tolist())
    assert "user\nHi<|im_end|>" in text
    assert prompt_of(chat) != prompt_of([{"role": "user", "content": ""}, MESSAGES[3]])
    with pytest.raises(InputError, match=r"^x has content in parts in message 1"):
        ConversationEncoder(ByteTokenizer())(chat, "x")


def test_nulls_of_parquet_are_missing_and_those_of_json_are_given():
    """Arrow gives all maps of a column the same keys."""
    rows = {"m": MESSAGES, "t": TOOLS}
    given = from_messages(rows, "a.jsonl, line 3", "m", "t")
    assert given == MESSAGES
    assert given.tools == TOOLS
    arrow = from_messages(rows, "dataset 'a', row 3", "m", "t")
    assert arrow[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Paris"}
    assert arrow[1]["content"] is None
    text = {"m": json.dumps(MESSAGES), "t": json.dumps(TOOLS)}
    assert from_messages(text, "a.parquet, row 3", "m", "t") == MESSAGES
    for tools in ("{", [3], {"a": 1}):
        with pytest.raises(InputError, match=r"^x has a 't' that is no"):
            from_messages({"m": MESSAGES, "t": tools}, "x", "m", "t")


def test_a_chat_with_other_tools_is_no_repeat():
    assert Chat(MESSAGES).key() == json.dumps(MESSAGES)
    assert len({Chat(MESSAGES, tools).key() for tools in (None, TOOLS, [*TOOLS, *TOOLS])}) == 3
    assert prompt_of(Chat(MESSAGES, TOOLS)) == prompt_of(MESSAGES)


# ---- from files ----


def rows(count, **more):
    """Chats of which every other one has tools."""
    return [
        {"messages": [{**MESSAGES[0], "content": f"Weather {i}?"}, *MESSAGES[1:]], **more}
        | ({"tools": TOOLS} if i % 2 else {})
        for i in range(count)
    ]


def module(source, tmp_path, template=FIELDS, **options):
    folder = tmp_path / f"tokenizer {len(template or '')}"
    bpe(template).tokenizer.save_pretrained(str(folder))
    options = {"tokenizer": str(folder), "max_length": 400} | options
    return InstructionMixtureDataModule(
        source,
        messages_column="messages",
        cache_dir=str(tmp_path / "cache"),
        **{**OPTIONS, **options},
    )


def decoded(data, domain="a"):
    found = []
    for split in ("train", "target", "test"):
        for sample in getattr(data, f"{split}_sets")[domain]:
            found.append(data.tokenizer.tokenizer.decode(sample["input_ids"].tolist()))
    return found


@pytest.mark.parametrize("form", ["lines", "json", "parquet", "saved", "text", "dataset"])
def test_tools_and_fields_arrive_from_every_kind_of_file(tmp_path, form):
    from datasets import Dataset

    given = rows(12, domain="a")
    source = {"a": str(tmp_path / f"a.{form}")}
    options = {}
    call = {"name": "weather", "arguments": {"city": "Paris"}}
    if form == "json":
        (tmp_path / "a.json").write_text(json.dumps(given, indent=1))
    elif form in ("parquet", "saved", "dataset"):
        full = Dataset.from_list([{"tools": None, **row} for row in given])
        if form == "parquet":
            full.to_parquet(source["a"])
        else:
            full.save_to_disk(str(tmp_path / "saved"))
            source = {"a": {"dataset": str(tmp_path / "saved")}}
    else:
        call = CALL
        if form == "text":  # columns of JSON
            given = [{key: json.dumps(value) for key, value in row.items()} for row in given]
        source = {"a": write_lines(tmp_path / "a.jsonl", given)}
    call = CALL if form == "json" else call
    if form == "dataset":
        source, options = None, {"dataset": str(tmp_path / "saved")}
    data = module(source, tmp_path, **options)
    assert said(data) == []
    texts = decoded(data)
    assert len(texts) == 12
    assert sum(text.startswith("<|im_start|>tools") for text in texts) == 6
    for text in texts:
        assert f"<{json.dumps(call)}>" in text
        assert "user Ana\nWeather" in text
        assert "tool weather#c1\n21<|im_end|>" in text
    assert data.manifest["unused_fields"] == {}


def test_tools_may_be_left_out_or_have_another_name(tmp_path):
    given = [{"messages": row["messages"], "functions": TOOLS} for row in rows(12)]
    source = {"a": write_lines(tmp_path / "a.jsonl", given)}
    folders = set()
    for name, count in (("functions", 12), ("tools", 0), (None, 0)):
        data = module(source, tmp_path, tools_column=name)
        data.setup("fit")
        assert sum(text.startswith("<|im_start|>tools") for text in decoded(data)) == count
        folders.add(data.cache_folder)
    assert len(folders) == 3


def test_a_chat_without_a_rendered_turn_stops_or_is_skipped(tmp_path):
    given = rows(12)
    given[4]["messages"][1] = {**EMPTY, "tool_calls": []}
    source = {"a": write_lines(tmp_path / "a.jsonl", given)}
    with pytest.raises(InputError, match=r"a.jsonl, line 5: the chat template renders nothing"):
        module(source, tmp_path).setup("fit")
    data = module(source, tmp_path, corrupt="skip")
    with pytest.warns(UserWarning, match="1 unfit rows"):
        data.setup("fit")
    assert len(decoded(data)) == 11


def test_fields_that_no_template_uses_are_said(tmp_path):
    given = rows(12)
    for row in given:
        row["messages"][1] = {**row["messages"][1], "content": "I ask."}
    source = {"a": write_lines(tmp_path / "a.jsonl", given)}
    for options, others in (({"template": CHATML}, set()), ({"tokenizer": "bytes"}, {"name"})):
        data = module(source, tmp_path, **options)
        lines = [line for line in said(data) if "is not rendered" in line]
        fields = ("name", "tool_calls", "tool_call_id", "reasoning_content")
        assert {line.split(", is not")[0] for line in lines} == {
            *(f"'{field}', which 12 conversations have" for field in fields),
            "'tools', which 6 conversations have",
        }
        assert others <= set(data.manifest["unused_fields"])


def test_a_chat_rendered_without_a_template_says_so_in_one_line(tmp_path):
    plain = [{"messages": [{"role": "user", "content": f"{i}"}, MESSAGES[3]]} for i in range(12)]
    source = {"a": write_lines(tmp_path / "a.jsonl", plain)}
    for options in ({"tokenizer": "bytes"}, {"template": None}):
        data = module(source, tmp_path, **options)
        (message,) = said(data, "fit", "test")
        assert message == (
            f"chats are rendered without a chat template, as tokenizer {data.tokenizer_name!r} has "
            "none: prompt_template '{prompt}\\n' for every message that is not the assistant's, "
            "and an end-of-text token after every response; set chat_template to that of your "
            "model."
        )


def test_lengths_are_said_once_a_split_and_kept_in_the_manifest(tmp_path):
    """Half of the prompts are longer than max_length, and some responses do not fit."""
    given = [
        {"prompt": f"{i:02}" + "p" * (100 if i % 2 else 10), "response": "r" * (5 + i)}
        for i in range(80)
    ]
    files = {
        "a": write_lines(tmp_path / "a.jsonl", given[:40]),
        "b": write_lines(tmp_path / "b.jsonl", given[40:]),
    }
    options = {"cache_dir": str(tmp_path / "cache"), **OPTIONS}
    for too_long in ("cut", "drop"):
        for _ in range(2):  # the second time from the cache
            data = InstructionMixtureDataModule(files, too_long=too_long, **options)
            lines = said(data, "fit", "test")
            assert [line.split()[0] for line in lines] == ["train", "target", "test"]
            total = {"dropped": 0, "cut": 0, "kept": 0}
            for line, (split, counts) in zip(lines, data.manifest["lengths"].items(), strict=True):
                assert line.startswith(
                    f"{split} split: {counts['dropped']} samples were dropped, as no token of a "
                    f"response is left of them by max_length=64 and too_long={too_long!r}, "
                    f"{counts['cut']} were cut and {counts['kept']} kept"
                )
                sets = getattr(data, f"{split}_sets")
                assert counts["kept"] == sum(map(len, sets.values()))
                total = {key: total[key] + counts[key] for key in total}
            long = sum(
                13 + len(row["response"]) + 1 > 64 for row in given if row["prompt"][2:] == "p" * 10
            )
            if too_long == "cut":
                assert total == {"dropped": 40, "cut": long, "kept": 40}
            else:
                assert total == {"dropped": 40 + long, "cut": 0, "kept": 40 - long}
    data = InstructionMixtureDataModule(files, **options | {"max_length": 500})
    assert said(data) == []
