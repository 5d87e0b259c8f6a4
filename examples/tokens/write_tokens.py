"""Writes train.bin: two million bytes of Python's standard library, each as a uint16."""

import sys
import sysconfig
from array import array
from pathlib import Path

NUM_TOKENS = 2_000_000

tokens = array("H")
for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
    tokens.extend(path.read_bytes())
del tokens[NUM_TOKENS:]
if sys.byteorder == "big":
    tokens.byteswap()  # files of token ids are little-endian
with Path("train.bin").open("wb") as file:
    tokens.tofile(file)
print(f"train.bin: {len(tokens):,} tokens")
