"""Pictures of where in each image of a folder the score comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..detection.heatmaps import overlay, png
from ..errors import UserError
from ..files import whole
from ..imagefiles import batches, images_below

if TYPE_CHECKING:
    from ..detection import Detector

AT_ONCE = 64  # images


def check_heatmaps(detector: Detector, source: Path, folder: Path) -> None:
    """Raise a UserError where :func:`write_heatmaps` would, before anything is computed."""
    if not detector.mapped:
        raise UserError(
            f"{folder}: there are no maps to draw: none of {', '.join(detector.names)} has one; train with PatchEnergy "
            "or PatchError among model.init_args.scores, as configs/images.yaml does"
        )
    detector.decoder  # noqa: B018 (whether it reads image files)
    if folder.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{folder}: lies in {source}, whose images are read: give another folder")


def write_heatmaps(detector: Detector, source: str | Path, folder: str | Path) -> int:
    """A PNG file for each image of a folder: the image in grey, under the map of the first score that has one.

    A pixel at the threshold is shown at half of the full heat, so what is brighter raises the alarm by itself.

    Args:
        detector: Trained on image files, with a score that has a map, see ``Detector.maps``.
        source: The images; those in folders below keep their folders.
        folder: Of the PNG files, which is made. It must not lie in ``source``.

    Returns:
        How many files were written.

    Raises:
        UserError: When there is no such score, or a file is no image.
    """
    source, folder = Path(source), Path(folder)
    check_heatmaps(detector, source, folder)
    paths, name = images_below(source), detector.mapped[0]
    threshold = detector.model.thresholds[name]
    limit = float(threshold.value.clamp(max=threshold.calibration[-1]))  # it is infinite where nothing raises an alarm
    for some, x in batches(paths, detector.decoder, AT_ONCE):
        maps = detector.maps(x, name).clip(0)
        for path, image, one in zip(some, x, maps, strict=True):
            with whole((folder / path.relative_to(source)).with_suffix(".png")) as temporary:
                temporary.write_bytes(png(overlay(image, one, 2 * limit)))
    return len(paths)
