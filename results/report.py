"""The figures of README.md and of the results' own README.md, out of the files beside this script: nobody types one.

python results/report.py            # prints them
python results/report.py --write    # puts them between the markers of the two files
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the tests run this file from elsewhere

from sections import cost, experiments, faults, images, serving, tables, textures  # noqa: E402

DOCS = HERE.parent / "docs"
MARKERS = ("<!-- results/report.py --write -->\n", "<!-- end -->\n")
SECTIONS = [
    experiments.claimed_beside_found,
    experiments.standard_vae,
    experiments.autoencoder_against_vae,
    experiments.fashion,
    experiments.fashion_classes,
    experiments.synthetic,
    experiments.mixture,
    experiments.likelihood,
    tables.tables,
    tables.left_out,
    tables.mixed_columns,
    tables.members,
    textures.textures,
    images.benchmark,
    images.with_calibration,
    images.label_free,
    images.false_alarms,
    images.inverted,
    images.ablation,
    images.tried,
    images.out_of_distribution,
    cost.speed,
    serving.serving,
    faults.faults,
]


def written() -> dict[Path, str]:
    """Each file, and what belongs between its markers."""
    results = "\n".join(line for section in SECTIONS for line in section())
    site = results.replace("](", "](results/")  # its pictures are linked there
    return {
        HERE.parent / "README.md": "\n".join(images.front()),
        HERE / "README.md": results,
        DOCS / "results.md": site,
    }


def main() -> None:
    between = re.compile(f"({re.escape(MARKERS[0])}).*({re.escape(MARKERS[1])})", re.DOTALL)
    for path, text in written().items():
        if "--write" in sys.argv[1:]:
            path.write_text(between.sub(lambda match, text=text: match[1] + text + match[2], path.read_text()))
        else:
            print(text)


if __name__ == "__main__":
    main()
