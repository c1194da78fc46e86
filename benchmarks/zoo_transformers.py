"""Networks of transformers, of a few small layers each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from zoo_modules import CLASSES, Inputs
from zoo_networks import Entry, need

WORDS = 96
_LENGTH = 12
# sizes by the names that most configurations have for them
_TEXT = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_IMAGE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 64,
    "patch_size": 16,
}
_LEVELS = {"image_size": 64, "depths": [1, 1, 1, 1], "num_labels": CLASSES}


def _words(generator: torch.Generator) -> Inputs:
    words = torch.randint(3, WORDS, (2, _LENGTH), generator=generator)
    # sequence classifiers look for where it ends
    return {"input_ids": words, "attention_mask": torch.ones_like(words)}


def _pixels(generator: torch.Generator) -> Inputs:
    return {"pixel_values": torch.randn(2, 3, 64, 64, generator=generator)}


def _sound(generator: torch.Generator) -> Inputs:
    return {"input_values": torch.randn(2, 1600, generator=generator)}


def _pairs(generator: torch.Generator) -> Inputs:
    return {**_words(generator), "decoder_input_ids": _words(generator)["input_ids"]}


def _spectra(generator: torch.Generator) -> Inputs:
    words = _words(generator)["input_ids"]
    return {
        "input_features": torch.randn(2, 20, 64, generator=generator),
        "decoder_input_ids": words,
    }


def _both(generator: torch.Generator) -> Inputs:
    return {**_words(generator), **_pixels(generator)}


def _entry(
    name: str,
    model: str,
    inputs: Any,
    sizes: dict[str, Any],
    *,
    config: str | None = None,
    outputs: tuple[str, ...] = (),
) -> Entry:
    """A model with its configuration, which is its class's but for some sizes."""

    def build() -> nn.Module:
        transformers = need("transformers")
        kind = getattr(transformers, model)
        known = getattr(transformers, config) if config else kind.config_class
        return kind(known(**sizes))

    return Entry(f"transformers/{name}", build, inputs, outputs)


def _language(
    name: str, model: str, outputs: tuple[str, ...] = ("lm_head",), **sizes: Any
) -> Entry:
    return _entry(name, model, _words, {**_TEXT, **sizes}, outputs=outputs)


def _classifier(name: str, model: str, **sizes: Any) -> Entry:
    return _entry(name, model, _words, {**_TEXT, "num_labels": CLASSES, **sizes})


def _vision(name: str, model: str, **sizes: Any) -> Entry:
    return _entry(name, model, _pixels, {"num_labels": CLASSES, **sizes})


TRANSFORMERS = [
    _classifier("bert", "BertForSequenceClassification"),
    _classifier("roberta", "RobertaForSequenceClassification"),
    _classifier(
        "distilbert",
        "DistilBertForSequenceClassification",
        dim=64,
        hidden_dim=128,
        n_layers=2,
        n_heads=4,
    ),
    _classifier("albert", "AlbertForSequenceClassification", embedding_size=32),
    _classifier("electra", "ElectraForSequenceClassification", embedding_size=32),
    _classifier(
        "deberta-v2",
        "DebertaV2ForSequenceClassification",
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
    ),
    _classifier(
        "mobilebert",
        "MobileBertForSequenceClassification",
        embedding_size=32,
        true_hidden_size=32,
        intra_bottleneck_size=32,
    ),
    _entry(
        "bart",
        "BartForConditionalGeneration",
        _pairs,
        {
            **_TEXT,
            "d_model": 64,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
        },
        outputs=("lm_head",),
    ),
    _language("gpt2", "GPT2LMHeadModel", n_embd=64, n_layer=2, n_head=4, n_positions=64),
    _language("gpt-neox", "GPTNeoXForCausalLM"),
    _language("opt", "OPTForCausalLM", ffn_dim=128, word_embed_proj_dim=64),
    _language("bloom", "BloomForCausalLM", n_layer=2, n_head=4),
    _language("llama", "LlamaForCausalLM"),
    _language("llama, 4 heads on 2", "LlamaForCausalLM", num_key_value_heads=2),
    _language("mistral", "MistralForCausalLM", num_key_value_heads=2),
    _language("qwen2", "Qwen2ForCausalLM", num_key_value_heads=2),
    _language("qwen3", "Qwen3ForCausalLM", num_key_value_heads=2, head_dim=16),
    _language("gemma", "GemmaForCausalLM", num_key_value_heads=1, head_dim=16),
    _language("gemma2", "Gemma2ForCausalLM", num_key_value_heads=2, head_dim=16),
    _language("phi", "PhiForCausalLM"),
    _language("mixtral", "MixtralForCausalLM", num_key_value_heads=2, num_local_experts=3),
    _language("mamba", "MambaForCausalLM", state_size=8),
    _entry(
        "t5's encoder",
        "T5ForTokenClassification",
        _words,
        {
            **_TEXT,
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 128,
            "num_layers": 2,
            "num_heads": 4,
            "num_labels": CLASSES,
        },
    ),
    _entry(
        "t5",
        "T5ForConditionalGeneration",
        _pairs,
        {
            **_TEXT,
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 128,
            "num_layers": 1,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
        },
        outputs=("lm_head",),
    ),
    _entry(
        "whisper",
        "WhisperForConditionalGeneration",
        _spectra,
        {
            **_TEXT,
            "d_model": 64,
            "num_mel_bins": 20,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "max_source_positions": 32,
            "max_target_positions": 32,
        },
        outputs=("proj_out",),
    ),
    _entry(
        "clip",
        "CLIPModel",
        _both,
        {"text_config": _TEXT, "vision_config": _IMAGE, "projection_dim": 32},
        outputs=("text_projection", "visual_projection"),
    ),
    _vision("vit", "ViTForImageClassification", **_IMAGE),
    _vision("deit", "DeiTForImageClassification", **_IMAGE),
    _vision(
        "beit",
        "BeitForImageClassification",
        **_IMAGE,
        use_relative_position_bias=True,
        use_absolute_position_embeddings=True,
    ),
    _vision("dinov2", "Dinov2ForImageClassification", **{**_IMAGE, "patch_size": 16}, mlp_ratio=2),
    _vision(
        "swin",
        "SwinForImageClassification",
        **{**_LEVELS, "depths": [1, 2, 1]},
        embed_dim=24,
        num_heads=[2, 3, 4],
        window_size=4,
    ),
    _vision(
        "swinv2",
        "Swinv2ForImageClassification",
        **{**_LEVELS, "depths": [1, 2, 1]},
        embed_dim=24,
        num_heads=[2, 3, 4],
        window_size=4,
    ),
    _vision("convnext", "ConvNextForImageClassification", **_LEVELS, hidden_sizes=[16, 32, 48, 64]),
    _vision(
        "resnet",
        "ResNetForImageClassification",
        embedding_size=16,
        hidden_sizes=[32, 48, 64, 96],
        depths=[1, 1, 1, 1],
    ),
    _vision(
        "poolformer",
        "PoolFormerForImageClassification",
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
    ),
    _vision(
        "segformer",
        "SegformerForSemanticSegmentation",
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 48, 64],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=32,
    ),
    _vision(
        "mobilevit",
        "MobileViTForImageClassification",
        initializer_range=0.2,  # else BatchNorm's ε hides the images
        image_size=64,
        hidden_sizes=[32, 48, 64],
        neck_hidden_sizes=[16, 16, 24, 32, 48, 64, 96],
    ),
    _entry(
        "wav2vec2",
        "Wav2Vec2ForCTC",
        _sound,
        {
            **{k: v for k, v in _TEXT.items() if k != "max_position_embeddings"},
            "conv_dim": (32, 32, 32),
            "conv_kernel": (10, 3, 3),
            "conv_stride": (5, 2, 2),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
        },
        outputs=("lm_head",),
    ),
]
