"""Documents of topics with words of their own, for tests of clusters."""

import json
import random

TOPICS = {
    "baking": ["oven", "bread", "flour", "dough", "yeast", "crust", "knead", "loaf", "butter"],
    "sailing": ["harbour", "anchor", "mast", "rudder", "keel", "breeze", "captain", "deck", "tide"],
    "chess": ["bishop", "rook", "pawn", "castle", "queen", "gambit", "checkmate", "knight"],
}
PREPARE = {"block_size": 16, "near_duplicate": None, "workers": 1}  # options of `prepare_corpus`
COMMON = ["today", "people", "often", "think", "about", "what", "comes", "next", "many", "things"]


def documents(each=60, words=40, topics=TOPICS, seed=0):
    """Return (topic, text) pairs in random order."""
    draw = random.Random(seed)
    pairs = [
        (topic, " ".join(draw.choice(draw.choice([own, own, COMMON])) for _ in range(words)))
        for topic, own in topics.items()
        for _ in range(each)
    ]
    draw.shuffle(pairs)
    return pairs


def write_lines(path, texts, **columns):
    """Write JSON lines with a text each, and columns as lists of values."""
    rows = [
        {"text": text, **{name: values[i] for name, values in columns.items()}}
        for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
