"""Small random vision-language models of every family, each with its own processor; every weight and bias random.

The configurations are in code, the processors are the families' own classes, and the tokenizer is a byte-level one with
the marks that each processor writes around images. Nothing comes from a hub.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers import PreTrainedTokenizerFast

from tests.tokenizers import byte_level_bpe, put_before

WORDS = ["dog", "cat", "sun", "red", "tree", "picture", "of", "what", "is", "in", "the", "a"]
D_VOCAB, D_MODEL, N_LAYERS = 160, 24, 2
PATCH, SIDE = 8, 32
"""Pixels of an image patch and of an encoder's input."""

CHAT = (
    "{% for m in messages %}{{ m.role }}:{% for c in m.content %}"
    "{% if c.type == 'image' %}IMAGE{% else %} {{ c.text }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""A chat template; IMAGE stands for the family's own mark."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How to build one family's model and processor around a decoder."""

    model: Callable[["Marks"], Any]
    processor: Callable[["Marks"], Any]
    marks: tuple[str, ...]
    """Special tokens; the first stands for image vectors in the model's input."""
    placeholder: str | None = None
    """What stands for a whole image in a text, where that is not the first mark."""
    named: tuple[tuple[str, str], ...] = ()
    """Attributes of the tokenizer that the processor reads, and their tokens."""
    adds_bos: bool = True
    """Whether the tokenizer puts a beginning-of-sequence token before a text; PaliGemma's processor writes it."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The tokenizer of one family, and the ids of its marks."""

    tokenizer: Any
    image_token_id: int
    chat: str


def text_config(kind: type = hf.LlamaConfig, **changes: Any) -> Any:
    sizes = {
        "vocab_size": D_VOCAB, "max_position_embeddings": 512, "hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 40, "head_dim": 12,
        "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": False,
    }  # fmt: skip
    return kind(**{**sizes, **changes})


def clip_config() -> Any:
    return hf.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE,
        patch_size=PATCH, projection_dim=8,
    )  # fmt: skip


def siglip_config() -> Any:
    return hf.SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE,
        patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip


def _square(side: int = SIDE) -> dict[str, int]:
    return {"height": side, "width": side}


def _clip_processor(**changes: Any) -> Any:
    return hf.CLIPImageProcessor(**{"size": {"shortest_edge": SIDE}, "crop_size": _square(), **changes})


PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
"""Heights and widths in pixels that LLaVA-NeXT cuts into tiles."""

_ROWS = tuple(f"<row_{row}_col_{col}>" for row in (1, 2, 3) for col in (1, 2, 3))
_IDEFICS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *_ROWS)
_INTERN = ("<IMG_CONTEXT>", "<img>", "</img>", "<video>")
_AYA = ("<|IMG_PATCH|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "TILE_GLOBAL", "TILE", "<image>")
_LLAMA4 = ("<|patch|>", "<|image|>", "<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>")


def _llava_next(m: Marks) -> Any:
    config = hf.LlavaNextConfig(
        text_config=text_config(hf.MistralConfig, sliding_window=None), vision_config=clip_config(),
        image_token_index=m.image_token_id, image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config)


def _llava_next_processor(m: Marks) -> Any:
    images = hf.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=_square(), image_grid_pinpoints=PINPOINTS
    )
    return hf.LlavaNextProcessor(
        images, m.tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=m.chat,
    )  # fmt: skip


def _onevision(m: Marks) -> Any:
    config = hf.LlavaOnevisionConfig(
        text_config=text_config(hf.Qwen2Config), vision_config=siglip_config(), image_token_index=m.image_token_id,
        image_grid_pinpoints=PINPOINTS, vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    return hf.LlavaOnevisionForConditionalGeneration(config)


def _onevision_processor(m: Marks) -> Any:
    images = hf.LlavaOnevisionImageProcessor(size=_square(), image_grid_pinpoints=PINPOINTS)
    return hf.LlavaOnevisionProcessor(
        images, m.tokenizer, hf.LlavaOnevisionVideoProcessor(size=_square()), num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full", chat_template=m.chat,
    )  # fmt: skip


def _internvl(m: Marks) -> Any:
    vision = hf.InternVLVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=(SIDE, SIDE),
        patch_size=(PATCH, PATCH),
    )  # fmt: skip
    config = hf.InternVLConfig(
        text_config=text_config(hf.Qwen2Config), vision_config=vision, image_token_id=m.image_token_id,
        image_seq_length=4, tie_word_embeddings=False,
    )  # fmt: skip
    return hf.InternVLForConditionalGeneration(config)


def _internvl_processor(m: Marks) -> Any:
    images = hf.GotOcr2ImageProcessor(size=_square(), crop_to_patches=True, max_patches=6)
    videos = hf.InternVLVideoProcessor(size=_square())
    return hf.InternVLProcessor(images, m.tokenizer, videos, image_seq_length=4, chat_template=m.chat)


def _idefics3(m: Marks, *, smol: bool = False) -> Any:
    vision_class, config_class, model_class = (
        (hf.SmolVLMVisionConfig, hf.SmolVLMConfig, hf.SmolVLMForConditionalGeneration)
        if smol
        else (hf.Idefics3VisionConfig, hf.Idefics3Config, hf.Idefics3ForConditionalGeneration)
    )
    vision = vision_class(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
        patch_size=PATCH,
    )  # fmt: skip
    config = config_class(
        text_config=text_config(), vision_config=vision, image_token_id=m.image_token_id, scale_factor=2,
        pad_token_id=0,
    )  # fmt: skip
    return model_class(config)


def _idefics3_processor(m: Marks) -> Any:
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 96}, max_image_size={"longest_edge": SIDE})
    return hf.Idefics3Processor(images, m.tokenizer, image_seq_len=4, chat_template=m.chat)


def _mistral3(m: Marks) -> Any:
    vision = hf.PixtralVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, head_dim=8, image_size=96,
        patch_size=PATCH,
    )  # fmt: skip
    config = hf.Mistral3Config(
        text_config=text_config(hf.MistralConfig, sliding_window=None), vision_config=vision,
        image_token_index=m.image_token_id, spatial_merge_size=2,
    )  # fmt: skip
    return hf.Mistral3ForConditionalGeneration(config)


def _mistral3_processor(m: Marks) -> Any:
    images = hf.PixtralImageProcessor(size={"longest_edge": 96}, patch_size=_square(2 * PATCH))
    return hf.PixtralProcessor(images, m.tokenizer, patch_size=PATCH, spatial_merge_size=2, chat_template=m.chat)


def _aya(m: Marks) -> Any:
    config = hf.AyaVisionConfig(
        text_config=text_config(hf.Cohere2Config, logit_scale=0.25, sliding_window=4096), vision_config=siglip_config(),
        image_token_index=m.image_token_id,
    )  # fmt: skip
    return hf.AyaVisionForConditionalGeneration(config)


def _aya_processor(m: Marks) -> Any:
    images = hf.GotOcr2ImageProcessor(size=_square(), crop_to_patches=True, max_patches=4)
    return hf.AyaVisionProcessor(
        images, m.tokenizer, patch_size=PATCH, img_size=SIDE, downsample_factor=2, chat_template=m.chat
    )


def _blip2(m: Marks) -> Any:
    vision = hf.Blip2VisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
        patch_size=PATCH,
    )  # fmt: skip
    queries = hf.Blip2QFormerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, encoder_hidden_size=16
    )
    text = hf.OPTConfig(
        vocab_size=D_VOCAB, max_position_embeddings=512, hidden_size=D_MODEL, num_hidden_layers=N_LAYERS,
        num_attention_heads=2, ffn_dim=40, word_embed_proj_dim=D_MODEL, bos_token_id=1, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    config = hf.Blip2Config(
        vision_config=vision, qformer_config=queries, text_config=text, num_query_tokens=4,
        image_token_index=m.image_token_id,
    )  # fmt: skip
    return hf.Blip2ForConditionalGeneration(config)


def _blip2_processor(m: Marks) -> Any:
    return hf.Blip2Processor(hf.BlipImageProcessor(size=_square()), m.tokenizer, num_query_tokens=4)


def _llama4(m: Marks) -> Any:
    vision = hf.Llama4VisionConfig(
        hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
        patch_size=PATCH, vision_output_dim=16, projector_input_dim=16, projector_output_dim=16,
    )  # fmt: skip
    text = text_config(hf.Llama4TextConfig, intermediate_size_mlp=40, moe_layers=[], attention_chunk_size=512)
    config = hf.Llama4Config(text_config=text, vision_config=vision, image_token_index=m.image_token_id)
    return hf.Llama4ForConditionalGeneration(config)


def _llama4_processor(m: Marks) -> Any:
    images = hf.Llama4ImageProcessor(size=_square(), max_patches=4)
    return hf.Llama4Processor(images, m.tokenizer, patch_size=PATCH, chat_template=m.chat)


def _gemma3(m: Marks) -> Any:
    text = text_config(
        hf.Gemma3TextConfig, sliding_window=8, layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=12,
    )  # fmt: skip
    config = hf.Gemma3Config(
        text_config=text, vision_config=siglip_config(), mm_tokens_per_image=4, image_token_id=m.image_token_id,
        boi_token_index=m.image_token_id + 1, eoi_token_index=m.image_token_id + 2, tie_word_embeddings=False,
    )  # fmt: skip
    return hf.Gemma3ForConditionalGeneration(config)


def _gemma3_processor(m: Marks) -> Any:
    return hf.Gemma3Processor(
        hf.Gemma3ImageProcessor(size=_square()), m.tokenizer, image_seq_length=4, chat_template=m.chat
    )


def _paligemma(m: Marks, *, second: bool = False) -> Any:
    changes = {"sliding_window": 512, "query_pre_attn_scalar": 12} if second else {}
    vision = siglip_config()
    vision.projection_dim = D_MODEL
    config = hf.PaliGemmaConfig(
        text_config=text_config(hf.Gemma2Config if second else hf.GemmaConfig, **changes), vision_config=vision,
        image_token_index=m.image_token_id, projection_dim=D_MODEL, hidden_size=D_MODEL, tie_word_embeddings=False,
    )  # fmt: skip
    config._attn_implementation = "eager"  # other implementations leave out Gemma 2's cap of attention scores
    return hf.PaliGemmaForConditionalGeneration(config)


def _paligemma_processor(m: Marks) -> Any:
    images = hf.SiglipImageProcessor(size=_square())
    images.image_seq_length = (SIDE // PATCH) ** 2
    return hf.PaliGemmaProcessor(images, m.tokenizer)


def _qwen2_vl(m: Marks) -> Any:
    vision = {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": D_MODEL, "patch_size": PATCH, "mlp_ratio": 2}
    return hf.Qwen2VLForConditionalGeneration(_qwen_config(m, hf.Qwen2VLConfig, vision))


def _qwen2_5_vl(m: Marks) -> Any:
    vision = {
        "depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": D_MODEL,
        "patch_size": PATCH, "window_size": 4 * PATCH, "fullatt_block_indexes": [1],
    }  # fmt: skip
    return hf.Qwen2_5_VLForConditionalGeneration(_qwen_config(m, hf.Qwen2_5_VLConfig, vision))


def _qwen3_vl(m: Marks) -> Any:
    vision = {
        "depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": D_MODEL,
        "patch_size": PATCH, "deepstack_visual_indexes": [0], "num_position_embeddings": 36,
    }  # fmt: skip
    return hf.Qwen3VLForConditionalGeneration(_qwen_config(m, hf.Qwen3VLConfig, vision))


def _qwen_config(m: Marks, kind: Any, vision: dict[str, Any]) -> Any:
    text = text_config(hf.Qwen2Config).to_dict()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
    return kind(
        text_config={
            key: text[key]
            for key in (
                "vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "intermediate_size", "head_dim", "bos_token_id", "eos_token_id", "pad_token_id",
            )
        } | {"rope_parameters": rope},
        vision_config=vision, image_token_id=m.image_token_id, video_token_id=m.image_token_id + 1,
        vision_start_token_id=m.image_token_id + 2, vision_end_token_id=m.image_token_id + 3,
        tie_word_embeddings=False,
    )  # fmt: skip


def _qwen_processor(kind: str) -> Callable[[Marks], Any]:
    def made(m: Marks) -> Any:
        sizes = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
        images = hf.Qwen2VLImageProcessor(size=sizes, patch_size=PATCH)
        videos = hf.Qwen2VLVideoProcessor(size=sizes, patch_size=PATCH)
        return getattr(hf, kind)(images, m.tokenizer, videos, chat_template=m.chat)

    return made


_QWEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_QWEN_PLACE = "<|vision_start|><|image_pad|><|vision_end|>"

FAMILIES: dict[str, Family] = {
    "llava": Family(
        marks=("<image>",),
        model=lambda m: hf.LlavaForConditionalGeneration(
            hf.LlavaConfig(text_config=text_config(), vision_config=clip_config(), image_token_index=m.image_token_id)
        ),
        processor=lambda m: hf.LlavaProcessor(
            _clip_processor(), m.tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
            num_additional_image_tokens=1, chat_template=m.chat,
        ),
    ),
    "vipllava": Family(
        marks=("<image>",),
        model=lambda m: hf.VipLlavaForConditionalGeneration(
            hf.VipLlavaConfig(
                text_config=text_config(), vision_config=clip_config(), image_token_index=m.image_token_id,
                vision_feature_layers=[-2, -3, 1],
            )
        ),
        processor=lambda m: hf.LlavaProcessor(
            _clip_processor(), m.tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
            num_additional_image_tokens=1, chat_template=m.chat,
        ),
    ),
    "llava-next": Family(marks=("<image>",), model=_llava_next, processor=_llava_next_processor),
    "llava-onevision": Family(marks=("<image>", "<video>"), model=_onevision, processor=_onevision_processor),
    "internvl": Family(
        marks=_INTERN, model=_internvl, processor=_internvl_processor,
        named=(
            ("start_image_token", "<img>"), ("end_image_token", "</img>"), ("context_image_token", "<IMG_CONTEXT>"),
            ("video_token", "<video>"),
        ),
    ),
    "idefics3": Family(marks=_IDEFICS, model=_idefics3, processor=_idefics3_processor),
    "smolvlm": Family(marks=_IDEFICS, model=lambda m: _idefics3(m, smol=True), processor=_idefics3_processor),
    "mistral3": Family(
        marks=("[IMG]", "[IMG_BREAK]", "[IMG_END]"), model=_mistral3, processor=_mistral3_processor
    ),
    "aya": Family(marks=_AYA, model=_aya, processor=_aya_processor, placeholder="<image>"),
    "blip-2": Family(marks=("<image>",), model=_blip2, processor=_blip2_processor),
    "llama-4": Family(marks=_LLAMA4, model=_llama4, processor=_llama4_processor, placeholder="<|image|>"),
    "gemma-3": Family(
        marks=("<image_soft_token>", "<boi>", "<eoi>"), model=_gemma3, processor=_gemma3_processor, placeholder="<boi>",
        named=(("image_token", "<image_soft_token>"), ("boi_token", "<boi>"), ("eoi_token", "<eoi>")),
    ),
    "paligemma": Family(marks=("<image>",), model=_paligemma, processor=_paligemma_processor, adds_bos=False),
    "paligemma-2": Family(
        marks=("<image>",), model=lambda m: _paligemma(m, second=True), processor=_paligemma_processor, adds_bos=False
    ),
    "qwen2-vl": Family(
        marks=_QWEN, model=_qwen2_vl, processor=_qwen_processor("Qwen2VLProcessor"), placeholder=_QWEN_PLACE
    ),
    "qwen2.5-vl": Family(
        marks=_QWEN, model=_qwen2_5_vl, processor=_qwen_processor("Qwen2_5_VLProcessor"), placeholder=_QWEN_PLACE
    ),
}  # fmt: skip
"""Families that are exact from image vectors, the last five with the masks or positions that go with them. SmolVLM's
own processor needs a package for the names of numbers; here it has Idefics3's, which writes the same marks."""


QWEN_3_VL = Family(marks=_QWEN, model=_qwen3_vl, processor=_qwen_processor("Qwen3VLProcessor"), placeholder=_QWEN_PLACE)
"""Adds image features inside its decoder too (deepstack)."""


@cache
def _tokenizer(family: str, folder: Path) -> Any:
    own = FAMILIES[family]
    pieces = ["<|end|>", "<s>", *own.marks, "Ġ", "Ċ", ":", ".", *"abcdefghijklmnopqrstuvwxyzI"]
    bpe, all_pieces = byte_level_bpe(list(dict.fromkeys(pieces)), WORDS, size=D_VOCAB)
    assert len(all_pieces) == D_VOCAB
    bpe.add_special_tokens(["<|end|>", "<s>", *own.marks])
    if own.adds_bos:
        bpe.post_processor = put_before("<s>", 1)
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="<|end|>", pad_token="<|end|>",
        extra_special_tokens=dict(own.named),
    )  # fmt: skip
    made.save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def build(family: str, folder: Path, *, seed: int = 0) -> tuple[Any, Any]:
    """A fresh model in evaluation mode and its processor.

    Args: folder: an empty one for the tokenizer, which must have been saved once.
    """
    own = FAMILIES[family]
    tokenizer = _tokenizer(family, folder / family)
    chat = CHAT.replace("IMAGE", own.placeholder or own.marks[0])
    marks = Marks(tokenizer=tokenizer, image_token_id=tokenizer.convert_tokens_to_ids(own.marks[0]), chat=chat)
    torch.manual_seed(seed)
    model = own.model(marks).float().eval().requires_grad_(False)
    randomise(model, seed=seed)
    return model, own.processor(marks)


def randomise(model: Any, *, seed: int) -> None:
    """Every weight and bias, norms and tokens included; large enough that pictures move the logits."""
    generator = torch.Generator().manual_seed(seed)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.ndim == 1 and "norm" in name.lower() and name.endswith("weight")
            # Queries of a Q-Former hardly differ between pictures, so what they read of them is made larger.
            # So is what Gemma projects, next to words that it multiplies by the square root of d_model.
            parts = ("crossattention", "language_projection", "mm_input_projection", "multi_modal_projector.linear")
            wide = 1.0 if any(part in name for part in parts) else 0.2
            if is_scale:
                # Gemma's norms multiply by one more than their weight.
                own = type(modules[name.rpartition(".")[0]]).__name__
                parameter.copy_(0.2 * noise + (not own.startswith("Gemma")))
            else:
                parameter.copy_(wide * noise)
