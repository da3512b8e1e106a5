"""Answers that follow a grammar: whoever writes, whoever proposes, behind a thinking, in two vocabularies."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from proposers import Whims
from tables import (
    END,
    KV,
    MODES,
    PROMPT,
    TABLES,
    TEXT,
    V,
    check,
    engine_in,
    engine_on,
    id_of,
    model_of,
    routed,
    table_of,
)
from tiny import CHAT_TEMPLATE, Script, make_text
from tiny_requests import check_pages

from glimp_engine import (
    Engine,
    GlimpRouter,
    LargeOnly,
    Model,
    RandomRouter,
    RequestError,
    RoutingParams,
    SamplingParams,
    SmallOnly,
    SpecReason,
    StepEntropyRouter,
    StructuredOutputs,
    Verdict,
)
from glimp_engine.text import Chat, GrammarReader, Grammars

pytest.importorskip("llguidance")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "b.\n\n", None]}, "maxItems": 3},
    },
    "required": ["name", "n"],
    "additionalProperties": False,
}
REGEX = r"(( w[0-9]{1,2}|é)(\.\n\n)?){2,9}!"
ASKED = {
    "json": {"json": SCHEMA},
    "json_object": {"json_object": True},
    "regex": {"regex": REGEX},
    "choice": {"choice": ["yes", "yes, w1", "no", "é\n\n."]},
    "grammar": {"grammar": 'root ::= (" w" [0-9] ".\\n\\n")+ "end"'},
}
# so that the tables, which like words and blank lines, come to an end
HASTE = {
    **{id_of(piece): -9.0 for piece in ("\n\n", "\n", "\t", "\r", " ")},
    **{id_of(piece): 4.0 for piece in '{}[]",:!'},
    **{id_of("e"): 5.0, END: 5.0},
}
ROUTERS = [SmallOnly(), LargeOnly(), GlimpRouter(3.6), RandomRouter(0.5), StepEntropyRouter(3.3), SpecReason(10)]
GRAMMARS = Grammars(TEXT)


@dataclasses.dataclass(frozen=True)
class Trusting(StepEntropyRouter):
    """Asks the large model about each draft, and takes it whatever it says."""

    threshold: float = 0.0
    question: str | None = "Is it right?"

    def review(self, draft):
        return Verdict.ACCEPT


def asking(kind, **values):
    return SamplingParams(
        **{
            "temperature": 0,
            "max_tokens": 60,
            "logit_bias": HASTE,
            "structured_outputs": StructuredOutputs(**ASKED[kind]),
            **values,
        }
    )


def is_asked_for(kind, text):
    """Whether the text is what was asked for, in words of its own; with white space before it, as behind a thinking."""
    patterns = {
        "regex": REGEX,
        "choice": "|".join(map(re.escape, ASKED["choice"]["choice"])),
        "grammar": r"( w[0-9]\.\n\n)+end",
    }
    if kind in patterns:
        return re.fullmatch(rf"[ \t\r\n]*({patterns[kind]})", text, re.A) is not None
    value = json.loads(text)
    if kind == "json_object":
        return isinstance(value, dict)
    return (
        set(value) <= {"name", "n", "tags"}
        and isinstance(value["name"], str)
        and len(value["name"]) <= 9
        and type(value["n"]) is int
        and 0 <= value["n"] <= 99
        and len(value.get("tags", [])) <= 3
        and all(tag in ("a", "b.\n\n", None) for tag in value.get("tags", []))
    )


def left_after(sampling, opened=False):
    """The ids that the grammar leaves behind the output's first ones, by a reader that starts anew each time."""
    mark = TEXT.end_thinking_id
    grammar = GRAMMARS.compile(sampling.structured_outputs, V)

    def left(ids):
        if opened and mark not in ids:
            return None
        answer = ids[ids.index(mark) + 1 :] if opened else ids
        mask = GrammarReader(grammar).mask_after(b"".join(map(TEXT.answer_bytes, answer)), opened)
        return set(np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist())

    return left


@pytest.fixture(params=MODES)
def engine(request, monkeypatch):
    return engine_in(request.param, monkeypatch)


@pytest.mark.parametrize("kind", ASKED)
def test_tokens_are_those_of_a_plain_reference(engine, kind):
    is_native = engine.config.ops == "native"
    check_tokens(engine, kind, ROUTERS if is_native else ROUTERS[2:5])


@pytest.mark.slow
def test_tokens_on_triton_ops_are_too():
    pytest.importorskip("triton")
    check_tokens(engine_on("triton"), "choice", ROUTERS[3:5])


def check_tokens(engine, kind, routers):
    params = [asking(kind), asking(kind, temperature=0.8, seed=5, n=3, presence_penalty=0.3)]
    asked = [(router, sampling) for router in routers for sampling in params]
    outputs = engine.generate(
        [PROMPT] * len(asked), [each for _, each in asked], [routed(each) for each, _ in asked], use_tqdm=False
    )
    num_whole = 0
    for output, (_, sampling) in zip(outputs, asked, strict=True):
        assert output.error is None
        check(output, sampling, left_after=left_after(sampling))
        for completion in output.outputs:
            assert completion.finish_reason in ("stop", "length")
            if completion.finish_reason == "stop":
                num_whole += 1
                assert is_asked_for(kind, completion.text), completion.text
    assert num_whole > len(asked) / 2 or kind == "json_object"
    check_pages(engine)


# Speculation: masks stand behind proposals, and proposals are drawn under them.

WHIMS = [
    {"depth": 4, "is_random": False, "share_small": 1.0},
    {"depth": 9, "share_small": 0.6},
    {"depth": 5, "share_small": 0},
]


@pytest.mark.parametrize("other", ["large_path", "cousin_path", "foreign_path"])
@pytest.mark.parametrize("kind", ["regex", "json_object"])
def test_no_token_changes_with_speculation_or_launches(small_path, request, other, kind):
    paths = small_path, request.getfixturevalue(other)
    params = [asking(kind, max_tokens=30, logit_bias=None, **how) for how in ({}, {"temperature": 0.9, "seed": 3})]
    routers = [GlimpRouter(0.0), GlimpRouter(2.2), GlimpRouter(math.inf), SpecReason(5), RandomRouter(0.5)]

    def answers(policy=None, **options):
        engine = Engine(*paths, kv_cache_bytes=4 * KV, **options)
        if policy is not None:
            engine._loop.scheduler.proposing = policy
        each = [(sampling, routed(router)) for sampling in params for router in routers]
        outputs = engine.generate(["How many?"] * len(each), *map(list, zip(*each, strict=True)), use_tqdm=False)
        check_pages(engine)
        assert [output.error for output in outputs] == [None] * len(each)
        return [(o.outputs[0].token_ids, o.outputs[0].text, [s.model for s in o.outputs[0].steps]) for o in outputs]

    params = [dataclasses.replace(each, seed=3) for each in params]  # which a random router follows too
    plain = answers(speculation="off", loop="host")
    assert {model for _, _, models in plain for model in models} == set(Model)
    assert answers(loop="device") == plain
    for seed, whims in enumerate(WHIMS):
        policy = Whims(seed, **whims, knows={None: plain[1][0]})
        assert answers(policy, loop="device") == plain
        assert any(outcome.is_confirmed for outcome in policy.outcomes) or other == "foreign_path"


# Thinking.

THINKING = PROMPT + "<think>"


def thinking_engine(end=6.0, **options):
    tables = [table.clone() for table in TABLES]
    for table in tables:
        table[:, TEXT.end_thinking_id] += end
        table[:, [id_of("<|im_start|>"), END]] -= 9.0
    return Engine(*map(model_of, tables), device="cpu", page_size=4, kv_cache_bytes=KV, **options), tables


@pytest.mark.parametrize("answer_model", ["small", "large", "routed"])
@pytest.mark.parametrize("router", [GlimpRouter(3.6), RandomRouter(0.5), SpecReason(10), Trusting()], ids=str)
def test_a_thinking_is_free_and_the_answer_is_not(router, answer_model):
    engine, tables = thinking_engine()
    routing = RoutingParams(
        router=router, stop_repeated_steps=False, max_step_tokens=5, answer_model=answer_model, max_thinking_tokens=200
    )
    params = [asking("regex", max_tokens=150, **how) for how in ({"seed": 2}, {"temperature": 0.9, "seed": 4, "n": 2})]
    (greedy, sampled) = engine.generate([THINKING] * 2, params, routing, use_tqdm=False)
    for output, sampling in zip((greedy, sampled), params, strict=True):
        assert output.error is None
        check(output, sampling, tables, left_after(sampling, opened=True))
        for completion in output.outputs:
            assert completion.finish_reason == "stop"
            thought, _, answer = completion.text.partition("</think>")
            assert thought
            assert is_asked_for("regex", answer)
    ids = greedy.outputs[0].token_ids
    for seed in range(6):  # proposals reach from the thinking into the answer
        engine, _ = thinking_engine()
        engine._loop.scheduler.proposing = Whims(seed, depth=9, share_small=0.3, knows={None: ids})
        again = engine.generate([THINKING] * 2, params, routing, use_tqdm=False)
        assert [each.token_ids for o in again for each in o.outputs] == [
            each.token_ids for o in (greedy, sampled) for each in o.outputs
        ]
        check_pages(engine)


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_an_answer_behind_a_forced_end_of_thinking(budget):
    engine, _ = thinking_engine(end=-99.0)
    routing = RoutingParams(router=GlimpRouter(3.6), stop_repeated_steps=False, max_thinking_tokens=budget)
    (output,) = engine.generate([THINKING], asking("json", max_tokens=150), routing, use_tqdm=False)
    completion = output.outputs[0]
    assert completion.finish_reason == "stop"
    answer = completion.text.partition("</think>")[2] if budget else completion.text
    assert is_asked_for("json", answer)


def test_what_the_thinking_says_is_no_part_of_the_answer():
    """A thinking that breaks the grammar, and one that would have completed it."""
    for piece in ("yes", "{{", "no"):
        engine, _ = thinking_engine()
        prompt = THINKING + piece
        (output,) = engine.generate([prompt], asking("choice", max_tokens=99), routed(GlimpRouter(3.6)), use_tqdm=False)
        assert is_asked_for("choice", output.outputs[0].text.partition("</think>")[2])


@pytest.mark.parametrize("space", [[], ["\n\n"]], ids=["at once", "blank line"])
@pytest.mark.parametrize(
    "special", [("<|im_start|>", "<|im_end|>", "<think>", "</think>"), ("<|im_start|>", "<|im_end|>")]
)
def test_the_answer_begins_behind_a_mark_of_any_tokens(special, space):
    """Each model says one thing, and at the answer's places as well others, of which the grammar takes another one."""
    text = make_text(special=special, template=CHAT_TEMPLATE + "{{ '<think>\n' if add_generation_prompt }}")
    mark = ["</think>"] if len(special) > 2 else list("</think>")
    pieces = [" w1.\n\n", " w9", *mark, *space, " w1", " w2"]
    answer = {len(pieces) - 2: 5, len(pieces) - 1: 5}  # w1 to w5, then w2 to w6
    script, chat = Script(text), [{"role": "user", "content": "Go"}]
    length = len(text.encode_chat(Chat(chat)))
    sampling = asking("choice", logit_bias=None, structured_outputs=StructuredOutputs(choice=[" w3 w5", " w4 w6"]))
    ids = [script.id_of(piece) for piece in pieces]
    for policy in (
        None,
        *(Whims(seed, depth=12, share_small=share, knows={None: ids}) for seed in range(4) for share in (0, 0.5)),
    ):
        for router in (GlimpRouter(1.0), LargeOnly(), SpecReason(5), Trusting()):
            models = [script.model(length, pieces, answer) for _ in Model]
            engine = Engine(*models, kv_cache_bytes=KV)
            if policy is not None:
                engine._loop.scheduler.proposing = policy
            (output,) = engine.generate([chat], sampling, RoutingParams(router=router), use_tqdm=False)
            assert output.error is None
            assert output.outputs[0].text.endswith("".join(["</think>", *space, " w3 w5"]))
            assert output.outputs[0].finish_reason == "stop"


# Two vocabularies.


def foreign_engine():
    """Models whose words are different, but for bytes: the large one's are other pieces of what may be asked for."""
    words = ('"na', 'me"', '"n":', "é", " w", "w1", "yes", "\n\n", ".\n\n")
    text = make_text(words=words, special=("<|fin|>", "<|im_end|>", "<|im_start|>", "<think>", "</think>"))
    table = table_of(3, text=text)
    table[:, [i for i in range(text.num_tokens) if text.bytes_of(i) in map(str.encode, words)]] += 2.0
    return Engine(model_of(TABLES[0]), model_of(table, text), kv_cache_bytes=KV), text


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("prompt", [PROMPT, THINKING])
def test_each_model_follows_what_the_other_has_written(kind, prompt):
    sampling = asking(kind, max_tokens=80, logit_bias=None, temperature=0.8, n=4, seed=1)
    routings = [
        RoutingParams(
            router=router, max_step_tokens=3, stop_repeated_steps=False, answer_model="routed", max_thinking_tokens=9
        )
        for router in (RandomRouter(0.5), SpecReason(10), LargeOnly())
    ]
    expected = None
    for policy in (None, Whims(1, depth=5), Whims(2, depth=3, share_small=0.0)):
        engine, _ = foreign_engine()
        assert engine._dictionary.pair.kind == "unrelated"
        if policy is not None:
            engine._loop.scheduler.proposing = policy
        outputs = engine.generate([prompt] * 3, sampling, routings, use_tqdm=False)
        assert [output.error for output in outputs] == [None] * 3
        completions = [each for output in outputs for each in output.outputs]
        for each in completions:
            answer = each.text if prompt == PROMPT else each.text.partition("</think>")[2]
            assert each.finish_reason == "length" or is_asked_for(kind, answer), answer
        assert {step.model for each in completions for step in each.steps} == set(Model)
        got = [each.token_ids for each in completions]
        expected = expected or got
        assert got == expected


# What can go wrong is the request's own.


def test_a_grammar_that_can_not_be_followed_harms_no_other(engine):
    params = [
        asking("choice"),
        asking("choice", structured_outputs=StructuredOutputs(json={"uniqueItems": True})),
        asking("choice", structured_outputs=StructuredOutputs(regex="a(")),
        asking("choice", structured_outputs=StructuredOutputs(choice=["a"]), bad_words=["a"]),
        asking("choice", structured_outputs=StructuredOutputs(choice=["a"]), min_tokens=3),
        asking("choice", structured_outputs=StructuredOutputs(choice=["a"]), ignore_eos=True, max_tokens=4),
        asking("regex"),
    ]
    outputs = engine.generate([PROMPT] * len(params), params, routed(GlimpRouter(3.6)), use_tqdm=False)
    reasons = [output.outputs[0].finish_reason if output.outputs else "none" for output in outputs]
    assert [output.error is None for output in outputs] == [True, False, False, False, False, True, True], reasons
    assert "uniqueItems" in outputs[1].error
    assert "regex" in outputs[2].error
    for output in outputs[3:5]:
        assert "allowed_token_ids, bad_words, logit_bias, min_tokens, structured_outputs leave the" in output.error
    assert outputs[5].outputs[0].token_ids == [id_of("a"), END, END, END]
    assert is_asked_for("regex", outputs[6].outputs[0].text)
    check_pages(engine)


def test_a_grammar_that_gives_up_on_the_way_ends_its_own_request(engine, monkeypatch):
    mask_after = GrammarReader.mask_after

    def failing(self, written, has_thought):
        if len(written) > 4:
            raise RequestError("structured_outputs can't be followed any further: too complex")
        return mask_after(self, written, has_thought)

    monkeypatch.setattr(GrammarReader, "mask_after", failing)
    params = [asking("regex"), SamplingParams(temperature=0, max_tokens=9)]
    broken, other = engine.generate([PROMPT] * 2, params, routed(GlimpRouter(3.6)), use_tqdm=False)
    assert broken.error == "structured_outputs can't be followed any further: too complex"
    assert other.error is None
    check_pages(engine)


def test_whoever_has_no_grammar_pays_nothing(engine, monkeypatch):
    """A batch without one has no mask; a graph runs it."""
    seen = []
    made = engine._loop._batches.of

    def noted(plan):
        batch = made(plan)
        seen.append((len(batch.sampling.token_mask), batch.is_plain))
        return batch

    monkeypatch.setattr(engine._loop._batches, "of", noted)
    engine.generate([PROMPT], SamplingParams(temperature=0, max_tokens=9), routed(GlimpRouter(3.6)), use_tqdm=False)
    assert set(seen) == {(0, True)}
    seen.clear()
    engine.generate([PROMPT], asking("regex", max_tokens=9), routed(GlimpRouter(3.6)), use_tqdm=False)
    assert (0, False) not in seen
    assert any(rows for rows, _ in seen)
