"""What pyproject.toml cannot say: the configurations lie beside the package here, and within it once installed."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vae_lightning*"]), "vae_lightning.configs", "vae_lightning.configs.sweeps"],
    package_dir={"vae_lightning.configs": "configs", "vae_lightning.configs.sweeps": "configs/sweeps"},
    package_data={
        "vae_lightning": ["py.typed"],
        "vae_lightning.studies.report": ["*.html"],
        "vae_lightning.configs": ["*.yaml"],
        "vae_lightning.configs.sweeps": ["*.yaml"],
    },
)
