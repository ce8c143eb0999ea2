"""The sample sequences of Falcor3D and Isaac3D, real ones where they are there."""

from pathlib import Path

import pytest
import torch
from data.factors import FALCOR3D, ISAAC3D, Factors
from data.files import DataError, data_folder
from data.samples import samples
from PIL import Image

REAL_SAMPLES = [
    pytest.param(
        name,
        factors,
        marks=pytest.mark.skipif(
            not (data_folder() / f"{name}_samples").is_dir(), reason=f"no {name}_samples in $LATENTFLOW_DATA"
        ),
    )
    for name, factors in (("falcor3d", FALCOR3D), ("isaac3d", ISAAC3D))
]


@pytest.mark.parametrize(("name", "factors"), REAL_SAMPLES)
def test_the_real_ones_move_in_every_factor(name: str, factors: Factors) -> None:
    """Neighbouring frames of the same scene would be equal; a small object's colour is the least that changes, by 0.13."""
    found = samples(name)
    assert tuple(found) == factors.names
    for size, (factor, frames) in zip(factors.sizes, found.items(), strict=True):
        assert frames.shape == (size, 3, 128, 128)
        assert frames.dtype == torch.uint8
        steps = (frames[1:].float() - frames[:-1].float()).abs().mean((1, 2, 3))
        assert (steps > 0.05).all(), factor
    light = found["lighting_intensity"].float().mean((1, 2, 3))
    assert (light.diff() > 0).all(), "frames in another order"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sequences under the right names; the colour of a frame says of which factor and value it is."""
    for j, (factor, size) in enumerate(zip(FALCOR3D.names, FALCOR3D.sizes, strict=True)):
        (tmp_path / f"{j}_{factor}").mkdir()
        for t in range(size):
            Image.new("RGB", (128, 128), (j, t, 9)).save(tmp_path / f"{j}_{factor}" / f"{t}.png")
    return tmp_path


def test_frames_are_in_the_order_of_factors_and_values(folder: Path) -> None:
    for j, (factor, frames) in enumerate(samples("falcor3d", folder).items()):
        assert factor == FALCOR3D.names[j]
        assert frames[:, :, 5, 6].tolist() == [[j, t, 9] for t in range(FALCOR3D.sizes[j])]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3_lighting_z-dir", "3_lighting_w-dir", "got .*3_lighting_w-dir, .*expected the folders"),
        ("3_lighting_z-dir", "../away", "got .*expected the folders"),
        (
            "0_lighting_intensity/2.png",
            "0_lighting_intensity/5.png",
            "0_lighting_intensity: got .*expected 0.png to 4.png",
        ),
        ("6_camera_z-pos/5.png", "../away.png", "6_camera_z-pos: got .*expected 0.png to 5.png"),
        ("1_lighting_x-dir/0.png", "0_lighting_intensity/5.png", "0_lighting_intensity: got"),
    ],
)
def test_other_folders_are_refused(folder: Path, old: str, new: str, message: str) -> None:
    (folder / old).rename(folder / new)
    with pytest.raises(DataError, match=message):
        samples("falcor3d", folder)


def test_the_other_data_set_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the folders 0_object_shape"):
        samples("isaac3d", folder)
    with pytest.raises(DataError, match="nowhere: got no such folder"):
        samples("isaac3d", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="name: got 'cars3d', expected one of falcor3d, isaac3d"):
        samples("cars3d")
