"""Rows of texts and of prompts with responses, and JSON lines of them."""

import json


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def says(name, count):
    return [{"text": f"{name} number {i} says so."} for i in range(count)]


def asks(name, count):
    return [{"prompt": f"{name} {i}?", "response": "yes " * (i % 7 + 1)} for i in range(count)]
