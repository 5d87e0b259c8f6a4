"""Writes docs/published-laws.md, what is kept of published laws, from the laws themselves.

With --check says whether it is as it should be, and writes nothing.
"""

import sys
from pathlib import Path

from flops_fit.laws.publication import PublishedLaw, PublishedSurface, predict_published
from flops_fit.laws.published import published_laws
from flops_fit.shown import short_number

PAGE = Path(__file__).resolve().parent.parent / "docs" / "published-laws.md"

SHOWN_BUDGET = 1e21
"""FLOPs at which the table shows each law."""

TEXT = """<!-- made by scripts/write_published_laws.py -->
# Published laws

What others found, to hold a plan or a law of your own against. No study and no torch is needed:

```bash
flops-fit predict law=chinchilla budget=1e21            # approach 3 of Hoffmann et al. 2022
flops-fit predict law=besiroglu budget=1e21,1e22 json=true
flops-fit predict law=llama3 num_params=70e9            # the budget at which 70B is the best size
flops-fit predict law=list
flops-fit compare studies=mlp-toy,chinchilla            # your study beside it
flops-fit compare studies=chinchilla,besiroglu
```

```python
from flops_fit import published_law

law = published_law("chinchilla")
law.N_opt(1e21), law.D_opt(1e21), law.loss_opt(1e21)
print(law.publication)
```

None of them is a law of your model and data: at {budget:.0e} FLOPs their best sizes differ by a
factor of {spread:.2g}, as N, schedule and data do. A law without a loss has no `loss_opt`. A budget
outside of what a law was fitted to is answered with a warning. `compare` shows N_opt, D_opt and
tokens per parameter at the budgets of your study and 10 and 100 times beyond, and no losses: these
mean something only on one held-out set with one tokenizer. A study of yours that has the name of a
published law goes before it.

| law | N_opt at {budget:.0e} FLOPs | D/N | N_opt ~ C^ | fitted at | N counts | loss |
|---|---|---|---|---|---|---|
{rows}

C = 6ND, but for nanochat, whose FLOPs are counted. Intervals are the sources' own.

{notes}

Not kept: laws whose coefficients we have no source for at hand, such as those of Gadre et al. 2024
(arXiv 2403.08540), and the losses of Kaplan et al. and of nanochat. The numbers were read in the
result tables of their repositories (Porian et al., Gemstones), in its log (nanochat), and in the
text of their papers; but for the budgets of Besiroglu et al., which are those of the points that
they fit, and the third digits of Llama 3.
"""


def row(law: PublishedLaw) -> str:
    """A law in the table."""
    p, at = law.publication, predict_published(law, SHOWN_BUDGET)
    cells = (
        f"`{p.name}`",
        short_number(at.num_params),
        f"{at.tokens_per_param:.3g}",
        str(p.exponent),
        str(p.trained),
        p.counts,
        p.loss_unit or "none",
    )
    return f"| {' | '.join(cells)} |"


def numbers(law: PublishedLaw) -> str:
    """The law itself."""
    if isinstance(law, PublishedSurface):
        s = law.surface
        return (
            f"L = {s.E:.5g} + {s.A:.5g} / N^{s.alpha:.4g} + {s.B:.5g} / D^{s.beta:.4g}, "
            f"{law.publication.loss_unit}"
        )
    n, d = law.N, law.D
    return (
        f"N_opt = {n.coefficient:.4g} C^{n.exponent:.4g}, D_opt = {d.coefficient:.4g} "
        f"C^{d.exponent:.4g}"
    )


def note(law: PublishedLaw) -> str:
    """A law in full."""
    p = law.publication
    also = f" ({', '.join(f'`{alias}`' for alias in p.aliases)})" if p.aliases else ""
    rest = f" {p.note[0].upper()}{p.note[1:]}." if p.note else ""
    return f"- `{p.name}`{also}: {p.source}; on {p.data}. {numbers(law)}.{rest}"


def page() -> str:
    """The whole file."""
    laws = published_laws()
    sizes = [predict_published(law, SHOWN_BUDGET).num_params for law in laws]
    return TEXT.format(
        budget=SHOWN_BUDGET,
        spread=max(sizes) / min(sizes),
        rows="\n".join(map(row, laws)),
        notes="\n".join(map(note, laws)),
    )


def main() -> int:
    is_current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
    if "--check" in sys.argv:
        print("" if is_current else f"{PAGE} is not of today's laws")
        return 0 if is_current else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
