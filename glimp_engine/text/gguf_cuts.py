"""How text is cut into words before merges, by the name under `tokenizer.ggml.pre`.

A cut stands here if the pipeline of the models' own `tokenizer.json` is known: their normalizer, their expressions, and
whether a word that is a token is taken whole. What llama.cpp does under a name isn't enough: it has no normalizer, and
approximates some of the expressions. A name that isn't here is refused.

Source: tokenizer.json of models whose tokens of llama.cpp's check text give the name (conversion/base.py there).
"""

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

__all__ = ["CUTS", "Cut"]

Part = Callable[[], PreTokenizer]


@dataclass(frozen=True)
class Cut:
    """What happens to text before the merges, and by whose rule they are applied."""

    parts: tuple[Part, ...]
    is_nfc: bool = False  # text is brought to Unicode's composed form first
    takes_words: bool = False  # a word that is a token is that token, whatever the merges say
    begins: bool = False  # a begin token stands before prompts if the file doesn't say whether

    def pre_tokenizer(self) -> PreTokenizer:
        """The cut, and the bytes written in GPT-2's alphabet."""
        return pre_tokenizers.Sequence([part() for part in self.parts])

    def normalizer(self) -> Normalizer | None:
        """What is done to the whole text."""
        return normalizers.NFC() if self.is_nfc else None


def isolated(pattern: str) -> Part:
    """What matches is a word, and what lies between is one."""
    return lambda: pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def to_bytes() -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def gpt2_words() -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def single_digits() -> PreTokenizer:
    return pre_tokenizers.Digits(individual_digits=True)


def runs_of_digits() -> PreTokenizer:
    return pre_tokenizers.Digits(individual_digits=False)


def runs_of_punctuation() -> PreTokenizer:
    return pre_tokenizers.Punctuation(behavior="contiguous")


SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
HAN_FREE_UPPER, HAN_FREE_LOWER = (letters[:-1] + r"&&[^\p{Han}]]" for letters in (UPPER, LOWER))


def words(digits: str, marks: str = MARKS) -> str:
    """OpenAI's cl100k, from which Llama 3 and Qwen differ in how many digits are a word."""
    return rf"{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{marks}{SPACES}"


def cased_words(upper: str, lower: str, suffix: str, digits: str, marks: str) -> str:
    """OpenAI's o200k, which cuts where capitals begin, and those made after it."""
    begin = r"[^\r\n\p{L}\p{N}]?"
    return f"{begin}{upper}*{lower}+{suffix}|{begin}{upper}+{lower}*{suffix}|{digits}|{marks}{SPACES}"


O200K_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
O200K = cased_words(UPPER, LOWER, f"{SUFFIX}?", r"\p{N}{1,3}", O200K_MARKS)
TEKKEN = cased_words(UPPER, LOWER, "", r"\p{N}", O200K_MARKS)
KIMI = r"[\p{Han}]+|" + cased_words(HAN_FREE_UPPER, HAN_FREE_LOWER, f"{SUFFIX}?", r"\p{N}{1,3}", MARKS)
QWEN35 = rf"{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*{SPACES}"
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
SEED = words(r"\p{N}{1}", marks=r" ?[^\s\p{L}\p{N}" + "\r\n]+")

# DeepSeek's expressions, with the letters and marks that they list
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
DEEPSEEK_MARKS = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"
    "\r\n"
    r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["
    "\r\n"
    r"]*|\s*["
    "\r\n"
    r"]+|\s+(?!\S)|\s+"
)

GPT2 = Cut((gpt2_words,))
NEOX = Cut((gpt2_words,), is_nfc=True)
STARCODER = Cut((single_digits, gpt2_words))
CL100K = Cut((isolated(words(r"\p{N}{1,3}")), to_bytes), takes_words=True)
QWEN2 = Cut((isolated(words(r"\p{N}")), to_bytes), is_nfc=True)
GPT4O = Cut((isolated(O200K), to_bytes), takes_words=True)
BAILINGMOE = Cut((isolated(BAILING), to_bytes), is_nfc=True)
DEEPSEEK_V3 = Cut(
    (isolated(r"\p{N}{1,3}"), isolated("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), isolated(DEEPSEEK3), to_bytes)
)
LLAMA3 = Cut(CL100K.parts, takes_words=True, begins=True)
MISTRAL = Cut((isolated(TEKKEN), to_bytes), takes_words=True, begins=True)

CUTS = {
    "gpt-2": GPT2,
    "phi-2": GPT2,
    "a.x-4.0": GPT2,
    "mpt": NEOX,
    "olmo": NEOX,
    "starcoder": STARCODER,
    "refact": STARCODER,
    "smollm": STARCODER,
    "command-r": Cut(STARCODER.parts, is_nfc=True),
    "falcon": Cut((runs_of_punctuation, gpt2_words, runs_of_digits, isolated("[0-9][0-9][0-9]"))),
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "smaug-bpe": CL100K,  # SmolLM3's too
    "dbrx": CL100K,
    "glm4": CL100K,
    "glm5": CL100K,
    "chatglm-bpe": CL100K,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": Cut(QWEN2.parts),
    "hunyuan": Cut(QWEN2.parts),
    # Qwen 3.5 composes text, but the files of this name are tested on what stays as it is
    "qwen35": Cut((isolated(QWEN35), to_bytes)),
    "seed-coder": Cut((isolated(SEED), to_bytes), is_nfc=True),
    "bailingmoe": BAILINGMOE,
    "bailingmoe2": BAILINGMOE,
    "gpt-4o": GPT4O,
    "llama4": GPT4O,
    "gigachat": GPT4O,
    "minimax-m2": Cut(GPT4O.parts, is_nfc=True),
    "tekken": MISTRAL,
    "pixtral": MISTRAL,
    "kimi-k2": Cut((isolated(KIMI), to_bytes), takes_words=True),
    "deepseek-llm": Cut(
        (
            isolated("[\r\n]"),
            isolated(rf"\s?[{DEEPSEEK_LETTERS}]+"),
            isolated(rf"\s?[{DEEPSEEK_MARKS}]+"),
            isolated(r"\s+$"),
            isolated(CJK),
            single_digits,
            to_bytes,
        )
    ),
    "deepseek-coder": Cut(
        (isolated("[\r\n]"), isolated(r"\s?\p{L}+"), isolated(r"\s?\p{P}+"), isolated(CJK), single_digits, to_bytes)
    ),
    "deepseek-v3": DEEPSEEK_V3,
    "joyai-llm": DEEPSEEK_V3,
}
