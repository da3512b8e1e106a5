"""Calls of `glimp` that can't do what they ask for, and files of other types than they should be; a table each.

A call is written as one line; what can't stand in a line is a list. Beside it stand words that its error must have.
Paths are those of test_odd_calls.py's world, which is the working directory.
"""

import shlex
from typing import Any

__all__ = ["CALLS", "JOURNALS", "PROMPTS", "RESULTS", "ROUTINGS", "RUNS", "SETTINGS", "TIMINGS", "TRACES"]

LONG = "x" * 5000
NUL = "a\0b"
PAIR = "--small {small} --large {large}"
RUN = f"run {PAIR} hi"
EVAL = f"eval problems.jsonl {PAIR} --out unused"
PROMPTED = f"calibrate --prompts problems.jsonl {PAIR} -o unused.json"
CALIBRATE = "calibrate finished -o unused.json"

LINES = {
    # no command, or none such
    "": ["required"],
    "nonsense": ["nonsense", "calibrate"],
    "run --nonsense 1": ["--small"],
    f"{RUN} more words": ["more words"],
    "run hi": ["--small"],
    "trace": ["run"],
    "trace answer.json": ["--out"],
    "doctor now": ["now"],
    f"doctor --large {PAIR.split()[-1]}": ["large", "small"],
    "doctor --device gpu": ["device", "gpu", "allowed"],
    "doctor --small ~nobody-there/x": ["nobody-there"],
    "demo now": ["now"],
    "eval": ["--small", "--out"],
    f"eval {PAIR} --out unused": ["--preset"],
    "calibrate": ["--target", "--out"],
    # demo
    "demo --problems -1": ["--problems", "-1", "from 1"],
    "demo --problems 0": ["--problems", "0", "from 1"],
    "demo --problems nan": ["--problems", "nan", "integer"],
    "demo --problems 1.5": ["--problems", "1.5", "integer"],
    "demo --problems ''": ["--problems", "integer"],
    # numbers of a run
    **{
        f"run {PAIR} {option} {value} hi": [value, "allowed"]
        for option, values in (
            ("--temperature", ("nan", "inf", "-1", "-0.5", "warm")),
            ("--top-p", ("nan", "0", "1.1", "-1", "much")),
            ("--seed", ("1e99", "nan", "1.5", "99999999999999999999")),
            ("--max-tokens", ("0", "-1", "1e3", "nan", "")),
            ("--num-threads", ("0", "-1", "99999", "1.5", "nan")),
        )
        for value in values
        if value
    },
    f"run {PAIR} --max-tokens '' hi": ["--max-tokens"],
    # words of a run
    f"{RUN} --device gpu": ["device", "gpu", "allowed"],
    f"{RUN} --device ''": ["device", "''", "allowed"],
    f"{RUN} --device cuda:-1": ["device", "cuda:-1"],
    f"{RUN} --device cuda:99999999999999999999": ["device"],
    f"{RUN} --device meta": ["device", "meta"],
    f"{RUN} --dtype int3": ["dtype", "int3", "allowed"],
    f"{RUN} --dtype ''": ["dtype", "allowed"],
    f"{RUN} --ops fast": ["ops", "fast", "allowed"],
    f"{RUN} --quantization int3": ["quantization", "int3", "allowed"],
    f"{RUN} --quantization ''": ["quantization", "allowed"],
    f"{RUN} --quantization int8 --ops reference": ["quantization", "int8"],
    **{
        f"{RUN} --speculation '{spec}'": ["speculation", spec, "allowed", "auto", "off", "small", "ngram"]
        for spec in ("", "on", "large", "small:0", "small:65", "small:", "small+", "small,ngram", "auto:4")
    },
    f"{RUN} --answer-model me": ["--answer-model", "me", "large"],
    # routers
    **{
        f"{RUN} --router '{spec}'": ["allowed"]
        for spec in (
            "",
            ":",
            "glimp",
            "glimp:",
            "glimp:nan",
            "glimp:-1",
            "glimp:one",
            "glimp:1:nosuch",
            "glimp:1:",
            "glimp:1:entropy:2",
            "glimp:-1%",
            "glimp:101%",
            "glimp:%",
            "glimp:nan%",
            "random",
            "random:",
            "random:2",
            "random:-0.1",
            "random:nan",
            "random@",
            "random@small",
            "small:1",
            "SMALL",
            " small",
            "small,large",
            "specreason:11",
            "specreason:",
            "step_entropy:-1",
            "step_perplexity:nan",
            "number_entropy:-1",
            "number_entropy",
            "late:-1",
            "late:1e3",
            "late:inf",
            "step_perplexity",
        )
    },
    # models
    **{
        f"run --small {path} hi": [path]
        for path in """
            absent ~nobody-there/x directory.txt empty.txt empty.gguf loop.gguf a/b/c /dev/null
            /dev/null/x problems.jsonl/x
        """.split()
    },
    "run --small '' hi": ["--small", "''"],
    "run --small {small} --large '' hi": ["--large", "''"],
    f"run --small {LONG} hi": ["--small", "long"],
    "run --small {small} --large absent hi": ["absent"],
    "run --small {small} --large ~nobody-there/x hi": ["~nobody-there/x"],
    f"{RUN} --routing ~nobody-there/x": ["~nobody-there/x"],
    # routing files
    **{
        f"{RUN} --routing {path}": [path]
        for path in """
            absent.json directory.json empty.json bytes.json loop.json list.json number.json null.json
            word.json deep.json answer.json /dev/null /dev/null/x
        """.split()
    },
    f"{RUN} --routing ''": ["--routing", "''"],
    f"{RUN} --routing {LONG}": ["--routing", "long"],
    "run --small {small} --routing routing.json hi": ["routing.json", "large"],
    "run --small {large} --large {small} --routing routing.json hi": ["routing.json", "small"],
    # trace
    **{
        f"trace {path} -o page.html": [path]
        for path in """
            absent.json directory.json empty.json bytes.json loop.json list.json number.json null.json
            word.json deep.json routing.json ~nobody-there/x
        """.split()
    },
    "trace '' -o page.html": ["run", "''"],
    f"trace {LONG} -o page.html": ["long"],
    "trace answer.json -o ''": ["--out", "''"],
    "trace answer.json -o .": ["--out", "."],
    "trace answer.json -o /dev/null/x": ["--out", "/dev/null/x"],
    "trace answer.json -o absent/page.html": ["--out", "absent/page.html"],
    "trace answer.json -o loop.txt": ["--out", "loop.txt"],
    "trace answer.json -o /dev/full": ["--out", "/dev/full"],
    f"trace answer.json -o {LONG}": ["--out", "long"],
    # eval: numbers
    **{
        f"{EVAL} {option} {value}": [option, value, "allowed"]
        for option, values in (
            ("--concurrency", ("0", "-1", "nan", "inf", "1e9", "1.5")),
            ("--repeats", ("0", "-1", "nan", "99999999999")),
            ("--limit", ("-1", "nan", "1.5")),
            ("--branches", ("-1", "nan", "1.5", "99999999999")),
        )
        for value in values
    },
    **{
        f"{EVAL} {option} {value}": [option.strip("-").replace("-", "_"), value]
        for option, value in (
            ("--temperature", "nan"),
            ("--top-p", "2"),
            ("--max-thinking-tokens", "-1"),
            ("--max-step-tokens", "-1"),
            ("--max-answer-tokens", "0"),
            ("--max-tokens", "-5"),
        )
    },
    f"{EVAL} --speculation small:x": ["speculation", "small:x", "allowed"],
    f"{EVAL} --seed 1e99": ["--seed", "1e99"],
    f"{EVAL} --num-threads 0": ["num_threads", "0"],
    # eval: routers
    **{
        f"{EVAL} --routers '{specs}'": ["router", found, "allowed"]
        for specs, found in (
            ("", "''"),
            (",", "''"),
            ("small,", "''"),
            ("small,,large", "''"),
            ("small,small", "'small'"),
            ("small,random@", "'random@'"),
            ("random@small,small", "'random@small'"),
            ("random@random@small", "'random@random@small'"),
            ("small,best", "'best'"),
            ("small, large", "' large'"),
            ("small@small", "'small@small'"),
            ("small,glimp:", "'glimp:'"),
        )
    },
    f"{EVAL} --routers small,glimp:nan": ["nan", "allowed"],
    f"{EVAL} --routers small,random:2": ["2", "allowed"],
    "eval problems.jsonl --small {small} --out unused --routers small,large": ["large"],
    # eval: problems, words
    **{
        f"eval {path} {PAIR} --out unused": [path]
        for path in """
            absent.jsonl directory.jsonl empty.jsonl bytes.jsonl loop.jsonl list.jsonl number.jsonl
            deep.jsonl empty.json bytes.json list.json number.json null.json word.json deep.json
            rows.json empty.csv bytes.csv wide.csv loop.csv empty.tsv empty.parquet bytes.parquet
            loop.parquet empty.txt no_answer.jsonl ~nobody-there/x.jsonl /dev/null
        """.split()
    },
    f"eval '' {PAIR} --out unused": ["problems", "''"],
    f"eval {LONG}.jsonl {PAIR} --out unused": ["problems", "long"],
    f"{EVAL} --fields ,": ["fields"],
    f"{EVAL} --fields id=": ["fields"],
    f"{EVAL} --fields nonsense=id": ["fields"],
    f"{EVAL} --fields answer=absent": ["problems"],
    f"{EVAL} --grader nonsense": ["--grader", "nonsense", "exact"],
    f"{EVAL} --grader number --limit 0": ["problems"],
    f"{EVAL} --preset nonsense": ["--preset", "nonsense", "gsm8k"],
    f"{EVAL} --preset gsm8k": ["problems.jsonl"],
    f"{EVAL} --branch-rest me": ["--branch-rest", "me"],
    f"eval --preset hitab {PAIR} --out unused": ["HiTab"],
    f"eval --preset finqa absent.json {PAIR} --out unused": ["absent.json"],
    # eval: where to
    **{
        f"eval problems.jsonl {PAIR} --routers small --out {path}": ["out", path]
        for path in ("empty.txt", "empty.txt/x", "/dev/null", "/dev/null/x", "loop.txt", "/proc/x")
    },
    f"eval problems.jsonl {PAIR} --out ''": ["--out", "''"],
    f"eval problems.jsonl {PAIR} --out {LONG}": ["--out", "long"],
    # calibrate: targets
    **{
        f"{CALIBRATE} --target '{target}'": ["target", target, "allowed"]
        for target in (
            "",
            "=",
            "share",
            "share=",
            "share=nan",
            "share=2",
            "share=-1",
            "share=25%",
            "latency=0",
            "latency=nan",
            "latency=-3",
            "accuracy=0.1",
            "accuracy=-2",
            "speed=3",
            "share=0.1=0.2",
            "SHARE=0.1",
        )
    },
    f"{CALIBRATE} --target latency=inf": ["target", "inf", "allowed"],
    # calibrate: numbers, files
    **{
        f"{PROMPTED} --target share=0.5 {option} {value}": [value]
        for option, values in (
            ("--concurrency", ("0", "-1", "nan", "1e9")),
            ("--max-tokens", ("0", "-1", "nan")),
            ("--num-threads", ("0", "1.5")),
            ("--device", ("gpu",)),
            ("--speculation", ("on",)),
        )
        for value in values
    },
    **{
        f"calibrate --prompts {path} {PAIR} --target share=0.5 -o unused.json": [path]
        for path in ("absent.jsonl", "empty.jsonl", "bytes.jsonl", "number.json", "null.json", "loop.jsonl", "wide.csv")
    },
    **{
        f"calibrate {path} --target share=0.5 -o unused.json": [path]
        for path in ("absent", "empty_run", "empty.txt", "problems.jsonl", "~nobody-there/x", "/dev/null/x", "loop.txt")
    },
    **{
        f"calibrate finished --target share=0.5 -o {path}": ["out", path]
        for path in (".", "/dev/null/x", "absent/x.json", "empty.txt/x", "loop.txt", "/dev/full")
    },
    "calibrate '' --target share=0.5 -o unused.json": ["run", "''"],
    f"calibrate {LONG} --target share=0.5 -o unused.json": ["run", "long"],
    "calibrate finished --target share=0.5 -o ''": ["--out", "''"],
    "calibrate finished --prompts problems.jsonl --target share=0.5 -o unused.json": ["--prompts"],
    "calibrate --prompts problems.jsonl --target share=0.5 -o unused.json": ["--small", "--large"],
    f"calibrate --prompts problems.jsonl {PAIR} --target latency=1 -o unused.json": ["latency=1"],
    "calibrate --prompts problems.jsonl --small absent --large absent --target share=0.5 -o unused.json": ["absent"],
}
PIECES = [
    (["run", "--small", NUL, "hi"], ["--small", "\\x00"]),
    (["run", "--small", "{small}", "--large", NUL, "hi"], ["--large", "\\x00"]),
    (["run", "--small", "{small}", "--large", "{large}", "--routing", NUL, "hi"], ["--routing", "\\x00"]),
    (["run", "--small", "\ud800", "hi"], ["--small", "\\ud800"]),
    (["run", "--small", "{small}", "--device", NUL, "hi"], ["device", "\\x00"]),
    (["run", "--small", "{small}", "--device", "\udcff", "hi"], ["device"]),
    (["run", "--small", "{small}", "--speculation", "\udcff\n", "hi"], ["speculation"]),
    (["run", "--small", "{small}", "--speculation", LONG, "hi"], ["speculation", "xxx"]),
    (["run", "--small", "{small}", "--dtype", "\udcff\n", "hi"], ["dtype"]),
    (["run", "--small", "{small}", "--router", "glimp:\udcff", "hi"], ["router"]),
    (["run", "--small", "{small}", "--large", "{large}", "--router", "glimp:\n", "hi"], ["router"]),
    (["run", "--small", "{small}", "--a\nb", "hi"], ["--a b"]),
    (["run", "--small", "two\nlines", "hi"], ["two"]),
    (["trace", NUL, "-o", "page.html"], ["\\x00"]),
    (["trace", "answer.json", "-o", NUL], ["--out", "\\x00"]),
    (["trace", "absent\n.json", "-o", "page.html"], ["absent"]),
    (["eval", NUL, "--small", "{small}", "--out", "unused"], ["problems", "\\x00"]),
    (["eval", "problems.jsonl", "--small", "{small}", "--out", NUL], ["--out", "\\x00"]),
    (["calibrate", NUL, "--target", "share=0.5", "-o", "unused.json"], ["\\x00"]),
    (["calibrate", "finished", "--target", "share=\udcff", "-o", "unused.json"], ["target"]),
    (["calibrate", "finished", "--target", "share=0.5", "-o", NUL], ["--out", "\\x00"]),
    (["demo", "--problems", "1" * 5000], ["--problems"]),
    (["demo", "--problems", "\udcff"], ["--problems"]),
]
CALLS: list[tuple[list[str], list[str]]] = [
    *((shlex.split(line), words) for line, words in LINES.items()),
    *PIECES,
]

PROMPTS = ["", " ", "\n\t \n", "a\udcffb", "\ud800"]  # the last two are bytes that are no text

# Where a value stands in a routing file, and what stands there instead; ... is nothing.
ROUTINGS: list[tuple[tuple[str, ...], Any]] = [
    *(((key,), ...) for key in ("small", "large", "fingerprints", "router", "target", "threshold_interval")),
    *((("fingerprints",), value) for value in ([], "x", None, 5, {}, {"small": "x"}, {"small": 1, "large": 2})),
    *((("router",), value) for value in (None, 5, [], "nosuch", "glimp:nan", "")),
    *((("threshold_interval",), value) for value in (None, 5, [], [1], ["a", "b"], [1, 2, 3], [True, False])),
    *((("version",), value) for value in (None, 2, "1", True, [])),
    *((("predicted",), value) for value in (None, [], {"share": "much"}, {"share": [1, 2]}, {"share": None})),
    *((("num_problems",), value) for value in (None, "12", -1, 1.5, True)),
    *(((key,), value) for key in ("small", "large", "target", "measured_on") for value in (None, 5, [])),
    (("nonsense",), 1),
]

FIRST_STEP = ("outputs", 0, "steps", 0)
TRACES: list[tuple[tuple[str | int, ...], Any]] = [
    *(((key,), ...) for key in ("prompt_text", "outputs", "seconds", "stats", "ticks")),
    *(((key,), value) for key in ("prompt_text", "outputs", "seconds", "stats", "ticks") for value in (None, True)),
    (("outputs",), {}),
    (("outputs", 0), 5),
    (("outputs", 0, "steps"), None),
    (("seconds",), "long"),
    (("stats",), [1]),
    (("stats", "hand_overs"), "many"),
    *(((*FIRST_STEP, key), []) for key in ("model", "text", "token_start", "token_end", "seconds", "entropy")),
    ((*FIRST_STEP, "first_tokens"), {}),
    ((*FIRST_STEP, "first_tokens"), [5]),
    ((*FIRST_STEP, "model"), "medium"),
    (("stats", "proposers"), []),
    (("stats", "proposers", "small"), 5),
    (("stats", "proposers", "small", "accepted_tokens"), -1),
    *(((*FIRST_STEP, "pieces"), value) for value in (None, {}, [5], [{"text": ""}])),
    *(((*FIRST_STEP, "pieces", 0, key), []) for key in ("text", "proposer", "refused")),
    ((*FIRST_STEP, "pieces", 0, "proposer"), "large"),
    *(((*FIRST_STEP, key), None) for key in ("num_proposed_tokens", "num_accepted_tokens")),
    (("ticks", 0, "tokens", 0, "proposal"), None),
    (("ticks", 0, "model"), "medium"),
    (("ticks", 0, "began"), "early"),
    (("ticks", 0, "tokens"), None),
    (("ticks", 0, "tokens"), [5]),
]

SETTINGS: list[tuple[tuple[str, ...], Any]] = [
    *(((key,), ...) for key in ("small", "fingerprints", "problems")),
    *((("fingerprints",), value) for value in (None, [], "x", {"small": 1, "large": 2})),
    *(((key,), value) for key in ("small", "large", "problems") for value in (None, 5)),
]
RESULTS: list[tuple[tuple[str | int, ...], Any]] = [
    *(((4, key), ...) for key in ("problem", "router", "is_correct", "num_tokens", "num_large_tokens", "steps")),
    *(((4, key), []) for key in ("problem", "router", "is_correct", "num_tokens", "num_large_tokens")),
    ((4, "steps"), None),
    ((4, "steps"), [5]),
    ((4, "router"), "glimp:much"),
    ((4, "router"), "glimp:nan"),
    ((7, "steps", 0, "entropy"), "high"),
    ((7, "steps", 0, "num_tokens"), None),
    ((7, "steps", 0, "signals"), ...),
    ((7, "steps", 0, "model"), 5),
]
TIMINGS: list[tuple[tuple[str | int, ...], Any]] = [
    *(((4, key), ...) for key in ("seconds", "concurrency")),
    *(((4, "seconds"), value) for value in (None, "long", [])),
    ((4, "concurrency"), []),
    *(((4, key), value) for key in ("num_proposed_tokens", "num_accepted_tokens") for value in (None, "x", 1.5)),
]
JOURNALS: list[tuple[tuple[str | int, ...], Any]] = [
    *(((key,), value) for key in ("key", "item") for value in (..., None, [], 5, "x")),
    (("key", 0), "nosuch"),
    (("key", 1), []),
    (("item", "result"), ...),
    (("item", "timing"), []),
    (("item", "result", "is_correct"), "yes"),
    (("item", "result", "steps"), 5),
]
RUNS = [b"", b"[]", b"5", b"null", b'"x"', b"{", b"\xff\xfe\n", b"[" * 100_000]
