"""Learn the CLIP-style byte-level BPE tokenizer from the captions and tags of the emoji names.

A small trainer of its own, since the one in `tokenizers` breaks ties differently from run to run.
"""

import argparse
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
SPLIT = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")
EXTRA = "a an the image of drawing photo with and in on small big tiny large red orange yellow green blue purple pink"


def byte_letters():
    """CLIP's printable letter for each of the 256 bytes, in its order."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def merged(word, pair):
    """The word with every occurrence of the pair joined."""
    out, i = [], 0
    while i < len(word):
        if word[i : i + 2] == pair:
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)


def learn(texts, letters, count):
    """Up to `count` merges, the most frequent pair first, ties in alphabetical order."""
    words = Counter()
    for text in texts:
        for piece in SPLIT.findall(text.lower()):
            symbols = [letters[b] for b in piece.encode()]
            words[(*symbols[:-1], symbols[-1] + "</w>")] += 1
    merges = []
    while len(merges) < count:
        tally = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                tally[pair] += n
        best = min(tally, key=lambda p: (-tally[p], p))
        if tally[best] < 2:
            break
        merges.append(best)
        words = Counter({merged(w, best) if best[0] in w else w: n for w, n in words.items()})
    return merges


def main():
    """Command line."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, default=Path("data"))
    ap.add_argument("--npm", type=Path, required=True, help="folder with emojibase/en/data.json")
    ap.add_argument("--out", type=Path, default=Path("tokenizer"))
    ap.add_argument("--vocab", type=int, default=4096)
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    rows = json.loads((args.data / "captions.json").read_text())
    texts = [r["caption"] for r in rows] * 4 + [t for r in rows for t in r["tags"]] * 2 + EXTRA.split() * 4
    for entry in json.loads((args.npm / "emojibase" / "en" / "data.json").read_text()):
        texts += [entry["label"], *entry.get("tags", [])]
    letters = byte_letters()
    alphabet = list(letters.values())
    room = args.vocab - 2 - 2 * len(alphabet)
    merges = learn(texts, letters, room)
    words = alphabet + [c + "</w>" for c in alphabet]
    words = list(dict.fromkeys([*words, *(a + b for a, b in merges)]))
    words += [f"<|unused{i}|>" for i in range(args.vocab - 2 - len(words))] + [START, END]
    vocab = {w: i for i, w in enumerate(words)}
    (args.out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = "\n".join(f"{a} {b}" for a, b in merges)
    (args.out / "merges.txt").write_text(f"#version: 0.2\n{lines}\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
        "model_max_length": 16,
    }
    (args.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(len(vocab), "tokens,", len(merges), "merges")


if __name__ == "__main__":
    main()
