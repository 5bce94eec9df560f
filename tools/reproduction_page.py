"""Write the tables of studies/results/*.json into docs/reproduction.md.

    python tools/reproduction_page.py

The page has a pair of comments for each study, between which its tables are: `<!-- yolof_table4 -->` and
`<!-- end -->`. Everything else on the page stays as it is.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import _checkout

from ppdet_repro.studies.report import as_text
from ppdet_repro.studies.results import read_results

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "reproduction.md", ROOT / "studies" / "results"
PART = re.compile(r"<!-- (\w+) -->\n.*?<!-- end -->", re.DOTALL)
NOT_RUN = "Not run yet."


def filled(page: str, folder: Path) -> str:
    """The page with the tables of the results that are in a folder. ValueError if a result has no place on it."""
    missing = {path.stem for path in folder.glob("*.json")} - {found[1] for found in PART.finditer(page)}
    if missing:
        raise ValueError(f"the page has no comment <!-- {min(missing)} -->")

    def part(found: re.Match) -> str:
        path = folder / f"{found[1]}.json"
        text = as_text(read_results(path)).replace("+-", "±") if path.is_file() else NOT_RUN
        return f"<!-- {found[1]} -->\n{text}\n<!-- end -->"

    return PART.sub(part, page)


if __name__ == "__main__":
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
