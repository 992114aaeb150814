"""Why samples score as they do, beside their scores: the first reasons as columns, heat maps as pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrow import pyarrow
from ..data.readers import open_table
from ..errors import UserError
from ..files import whole
from ..imagefiles import batches

if TYPE_CHECKING:
    from ..detection import Detector

MOST = 100
AT_ONCE = 256  # images
SIDE = 256  # pixels that a heat map has at least, if its image has fewer

Heat = Callable[[list[Path]], tuple[Any, Any, float]]  # images, how hot each pixel is, and what is hot


def check(explain: int | None) -> None:
    """Raise a UserError if so many reasons cannot be meant."""
    if explain is not None and not 1 <= explain <= MOST:
        raise UserError(f"explain = {explain} reasons: give 1 to {MOST}")


def fields(explain: int | None, shape: tuple[int, ...]) -> list[Any]:
    """Names and types of the columns of so many reasons, of samples of a shape; see ``Explanation.appended``."""
    pa, found = pyarrow(), []
    for i in range(min(explain or 0, math.prod(shape))):
        name = f"reason_{i + 1}"
        found += [pa.field(name, pa.string(), False)]
        found += [pa.field(f"{name}_{what}", pa.float32()) for what in ("contribution", "p_value")]
    return found


def check_heatmaps(detector: Detector, source: Path, folder: Path) -> None:
    """Raise a UserError if there can be no heat maps of a folder of images in another one."""
    if len(detector.model.preprocessing.raw_shape(detector.model.input_shape)) != 3:
        raise UserError(f"heatmaps = {folder}: the detector takes no images: leave it out")
    if folder.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{folder}: is in {source}: its pictures would be scored the next time: give another folder")
    if folder.is_file():
        raise UserError(f"{folder}: is a file: give a folder")


def write_heatmaps(detector: Detector, source: Path, scored: Path, folder: Path) -> int:
    """Draw where the scores of alarms come from, a PNG file each, under the image's own path; gives how many.

    A detector with a score that has a map, such as ``PatchEnergy``, is drawn by it: a pixel at the threshold has half
    of the full heat, so what is brighter raises the alarm by itself. Others are drawn by what pixels add to the score.

    Args:
        detector: Of images.
        source: Their folder.
        scored: The table of predictions: who raises an alarm.
        folder: Of the pictures, ``a/b.jpg.png`` for ``a/b.jpg``.

    Raises:
        UserError: When an image cannot be read any more, or a picture not be written.
    """
    from ..detection import heatmaps

    heat_of, count = (_mapped if detector.mapped else _explained)(detector), 0
    for names in _alarms(scored):
        images, heats, ceiling = heat_of([source / name for name in names])
        for name, image, heat in zip(names, images, heats, strict=True):
            pixels = heatmaps.overlay(image, heat, ceiling)
            path = folder / (name if name.endswith(".png") else f"{name}.png")
            try:
                with whole(path) as temporary:
                    temporary.write_bytes(heatmaps.png(pixels, max(1, SIDE // max(heat.shape))))
            except OSError as error:
                raise UserError(f"{path}: cannot be written ({error.strerror})") from error
        count += len(names)
    return count


def _mapped(detector: Detector) -> Heat:
    """By the map of the first score that has one."""
    name = detector.mapped[0]
    threshold = detector.model.thresholds[name]
    limit = float(threshold.value.clamp(max=threshold.calibration[-1]))  # it is infinite where nothing raises an alarm

    def heat_of(paths: list[Path]) -> tuple[Any, Any, float]:
        x = np.concatenate([part for _, part in batches(paths, detector.decoder, AT_ONCE)])
        return x, detector.maps(x, name).clip(0), 2 * limit

    return heat_of


def _explained(detector: Detector) -> Heat:
    """By what pixels add to the score that decides."""
    from ..detection import heatmaps
    from ..detection.explainer import Explainer

    explainer = Explainer(detector, tries=0)

    def heat_of(paths: list[Path]) -> tuple[Any, Any, float]:
        found = explainer(paths)
        return found.value, heatmaps.heat(found), found.ceiling

    return heat_of


def _alarms(scored: Path) -> Iterator[list[str]]:
    """The paths of images that raised an alarm, some at a time."""
    for batch in open_table(scored).batches(AT_ONCE, ["path", "anomaly"]):
        alarm = [str(value).lower() in ("1", "true") for value in batch.column("anomaly").to_pylist()]
        names = [name for name, is_one in zip(batch.column("path").to_pylist(), alarm, strict=True) if is_one]
        if names:
            yield names
