"""The headers of the shipped recipes: what each is, and what came of it.

A recipe begins with comments: a title, then one line a key. A line indented by three spaces goes on
with the one before.

    # SimCLR for small images on two CPU cores: 32 px, ResNet-18 with a 3x3 stem.
    # paper: arXiv:2002.05709; 0.848 kNN, ResNet-18, 200 epochs (lightly's benchmark)
    # command: python -m jobs.pretrain simclr_small source.uri=DIR out=DIR num_epochs=4
    # device: two CPU cores, 323 images/s
    # result: kNN 0.438, 0.443, 0.437 (± 0.022) in 4 passes of 3 seeds; untrained 0.294, 0.281,
    #   0.282

`device` and `result` are both "not run" where it was not.
"""

import re
from pathlib import Path

import jobs

RECIPES = Path(jobs.__file__).parent / "recipes"
KEYS = ("paper", "command", "device", "result")
TITLE = "title"
ELSEWHERE = r"(de )?[A-Z]\w+ \d{4}, [A-Z]+"  # a paper that arXiv does not have


def read_header(recipe: str) -> dict[str, str]:
    """Return the title and the keys of a shipped recipe's header, in their order."""
    header: dict[str, str] = {}
    key = TITLE
    for line in (RECIPES / f"{recipe}.yaml").read_text().splitlines():
        if not line.startswith("# "):
            break
        if found := re.match(rf"# ({'|'.join(KEYS)}): ", line):
            key, text = found[1], line[found.end() :]
            assert key not in header, f"{recipe}: {key} twice"
        else:
            continues = key == TITLE or line.startswith("#   ")
            assert continues, f"{recipe}: indent what goes on with {key}: {line}"
            text = line[1:].strip()
        header[key] = f"{header[key]} {text}" if key in header else text
    return header
