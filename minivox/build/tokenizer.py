"""A CLIP tokenizer from scratch: letters, and the merges that make each word of the prompt one token."""

from __future__ import annotations

import string
from pathlib import Path

from v2f_core.diffusion.prior import PROMPT

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 8  # start, five words, end, padding; CLIP has 77


def merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that join each word from the left; a word's last letter carries CLIP's end-of-word mark.

    Example:
        >>> merges(["of", "id"])
        [('o', 'f</w>'), ('i', 'd</w>')]
        >>> merges(["cat"])
        [('c', 'a'), ('ca', 't</w>')]
    """
    pairs: dict[tuple[str, str], None] = {}
    for word in words:
        left = word[0]
        for i, letter in enumerate(word[1:], start=2):
            right = letter + "</w>" if i == len(word) else letter
            pairs[left, right] = None
            left += right
    return list(pairs)


def vocabulary(pairs: list[tuple[str, str]]) -> dict[str, int]:
    """Every letter inside and at the end of a word, every merge, and the two marks: token to number."""
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    tokens = [*letters, *("".join(pair) for pair in pairs), START, END]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def save_tokenizer(folder: Path) -> dict[str, int]:
    """Write the tokenizer in CLIP's form and give its vocabulary; any other sign than a letter is the end mark."""
    from transformers import CLIPTokenizer

    pairs = merges(PROMPT.split())
    vocab = vocabulary(pairs)
    CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=LENGTH).save_pretrained(folder)
    return vocab
