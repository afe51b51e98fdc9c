"""What the text and UNet trainings share: the data set of latents with captions, and the model configurations."""

import json

import numpy as np
import torch
from transformers import CLIPTextConfig, CLIPTokenizer

COLOURS = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white", "brown"}

TEXT_CONFIG = CLIPTextConfig(
    vocab_size=4096,
    hidden_size=160,
    intermediate_size=480,
    num_hidden_layers=2,
    num_attention_heads=5,
    max_position_embeddings=16,
    projection_dim=160,
    hidden_act="quick_gelu",
    bos_token_id=4094,
    eos_token_id=4095,
    pad_token_id=4095,
)

UNET_CONFIG = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (48, 96, 160),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": (1, 3, 5),  # diffusers reads these as head counts
    "cross_attention_dim": 160,
    "norm_num_groups": 16,
}


def with_colour(caption, colour):
    """The caption with the colour word put in front, in place of its own one."""
    rest = [w for w in caption.split() if w not in COLOURS] or [caption]
    return " ".join([colour, *rest])


def article(text):
    """The text with "a" or "an" in front."""
    return ("an " if text[0] in "aeiou" else "a ") + text


class Captioned:
    """The pool of images as latents, drawn by caption first, then design, then copy."""

    def __init__(self, data, tokenizer):
        pool = np.load(data / "pool.npz")
        masters = np.load(data / "masters.npz")
        self.rows = json.loads((data / "captions.json").read_text())
        self.latents = torch.from_numpy(np.load(data / "latents.npy"))
        self.master, self.word, self.natural = pool["master"], pool["word"], pool["natural"]
        self.caption = masters["caption"]
        turned = self.word != ""
        count = len(self.caption)
        self.plain = [np.where((self.master == m) & ~turned)[0] for m in range(count)]
        self.turned = [np.where((self.master == m) & turned)[0] for m in range(count)]
        self.designs = [np.where(self.caption == c)[0] for c in range(len(self.rows))]
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)

    def draw(self, rng, caption, turned):
        """The index of a random image of one caption, with a turned hue at the given rate where there is one."""
        m = rng.choice(self.designs[caption])
        plain, other = self.plain[m], self.turned[m]
        use = other if not len(plain) or (len(other) and rng.random() < turned) else plain
        return rng.choice(use)

    def text(self, rng, index, empty):
        """A random wording for a image: its label, with an article, with a tag, or its tags; sometimes nothing."""
        if rng.random() < empty:
            return ""
        m = self.master[index]
        row = self.rows[self.caption[m]]
        label, tags, colour = row["caption"], row["tags"], self.word[index]
        natural = not colour and self.natural[m] and not COLOURS & set(label.split()) and rng.random() < 0.1
        if colour or natural:
            colour = colour or self.natural[m]
            label = with_colour(label, colour)
        way = rng.random()
        if way < 0.25:
            return article(label)
        if way < 0.43 and tags:
            return f"{label}, {rng.choice(tags)}"
        if way < 0.51 and len(tags) > 1:
            words = ", ".join(rng.choice(tags, 2, replace=False))
            return f"{colour} {words}".strip()
        return label

    def tokens(self, texts):
        """The texts as a (n, 16) batch of token ids."""
        ids = self.tokenizer(texts, padding="max_length", max_length=16, truncation=True).input_ids
        return torch.tensor(ids)
