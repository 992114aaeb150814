"""What pyproject.toml cannot say: the version out of git's tags, and where the configurations lie.

They lie beside the package here, and within it once installed.
"""

import re
import subprocess
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent.resolve()
NEXT = "0.2.0"  # where there is no tag, and no git


def version() -> str:
    """``1.2.3`` on the tag v1.2.3, ``1.2.4.dev5+gabc`` five commits later; of a source archive what it was made as."""
    if (info := HERE / "PKG-INFO").is_file():
        return re.search(r"^Version: (\S+)", info.read_text(encoding="utf-8"), re.M)[1]
    if not (HERE / ".git").exists():  # another repository's tags would be no help
        return NEXT
    try:
        line = ["git", "describe", "--tags", "--long", "--match", "v[0-9]*"]
        described = subprocess.run(line, cwd=HERE, capture_output=True, text=True)
    except OSError:
        return NEXT
    if not (found := re.fullmatch(r"v(\d+)\.(\d+)\.(\d+)-(\d+)-(g\w+)", described.stdout.strip())):
        return NEXT
    major, minor, patch, commits, commit = found.groups()
    if commits == "0":
        return f"{major}.{minor}.{patch}"
    return f"{major}.{minor}.{int(patch) + 1}.dev{commits}+{commit}"


setup(
    version=version(),
    packages=[*find_packages(include=["vae_lightning*"]), "vae_lightning.configs", "vae_lightning.configs.sweeps"],
    package_dir={"vae_lightning.configs": "configs", "vae_lightning.configs.sweeps": "configs/sweeps"},
    package_data={
        "vae_lightning": ["py.typed"],
        "vae_lightning.studies.report": ["*.html"],
        "vae_lightning.configs": ["*.yaml"],
        "vae_lightning.configs.sweeps": ["*.yaml"],
    },
)
