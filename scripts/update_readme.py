"""Put what `flops-fit train model=mlp dataset=toy` prints into README, between its markers.

    python scripts/update_readme.py [FOLDER]

FOLDER may hold an `outputs` of an earlier call, which then is not trained again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- made by scripts/update_readme.py -->\n", "<!-- end -->"
COMMAND = Path(sys.executable).parent / "flops-fit"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    words = ["train", "model=mlp", "dataset=toy"]
    done = subprocess.run(
        [COMMAND, *words], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    screen = "\n".join(line.rstrip() for line in done.stdout.splitlines() if line.strip())
    head, rest = README.read_text(encoding="utf-8").split(START)
    tail = rest.split(END, maxsplit=1)[1]
    block = f"```\n$ flops-fit {' '.join(words)}\n{screen}\n```\n"
    README.write_text(head + START + block + END + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
