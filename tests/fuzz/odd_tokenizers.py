"""Strategies: tokenizers of every kind that people have, with the random lens' vocabulary or another."""

from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.fuzz.anything import D_VOCAB

SPECIAL = ["<end>", "<begin>", "<pad>", "<turn>", "<mask>"]
LINE_ENDS = ["Ċ", "ĊĊ", ".Ċ", "ĠĊ", "ĊĠ"]


def _byte_level(pieces: list[str]) -> Tokenizer:
    merges = [(piece[:-1], piece[-1]) for piece in pieces if len(piece) > 1 and piece not in SPECIAL]
    whole = list(dict.fromkeys([*pieces, *"".join(map("".join, merges)), "."]))
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(whole)}, [m for m in merges if m[0] in whole]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return made


def _byte_fallback(pieces: list[str]) -> Tokenizer:
    whole = [*pieces, "<unk>", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    made = Tokenizer(
        models.BPE({p: i for i, p in enumerate(dict.fromkeys(whole))}, [], unk_token="<unk>", byte_fallback=True)
    )
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return made


def _words(pieces: list[str]) -> Tokenizer:
    made = Tokenizer(models.WordLevel({p: i for i, p in enumerate([*pieces, "<unk>"])}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


@st.composite
def odd_tokenizers(draw) -> PreTrainedTokenizerFast:
    """Some without BOS, padding, or end; BOS and EOS put around texts, or not; new lines alone, merged, or as bytes."""
    special = draw(st.lists(st.sampled_from(SPECIAL), min_size=1, unique=True))
    letters = draw(st.lists(st.sampled_from("abcdghotn.Ġ"), min_size=1, unique=True))
    ends = draw(st.lists(st.sampled_from(LINE_ENDS), unique=True))
    kind = draw(st.sampled_from([_byte_level, _byte_level, _byte_fallback, _words]))
    pieces = [*special, *letters, *(ends if kind is _byte_level else [])]
    made = kind(list(dict.fromkeys(pieces)))
    roles = draw(st.dictionaries(st.sampled_from(["bos_token", "eos_token", "pad_token"]), st.sampled_from(special)))
    around = draw(st.sampled_from(["", "bos", "eos", "both"]))
    first = [roles["bos_token"]] if around in ("bos", "both") and "bos_token" in roles else []
    last = [roles["eos_token"]] if around in ("eos", "both") and "eos_token" in roles else []
    if first or last:
        made.post_processor = processors.TemplateProcessing(
            single=" ".join([*first, "$A", *last]),
            special_tokens=[(token, made.token_to_id(token)) for token in dict.fromkeys([*first, *last])],
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **roles)
    if draw(st.booleans()):
        tokenizer.add_tokens(draw(st.sampled_from([["<beyond>"] * 1, ["!\n"], [f"<{i}>" for i in range(D_VOCAB)]])))
    return tokenizer


end_tokens = st.none() | st.integers(0, 2 * D_VOCAB) | st.lists(st.integers(-1, D_VOCAB), max_size=4)
"""Of generation settings."""
