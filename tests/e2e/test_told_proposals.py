"""What events, steps, counters and `glimp run` tell of proposals: what was proposed, and what has become of it."""

import json

import pytest
from proposers import Whims
from tiny_requests import PROMPTS, SAMPLED, routing

from glimp_engine import Engine, GlimpRouter, LargeOnly, Model, Proposer, SmallOnly, StepEnd, StepEntropyRouter, Token
from glimp_engine.cli.main import main
from glimp_engine.cli.pieces import pieces_of
from glimp_engine.outputs import CompletionOutput, Phase, Step
from glimp_engine.sequences.proposals import Proposals


@pytest.fixture
def proposed(monkeypatch):
    """All that is proposed: (place in the stream, the token in the stream's ids, proposer)."""
    told, add = set(), Proposals.add

    def note(self, token_id, proposer, evidence):
        told.add((len(self.stream), token_id, proposer))
        add(self, token_id, proposer, evidence)

    monkeypatch.setattr(Proposals, "add", note)
    return told


def events_of(engine, router):
    """The events of one answer, proposed to by whim; at first without, so that what will be written is known then."""
    knows = {}
    for depth in (0, 4):
        engine._loop.scheduler.proposing = Whims(1, depth, knows=knows)
        engine.add_request("one", PROMPTS[1], SAMPLED, routing(router))
        events = []
        while engine.has_unfinished():
            events += engine.advance()
        knows[None] = events[-1].output.outputs[0].token_ids
    return events


@pytest.mark.parametrize("other", ["small", "large", "cousin"])
@pytest.mark.parametrize("router", [GlimpRouter(2.2), LargeOnly(), SmallOnly()], ids=["glimp", "large", "small"])
def test_a_token_says_whose_proposal_it_confirmed_and_which_it_refused(
    small_path, large_path, cousin_path, proposed, other, router
):
    engine = Engine(small_path, {"small": small_path, "large": large_path, "cousin": cousin_path}[other], loop="host")
    *events, finish = events_of(engine, router)
    tokens = [event for event in events if isinstance(event, Token)]
    in_stream = engine._dictionary.map_ids if other == "cousin" else lambda ids, target: ids
    for place, token in enumerate(tokens, start=len(finish.output.prompt_token_ids)):
        ids = [token.token_id, *token.refused]
        first, *refused = in_stream(ids, Model.SMALL) if token.model is Model.LARGE else ids
        assert token.proposer is None or (place, first, token.proposer) in proposed
        assert first not in refused[:1]
        for i, each in enumerate(refused):
            assert any((place + i, each, proposer) in proposed for proposer in Proposer)
        assert (token.model, token.proposer) != (Model.SMALL, Proposer.SMALL)  # its own token is no proposal to it
        assert not (token.proposer and token.refused)
    assert any(token.refused for token in tokens)
    told = {token.proposer for token in tokens}
    assert told >= {None, Proposer.NGRAM}
    if other == "small":  # one model as both agrees with itself
        assert (Proposer.SMALL in told) == (not isinstance(router, SmallOnly))


def test_what_was_refused_is_told_in_the_writers_ids(small_path, cousin_path):
    class EndNow(Whims):
        def any_token(self, sequence, stream):
            return ends[Model.SMALL]  # the stream is in the small model's ids

    engine = Engine(small_path, cousin_path)
    ends = [text.token_of(b"<|im_end|>", is_special=True) for text in engine._dictionary.texts]
    assert ends[Model.SMALL] != ends[Model.LARGE]
    for router, model in ((SmallOnly(), Model.SMALL), (LargeOnly(), Model.LARGE)):
        engine._loop.scheduler.proposing = EndNow(depth=1, is_random=False, share_small=0)
        events = list(engine.stream(PROMPTS[1], SAMPLED, routing(router)))
        refused = [token_id for event in events if isinstance(event, Token) for token_id in event.refused]
        assert set(refused) == {ends[model]}
        assert engine.token_text(refused[0], model) == "<|im_end|>"


@pytest.mark.parametrize("router", [GlimpRouter(2.2), LargeOnly(), StepEntropyRouter(2.0)], ids=repr)
def test_events_steps_and_counters_agree(small_path, router):
    engine = Engine(small_path, small_path)
    events = events_of(engine, router)
    tokens = [event for event in events if isinstance(event, Token)]
    steps = [event.step for event in events if isinstance(event, StepEnd)]
    for step in steps:
        own = [token for token in tokens if token.step_index == step.index]
        assert step.num_accepted_tokens == sum(token.proposer is not None for token in own)
        assert step.num_proposed_tokens == step.num_accepted_tokens + sum(len(token.refused) for token in own)
    if not isinstance(router, StepEntropyRouter):  # of a draft that is taken back nobody is told
        for proposer, counts in engine.stats().proposers.items():
            assert counts.accepted_tokens == sum(token.proposer is proposer for token in tokens) > 0
            assert counts.proposed_tokens == sum(counts.proposed_at) >= counts.accepted_tokens
        proposed = sum(counts.proposed_tokens for counts in engine.stats().proposers.values())
        assert proposed == sum(step.num_proposed_tokens for step in steps)


@pytest.fixture
def run(small_path, capsys, monkeypatch):
    """What `glimp run` prints, with proposals by whim to what knows the answer; one model as both accepts some."""

    def call(*arguments):
        pair = ["--small", str(small_path), "--large", str(small_path), "--temperature", "0.9", "--max-tokens", "60"]
        assert main(["run", *pair, "--router", "glimp:2.2", *arguments, PROMPTS[1]]) == 0
        return capsys.readouterr().out

    answer = json.loads(call("--json", "--speculation", "off"))["outputs"][0]["token_ids"]
    monkeypatch.setattr("glimp_engine.config.MAX_TICKS", 1)  # with --json glimpses end launches: other whims then
    monkeypatch.setattr("glimp_engine.engine.Proposing", lambda *parts: Whims(1, knows={None: answer}))
    return call


def test_the_console_says_how_many_were_accepted_by_step_and_by_proposer(run):
    out, answer = run(), json.loads(run("--json"))
    for step in answer["outputs"][0]["steps"]:
        line = step["text"].strip("\n").splitlines()[-1:]
        if step["num_proposed_tokens"] and line:
            assert f"{line[0]}  ({step['num_accepted_tokens']} of {step['num_proposed_tokens']} accepted)\n" in out
    counts = [
        f"{name} {each['accepted_tokens']} of {each['proposed_tokens']}"
        for name, each in answer["stats"]["proposers"].items()
    ]
    assert f"accepted proposals: {counts[0]}, {counts[1]}\n" in out
    assert out.count(" accepted)\n") == sum(step["num_proposed_tokens"] > 0 for step in answer["outputs"][0]["steps"])


def test_the_console_is_silent_where_nothing_was_proposed(run, monkeypatch):
    monkeypatch.setattr("glimp_engine.engine.Proposing", lambda *parts: Whims(depth=0))
    assert "accepted" not in run()


def test_the_pieces_of_the_json_make_up_each_step(run):
    answer = json.loads(run("--json"))
    steps = answer["outputs"][0]["steps"]
    for step in steps:
        assert "".join(piece["text"] for piece in step["pieces"]) == step["text"]
        assert any(piece["proposer"] for piece in step["pieces"]) <= (step["num_accepted_tokens"] > 0)
        assert any(piece["refused"] for piece in step["pieces"]) <= (
            step["num_proposed_tokens"] > step["num_accepted_tokens"]
        )
    pieces = [piece for step in steps for piece in step["pieces"]]
    assert {piece["proposer"] for piece in pieces} == {None, "small", "ngram"}
    assert any(piece["refused"] for piece in pieces)


@pytest.mark.parametrize("spec", ["off", "small", "ngram", "small+ngram:2"])
def test_an_answer_is_the_same_whoever_proposes(run, monkeypatch, spec):
    monkeypatch.undo()
    with_proposals = json.loads(run("--json", "--speculation", spec))
    assert with_proposals["outputs"][0]["token_ids"] == json.loads(run("--json"))["outputs"][0]["token_ids"]
    for name, counts in with_proposals["stats"]["proposers"].items():
        assert name in spec or counts["proposed_tokens"] == 0
        assert len(counts["proposed_at"]) <= 2 or ":2" not in spec


# Pieces of events that are written by hand.


def token(text, proposer=None, refused=(), step_index=0, model=Model.LARGE):
    return Token("one", 0, step_index, model, 0, text, 0.0, proposer, refused)


def completion(*texts):
    """An answer of steps with these texts."""
    steps, begin = [], 0
    for index, text in enumerate(texts):
        steps.append(Step(index, Phase.ANSWER, Model.LARGE, None, 0, begin, text_end=begin + len(text)))
        begin += len(text)
    return CompletionOutput(0, "".join(texts), [], 0.0, None, None, None, None, steps)


def pieces(tokens, *texts):
    found = pieces_of(tokens, completion(*texts), lambda token_id, model: f"<{model}{token_id}>")
    return [[(piece.text, piece.proposer, piece.refused) for piece in each] for each in found]


def test_neighbours_of_one_proposer_are_one_piece():
    tokens = [
        token("a"),
        token("b"),
        token("c", Proposer.SMALL),
        token("d", Proposer.SMALL),
        token("e", Proposer.NGRAM),
    ]
    assert pieces(tokens, "abcde") == [[("ab", None, ""), ("cd", "small", ""), ("e", "ngram", "")]]


def test_what_was_refused_stands_before_what_took_its_place():
    tokens = [token("a"), token("b", refused=(7, 8)), token("c"), token("d", refused=(9,), model=Model.SMALL)]
    assert pieces(tokens, "abcd") == [[("a", None, ""), ("bc", None, "<large7><large8>"), ("d", None, "<small9>")]]


def test_text_that_was_held_back_belongs_to_its_step():
    tokens = [token(""), token("ab", Proposer.SMALL, step_index=1), token("", step_index=1)]
    assert pieces(tokens, "a", "bcd") == [[("a", "small", "")], [("b", "small", ""), ("cd", None, "")]]


def test_tokens_without_text_keep_what_they_refused():
    assert pieces([token("a"), token("", refused=(7,))], "a") == [[("a", None, ""), ("", None, "<large7>")]]
    assert pieces([token("", refused=(7,)), token("a", Proposer.SMALL)], "a") == [
        [("", None, "<large7>"), ("a", "small", "")]
    ]
    assert pieces([], "") == [[]]
