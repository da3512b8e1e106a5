"""What is made of a run: summaries, signals' discrimination, thresholds. On runs written by hand."""

import json
import math
import random

import numpy as np
import pytest

from glimp_engine import ConfigError
from glimp_engine.evaluation.calibrate import parse_target, propose
from glimp_engine.evaluation.discrimination import auc, discriminate, risk_coverage
from glimp_engine.evaluation.report import signal_section, table_section
from glimp_engine.evaluation.run_files import RunFiles
from glimp_engine.evaluation.summary import COLUMNS, busy_seconds, interval_of, summarise, wilson


def step(entropy, model="small", num_tokens=10, is_routed=True):
    signals = {"entropy": entropy, "top20_entropy": entropy, "max_probability": 0.1, "margin": 0.1}
    return {
        "phase": "thinking",
        "model": model,
        "num_tokens": num_tokens,
        "entropy": entropy if is_routed else None,
        "signals": signals if is_routed else None,
    }


def answer(router, problem, steps, is_correct=True, seconds=1.0, repeat=0, began=0.0, concurrency=1, proposed=None):
    """(a line of results, a line of timings)."""
    large = sum(s["num_tokens"] for s in steps if s["model"] == "large")
    result = {
        "problem": problem,
        "router": router,
        "repeat": repeat,
        "is_correct": is_correct,
        "error": None,
        "num_tokens": sum(s["num_tokens"] for s in steps),
        "num_large_tokens": large,
        "num_redone_tokens": 0,
        "hand_overs": 1,
        "steps": steps,
    }
    return result, {
        "seconds": seconds,
        "began": began,
        "ended": began + seconds,
        "step_seconds": [seconds],
        "concurrency": concurrency,
        **(
            {} if proposed is None else dict(zip(("num_proposed_tokens", "num_accepted_tokens"), proposed, strict=True))
        ),
    }


def run_of(answers, branches=()):
    results, timings = zip(*answers, strict=True)
    return RunFiles({"num_problems": len(answers)}, list(results), list(timings), list(branches), [])


def test_a_summary():
    answers = [
        answer("glimp:1.0", "a", [step(2.0, "large"), step(0.1)], True, seconds=1.0, began=0.0),
        answer("glimp:1.0", "b", [step(0.2), step(0.3), step(0, "large", 20, is_routed=False)], False, 3.0, began=0.5),
    ]
    row = summarise(run_of(answers), "glimp:1.0")
    assert (row.accuracy, row.median_seconds, row.mean_seconds) == (0.5, 2.0, 2.0)
    assert row.tokens_per_second == pytest.approx(60 / 3.5)
    assert row.large_token_share == pytest.approx(30 / 60)
    assert row.intervention_rate == pytest.approx(1 / 4)
    assert len(row.cells()) == len(COLUMNS)


@pytest.mark.parametrize(
    ("counts", "proposed_tokens", "acceptance", "cells"),
    [
        ([(10, 4), (30, 11)], 20, 15 / 40, ["20.0", "37.5%"]),
        ([(0, 0), (0, 0)], 0, None, ["0.0", "-"]),
        ([(10, 4), None], None, None, ["-", "-"]),  # begun before there were proposals
    ],
)
def test_what_was_proposed_is_summed_up(counts, proposed_tokens, acceptance, cells):
    answers = [answer("large", name, [step(1.0)], proposed=each) for name, each in zip("ab", counts, strict=True)]
    row = summarise(run_of(answers), "large")
    assert (row.proposed_tokens, row.acceptance) == (proposed_tokens, acceptance)
    assert (
        dict(zip(COLUMNS, row.cells(), strict=True)).items()
        >= dict(zip(("proposed tokens", "accepted"), cells, strict=True)).items()
    )
    page = table_section([row])
    assert f"<td>{cells[0]}</td><td>{cells[1]}</td>" in page
    assert "<th>proposed tokens</th><th>accepted</th>" in page


def test_latencies_compare_only_where_as_many_ran_at_once():
    answers = [
        answer(router, "a", [step(1.0)], concurrency=n) for router, n in (("small", 1), ("large", 1), ("glimp:0", 8))
    ]
    assert run_of(answers).timed_alike() == ["small", "large"]


def test_pauses_are_not_busy():
    times = [(0, 1), (0.5, 2), (10, 11), (10.2, 10.4)]
    assert busy_seconds([{"began": a, "ended": b} for a, b in times]) == pytest.approx(3.0)


@pytest.mark.parametrize(  # from R: binom::binom.confint(method = "wilson")
    ("num_right", "count", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (97, 100, 0.9155, 0.9897)]
)
def test_wilsons_interval(num_right, count, low, high):
    assert wilson(num_right, count) == pytest.approx((low, high), abs=2e-4)


def test_repeats_of_one_problem_are_not_independent():
    """Ten answers to each of ten problems, always right or always wrong, tell no more than one to each."""
    once = [{"problem": i, "is_correct": i % 2 == 0} for i in range(10)]
    low, high = interval_of(once * 10)
    few, many = wilson(5, 10), wilson(50, 100)
    assert high - low == pytest.approx(few[1] - few[0], rel=0.25)
    assert high - low > 2 * (many[1] - many[0])


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_pairs(seed):
    generator = random.Random(seed)
    values = [generator.randint(0, 6) for _ in range(40)]
    failed = [generator.choice([0, 0.25, 1]) for _ in range(40)]
    pairs = [
        (f * (1 - g), 1.0 if v > w else 0.5 if v == w else 0.0)
        for v, f in zip(values, failed, strict=True)
        for w, g in zip(values, failed, strict=True)
    ]
    expected = sum(weight * wins for weight, wins in pairs) / sum(weight for weight, _ in pairs)
    assert auc(values, failed) == pytest.approx(expected)


def test_auc_at_its_ends():
    assert auc([1, 2, 3, 4], [0, 0, 1, 1]) == 1.0
    assert auc([4, 3, 2, 1], [0, 0, 1, 1]) == 0.0
    assert auc([1, 1, 1, 1], [0, 1, 0, 1]) == 0.5


def test_risk_over_coverage():
    coverage, risk = risk_coverage(np.array([3.0, 1.0, 2.0, 4.0]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 0, 1 / 3, 0.5])


def branch(problem, index, value, num_right):
    names = ("entropy", "top20_entropy", "max_probability", "margin", "step_entropy", "step_perplexity")
    names += ("number_entropy", "late")
    return {
        "problem": problem,
        "step": index,
        "signals": dict.fromkeys(names, value),
        "num_samples": 4,
        "num_right": num_right,
    }


def test_signals_are_judged_by_branches():
    generator = random.Random(1)
    branches = [
        branch(f"p{p}", i, generator.gauss(2.0 if fails else 0.0, 1.0), 0 if fails else 4)
        for p in range(40)
        for i, fails in enumerate([True, False, False])
    ]
    found = {each.signal: each for each in discriminate(branches)}
    expected = 0.5 * (1 + math.erf(2 / math.sqrt(2) / math.sqrt(2)))  # two normals, two deviations apart
    assert found["entropy"].auc == pytest.approx(expected, abs=0.05)
    low, high = found["entropy"].interval
    assert low < found["entropy"].auc < high
    assert discriminate([branch("a", 0, 1.0, 4)]) == []
    assert discriminate([branch("a", 0, 1.0, 0)]) == []


def test_a_step_without_a_number_is_the_first_that_the_small_model_may_write():
    branches = [branch("a", i, 1.0, num_right) for i, num_right in enumerate([4, 4, 0, 0])]
    for each, entropy, place in zip(branches, [None, 0.5, 0.7, 0.9], [0, 10, 20, 5], strict=True):
        each["signals"] |= {"number_entropy": entropy, "late": place}
    found = {each.signal: each for each in discriminate(branches)}
    assert (found["number_entropy"].auc, found["late"].auc, found["entropy"].auc) == (1.0, 0.75, 0.5)
    assert found["number_entropy"].risk.tolist() == pytest.approx([0, 0, 1 / 3, 0.5])
    for each in branches:
        each["rest"] = "large"
    page = signal_section(RunFiles({}, [], [], branches, []), discriminate(branches))
    for name, area in (("number_entropy", "1.000"), ("late", "0.750"), ("entropy", "0.500")):
        assert f"<td>{name}</td><td>{area}</td>" in page
        assert f"{name} (AUC {area[:4]})" in page  # its curve


def test_a_run_of_before_there_was_a_signal_has_the_others():
    branches = [branch("a", i, float(i), num_right) for i, num_right in enumerate([4, 0])]
    for each in branches:
        del each["signals"]["number_entropy"], each["signals"]["late"]
    assert [each.signal for each in discriminate(branches)] == [
        *("entropy", "top20_entropy", "max_probability", "margin", "step_entropy", "step_perplexity")
    ]


def synthetic_run(thresholds=(0.5, 1.0, 2.0)):
    """200 problems of ten steps with entropies from 0 to 3; a step by the small model is wrong one time in 20 nats."""
    generator = random.Random(3)
    answers = []
    for p in range(200):
        entropies = [3 * generator.random() for _ in range(10)]
        luck = [generator.random() for _ in range(10)]
        for router in ("small", "large", *(f"glimp:{t}" for t in thresholds)):
            threshold = {"small": math.inf, "large": 0.0}.get(router) if ":" not in router else float(router[6:])
            models = ["large" if entropy >= threshold else "small" for entropy in entropies]
            steps = [step(e, m, is_routed=router != "large") for e, m in zip(entropies, models, strict=True)]
            right = all(m == "large" or x > e / 20 for e, m, x in zip(entropies, models, luck, strict=True))
            seconds = sum(3.0 if model == "large" else 1.0 for model in models)
            answers.append(answer(router, f"p{p}", steps, right, seconds))
    return run_of(answers)


def test_a_threshold_for_a_share():
    proposal = propose(synthetic_run(), parse_target("share=0.25"))
    assert proposal.threshold == pytest.approx(2.25, abs=0.1)  # a quarter of 0 to 3 lies above
    assert proposal.interval[0] < proposal.threshold < proposal.interval[1]
    assert proposal.interval[1] - proposal.interval[0] < 0.4
    value, low, high = proposal.predicted["share_of_large_tokens"]
    assert low < value <= 0.25 < high
    for threshold, predicted, measured in proposal.checks:
        assert predicted == pytest.approx(measured), threshold


def test_a_threshold_for_a_latency():
    proposal = propose(synthetic_run(), parse_target("latency=20"))
    assert proposal.threshold == pytest.approx(1.5, abs=0.15)  # 10 + 20 * (1 - t / 3) seconds
    assert proposal.predicted["latency"][0] <= 20


@pytest.mark.slow
def test_a_threshold_for_an_accuracy():
    run = synthetic_run()
    strict, loose = (propose(run, parse_target(f"accuracy={points}")) for points in (-0.05, -0.3))
    assert strict.threshold < loose.threshold
    assert strict.predicted["accuracy"][0] >= 0.95 - 1e-9
    assert propose(run, parse_target("accuracy=0")).threshold < 0.5


@pytest.mark.parametrize("text", ["", "share", "share=2", "share=x", "latency=0", "latency=nan", "accuracy=0.1", "x=1"])
def test_a_target_that_is_none(text):
    with pytest.raises(ConfigError, match=r"target is '.*'; allowed: share=0.25"):
        parse_target(text)


def test_a_run_must_have_what_a_target_takes():
    small = run_of([answer("small", "a", [step(1.0)])])
    assert propose(small, parse_target("share=0.5")).num_problems == 1
    with pytest.raises(ConfigError, match="target is latency, which takes a run with large and at least two"):
        propose(small, parse_target("latency=3"))
    large = run_of([answer("large", "a", [step(1.0, "large", is_routed=False)])])
    with pytest.raises(ConfigError, match="the run has no glimpses"):
        propose(large, parse_target("share=0.5"))


def test_a_directory_without_a_finished_run(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match=r"expected the files of a finished `glimp eval`, found no results\.jsonl"):
        RunFiles.read(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["latency=20", "latency=0.1", "accuracy=-0.05", "accuracy=-1"])
def test_an_endless_threshold_proposes_none(target):
    """glimp:inf is the small model alone, and the line that is drawn through the thresholds ends before it."""
    finite = synthetic_run()
    lines = [{**line, "router": "glimp:inf"} if line["router"] == "small" else line for line in finite.results]
    proposal = propose(RunFiles(finite.settings, lines, finite.timings, [], []), parse_target(target))
    assert all(map(math.isfinite, (proposal.threshold, *proposal.interval)))
