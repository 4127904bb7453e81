"""Image files of every depth keep their values, or are refused by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbench.data import decode_image
from cnnbench.errors import DataError

RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def seen(path: Path) -> np.ndarray:
    return decode_image(path, 1, 8)[0].astype(int)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_depths_stored_in_16_bits_keep_their_levels(bits: int, tmp_path: Path) -> None:
    full = 2**bits - 1
    Image.fromarray(np.rint(RAMP * full).astype(np.uint16)).save(tmp_path / "a.png")
    assert np.abs(seen(tmp_path / "a.png") - RAMP * 255).max() <= 1
    assert len(np.unique(seen(tmp_path / "a.png"))) == 64


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_floating_point_images_keep_their_levels(scale: float, tmp_path: Path) -> None:
    Image.fromarray((RAMP * scale).astype(np.float32)).save(tmp_path / "a.tiff")
    assert np.abs(seen(tmp_path / "a.tiff") - RAMP * 255).max() <= 1


def test_32_bit_integers_keep_their_levels(tmp_path: Path) -> None:
    Image.fromarray(np.rint(RAMP * 4095).astype(np.int32)).save(tmp_path / "a.tiff")
    assert len(np.unique(seen(tmp_path / "a.tiff"))) == 64


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (RAMP * 3000, "floating-point values from 0 to 3000"),
        (RAMP - 0.5, "floating-point values from -0.5 to 0.5; expected 0 to 1 or 0 to 255; leave"),
        (RAMP + np.nan, "floating-point values from nan"),
        (RAMP + np.inf, "inf"),
        ((RAMP * 10**6).astype(np.int32), "integer values from 0 to 1e+06"),
        ((RAMP * 100 - 50).astype(np.int32), "integer values from -50 to 50"),
    ],
)
def test_ranges_that_no_depth_explains_are_refused(
    values: np.ndarray, words: str, tmp_path: Path
) -> None:
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(DataError) as caught:
        decode_image(tmp_path / "a.tiff", 1, 8)
    assert words in str(caught.value)
    assert "a.tiff" in str(caught.value)


def test_a_small_file_of_many_pixels_takes_little_memory(tmp_path: Path) -> None:
    """Four channels of 9,000 x 9,000 pixels are 324 MB, and were copied several times."""
    Image.new("RGBA", (9000, 9000)).save(tmp_path / "a.png", compress_level=1)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from cnnbench.data import decode_image\n"
        "try: decode_image(Path(sys.argv[1]), 3, 8)\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "9000x9000 pixels are too many" in done.stdout
