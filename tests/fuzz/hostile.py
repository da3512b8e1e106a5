"""Tokenizers and templates that would hang, abort or fill the memory if they were let."""

DOUBLING = [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 60


def bombs(count, step):
    """A template in which something grows in each of `count` turns."""
    return (
        "{% set ns = namespace(x=['a'], s='a', n=3) %}"
        f"{{% for i in range({count}) %}}{{% set {step} %}}{{% endfor %}}{{{{ ns.x }}}}{{{{ ns.s }}}}{{{{ ns.n }}}}"
    )


STEPS = (
    *("ns.s = ns.s ~ ns.s", "ns.s = ns.s + ns.s", "ns.s = ns.s * 2", "ns.s = ns.s.replace('a', 'aa')"),
    *("ns.s = ns.s|replace('a', 'aa')", "ns.s = [ns.s, ns.s]|join", "ns.s = '%s%s' % (ns.s, ns.s)"),
    *("ns.s = '{0}{0}'.format(ns.s)", "ns.s = '%s%s'|format(ns.s, ns.s)", "ns.s = ns.s.join(['', '', ''])"),
    *("ns.x = [ns.x, ns.x]", "ns.x = ns.x + ns.x", "ns.x = ns.x * 2", "ns.x = {'a': ns.x, 'b': ns.x}"),
    *("ns.x = (ns.x * 2)|batch(2)|list", "ns.x = dict(a=ns.x, b=ns.x)", "ns.x = (ns.x, ns.x)"),
    *("ns.x = [none, none]|map('default', ns.x, true)|list", "ns.n = ns.n * ns.n", "ns.n = ns.n ** 9"),
    *("ns.x = namespace(a=ns.x, b=ns.x)", "ns.s = (ns.s ~ ns.s)|upper", "ns.s = ns.s|indent(4000) ~ '\n'"),
    *("ns.s = ns.s.translate({97: 'aa'})", "ns.s = ns.s|string + ns.s|trim", "ns.s = ns.x|tojson + ns.s + ns.s"),
)
BLOBS = (
    *("{{ 'a' * 10**10 }}", "{{ 'a'|center(10**10) }}", "{{ 'a'.ljust(10**10) }}", "{{ '%10000000000d' % 1 }}"),
    *("{{ '%*d' % (10**10, 1) }}", "{{ '{:>10000000000}'.format(1) }}", "{{ '{:>{w}}'.format(1, w=10**10) }}"),
    *("{{ range(10**10)|list }}", "{{ 9 ** 9 ** 9 ** 9 }}", "{{ (2).to_bytes(10**10, 'big') }}", "{{ lipsum(10**8) }}"),
    *("{{ 1.5|round(10**9, 'ceil') }}", "{{ '\t'.expandtabs(10**10) }}", "{{ 'a'|indent(10**10, true) }}"),
    *("{{ 'a b'|wordwrap(1, wrapstring='x' * 10**7) }}", "{{ [1]|batch(10**10, 'x')|list }}", "{{ '1' * 10**6 }}"),
    *("{{ [1]|slice(10**10)|list }}", "{{ range(100000)|map('string')|map('center', 4000)|join }}", "{{ x.y.z }}"),
    *("{{ ''.join(range(100000)|map('string')|map('center', 4000)) }}", "{{ [[1] * 9999] | tojson(indent=10**9) }}"),
    *("{{ ('http://a.bc ' * 99999)|urlize(target='x' * 4000) }}", "{{ strftime_now('%99999999Y') }}", "{{ 1 // 0 }}"),
    *("{{ '' .__class__.__mro__ }}", "{{ cycler.__init__.__globals__ }}", "{{ raise_exception('no') }}", "{{", "{%"),
    *("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{% include '/etc/passwd' %}"),
    *("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(100) }}", "{{ 1/0 }}"),
    *("{% block a %}{{ self.a() }}{% endblock %}", "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
    *("{{ " + "(" * 9999, "{{ " + "1+" * 9999 + "1 }}", "{% if 1 %}" * 9999, "{{ " + "[" * 9999 + "]" * 9999 + " }}"),
    *("x" * 10**6, "{#" * 99999, "{{ '" + "a" * 10**5 + "' }}", "{{ messages|map(attribute='content')|join * 10**9 }}"),
    *("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "{% set ns = namespace(_a=1) %}", "{% break %}"),
    *("{% generation %}a{% endgeneration %}", "{{ namespace }}", "{{ dict.fromkeys(range(99999), 'a')|length }}"),
)


def templates():
    """About a hundred."""
    return [*(bombs(count, step) for step in STEPS for count in (40, 2000)), *BLOBS]


def tokenizers(sound):
    """Pairs of a tokenizer.json and a tokenizer_config.json's additions, made of sound contents of the first."""

    def changed(**sections):
        return {**sound, **sections}, {}

    def added(count, content="<{}>", **options):
        first = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        tokens = [{"id": 1000 + i, "content": content.format(i), **first, **options} for i in range(count)]
        return changed(added_tokens=tokens)

    def normalizer(*parts):
        return changed(normalizer={"type": "Sequence", "normalizers": list(parts)})

    def split(pattern, behavior="Isolated"):
        return changed(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}
        )

    def nested(depth):
        part = {"type": "NFC"}
        for _ in range(depth):
            part = {"type": "Sequence", "normalizers": [part]}
        return changed(normalizer=part)

    def padding(**options):
        base = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
        return changed(padding={**base, "pad_type_id": 0, "pad_token": "a", **options})

    model = sound["model"]
    replace = {"type": "Replace", "pattern": {"Regex": ".*"}, "content": "aaaaaaaaaaaaaaaaaaaa"}
    template = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    yield normalizer(*DOUBLING)
    yield from (normalizer(*DOUBLING[:count]) for count in (1, 5, 6, 7, 20, 40))
    yield from (normalizer(*[replace] * count) for count in (1, 2, 3, 20))
    yield from (normalizer(*[{"type": "Prepend", "prepend": "x" * count}] * 30) for count in (1, 100, 10**6))
    yield normalizer({"type": "Replace", "pattern": {"String": ""}, "content": "a"})
    yield normalizer({"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 10**6})
    yield from (normalizer({"type": kind}) for kind in ("NFC", "NFKD", "Strip", "BertNormalizer", "Unknown", "", None))
    yield from (nested(depth) for depth in (1, 10, 70, 120, 400))
    yield from (normalizer({"type": "Precompiled", "precompiled_charsmap": charsmap}) for charsmap in CHARSMAPS)
    yield from (padding(strategy={"Fixed": size}) for size in (0, 1, 10**6, 2**40, 2**63, -1))
    yield from (padding(pad_to_multiple_of=size) for size in (0, 1, 8, 10**9, 2**62))
    yield from (padding(pad_id=size, pad_token="") for size in (0, 2**31, 2**32))
    cut = {"direction": "Right", "strategy": "LongestFirst"}
    yield from (changed(truncation={**cut, "max_length": n, "stride": s}) for n in (0, 1, 2**63) for s in (0, 1, 2**62))
    yield from (split(pattern) for pattern in PATTERNS)
    yield from (changed(pre_tokenizer={"type": "FixedLength", "length": size}) for size in (0, 1, 2**63))
    yield from (changed(pre_tokenizer={"type": kind}) for kind in ("Digits", "Metaspace", "Whitespace", "Nothing"))
    yield changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}] * 99999})
    yield from (changed(post_processor={**template, "single": [sequence] * count}) for count in (0, 1, 2, 99999))
    special = {"SpecialToken": {"id": "x", "type_id": 0}}
    yield from (changed(post_processor={**template, "single": [special] * count}) for count in (1, 99999))
    yield from (added(count) for count in (1000, 200000, 1000000))
    yield from (added(3, content) for content in ("", " ", "\n", "a", "{}" + "x" * 10**5, "same"))
    yield from (added(3, normalized=True, lstrip=True), added(3, id=2**32 - 1), added(3, id=-1), added(1, special=None))
    yield from (changed(model={**model, **wrong}) for wrong in MODELS)
    yield from ((sound, wrong) for wrong in CONFIGS)
    yield from (
        ({}, {}),
        ({"model": model}, {}),
        ({**sound, "version": "9.9"}, {}),
        ({**sound, "added_tokens": {}}, {}),
    )


CHARSMAPS = ("", "AAAA", "!", "////" * 1000, "AQAAAA==", "BAAAAAAAAABh" + "YWFh" * 1000, None, 3)
PATTERNS = (
    *("(a+)+$", "(a*)*b", "(.*)*", "((a|b)+)+c", "(?:x+x+)+y", "(a{1,}){1,}", "(a+){50}", "(?<n>a\\g<n>?b)", "(a)\\1"),
    *("", "(", "[", "*", "\\", "(?i", "a{99999}", "a{1,99999}", "((((a{99}){99}){99}){99})", "\\p{Nope}", "[[:nope:]]"),
    *("\\p{L}+", "(?=a)+", "(?!)", "\\b", "^", "(a?){64}a{64}", "(" * 5000 + "a" + ")" * 5000, "a" * 10**6),
)
MODELS = (
    *({"type": kind} for kind in ("BPE", "Unigram", "WordPiece", "WordLevel", "Nothing", None)),
    *({"vocab": vocabulary} for vocabulary in ({}, [], {"a": -1}, {"a": 2**32}, {"a": 4294967295}, {"a": 1.5}, None)),
    *({"merges": merges} for merges in (["a b"], ["a"], [["a", "b", "c"]], [[]], [1], ["  "], {"a": "b"})),
    *({"type": "Unigram", "vocab": vocabulary, "unk_id": 5} for vocabulary in ([], [["a", 1.0]], [["", 0.0]], [[1]])),
    *({"unk_token": "absent"}, {"byte_fallback": True}, {"dropout": 2.0}, {"dropout": -1}, {"fuse_unk": 3}),
    {"continuing_subword_prefix": "x" * 10**6},
    {"end_of_word_suffix": "x" * 10**6},
)
CONFIGS = (
    *({"tokenizer_class": name} for name in ("GPT2Tokenizer", "LlamaTokenizer", "Nothing", "BertTokenizer", 3, None)),
    *({"added_tokens_decoder": tokens} for tokens in ([], {"a": {}}, {"-1": {"content": "a"}}, {"1": 3}, {"1": None})),
    {"added_tokens_decoder": {str(i): {"content": f"<{i}>", "special": True} for i in range(200000)}},
    {"extra_special_tokens": [f"<{i}>" for i in range(200000)]},
    *({"extra_special_tokens": tokens} for tokens in ({"a": "b"}, [1], "a", {"a": 3})),
    *({"eos_token": token} for token in (3, [], {}, {"content": "x" * 10**6}, "absent", "")),
    *({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}, {"auto_map": 3}, {"model_max_length": -1}),
    *({"chat_template": template} for template in ("{{", 3, [], [{"name": "a", "template": "b"}], {"a": "b"})),
    *({"padding_side": "up"}, {"truncation_side": 3}, {"add_bos_token": True}, {"add_prefix_space": "yes"}),
)
