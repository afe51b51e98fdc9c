"""The text encoder of CLIP: a causal transformer over tokens.

Radford et al., arXiv:2103.00020. Names of weights and of settings are those of transformers' CLIPTextModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigmafield.models.tiny.blocks import attend
from sigmafield.models.tiny.config import choose, settings


@dataclass(frozen=True)
class CLIPConfig:
    """Settings of a text encoder."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), the approximation that CLIP was trained with. arXiv:1606.08415, section 2."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class SelfAttention(nn.Module):
    """Multi-head attention of each token to itself and those before it."""

    def __init__(self, c: CLIPConfig) -> None:
        super().__init__()
        self.heads = c.num_attention_heads
        self.q_proj = nn.Linear(c.hidden_size, c.hidden_size)
        self.k_proj = nn.Linear(c.hidden_size, c.hidden_size)
        self.v_proj = nn.Linear(c.hidden_size, c.hidden_size)
        self.out_proj = nn.Linear(c.hidden_size, c.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, hidden_size] → the same shape."""
        return self.out_proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, causal=True))


class Layer(nn.Module):
    """Attention, then two linear layers; each normalised before and added after."""

    def __init__(self, c: CLIPConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[c.hidden_act]
        self.layer_norm1 = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.self_attn = SelfAttention(c)
        self.layer_norm2 = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        wide = nn.Linear(c.hidden_size, c.intermediate_size)
        self.mlp = nn.ModuleDict({"fc1": wide, "fc2": nn.Linear(c.intermediate_size, c.hidden_size)})

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, hidden_size] → the same shape."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp["fc2"](self.activation(self.mlp["fc1"](self.layer_norm2(x))))


class CLIPText(nn.Module):
    """Token ids → one vector per token. Raises ValueError for a config with other blocks."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: the dictionary of a CLIPTextModel's config.json; keys that do not change the result are ignored."""
        super().__init__()
        known = {f.name for f in fields(CLIPConfig)}
        self.config = c = settings(CLIPConfig, {k: v for k, v in config.items() if k in known}, {})
        choose("hidden_act", c.hidden_act, *ACTIVATIONS)
        tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        positions = nn.Embedding(c.max_position_embeddings, c.hidden_size)
        self.embeddings = nn.ModuleDict({"token_embedding": tokens, "position_embedding": positions})
        layers = nn.Sequential(*[Layer(c) for _ in range(c.num_hidden_layers)])
        self.encoder = nn.ModuleDict({"layers": layers})
        self.final_layer_norm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)

    def forward(self, ids: Tensor, last: int = -1) -> Tensor:
        """Token ids [B, tokens], tokens ≤ max_position_embeddings → [B, tokens, hidden_size].

        last: the layer to stop at, counted from the end: -1 is the last one.
        """
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.embeddings["token_embedding"](ids) + self.embeddings["position_embedding"](positions)
        layers = list(self.encoder["layers"].children())
        for layer in layers[: len(layers) + 1 + last]:
            x = layer(x)
        return self.final_layer_norm(x)
