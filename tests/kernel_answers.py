"""A program in the place of the one that computes kernels, which answers at once."""

from __future__ import annotations

from pathlib import Path

# Answers at once, as the check would: what is right in which way.
ANSWERS = """
import json, sys
sys.stdin.readline()
print("{{}}", flush=True)
for line in sys.stdin:
    way = json.loads(line)["way"]
    print(json.dumps({{"wrong": None if way in {right} else "output", "seconds": 0.1}}), flush=True)
"""


def answering(root: Path, *right: str) -> Path:
    program = root / "answers.py"
    program.write_text(ANSWERS.format(right=right))
    return program
