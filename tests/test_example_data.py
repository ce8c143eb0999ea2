"""The sequences of the examples against kornia and against the floors of the literature."""

import colorsys
import functools
import math

import kornia
import pytest
import torch
from data.digits import digits
from data.files import data_folder
from data.mnist import mnist
from data.moving_digits import DIGITS, moving_digits, render
from data.transformations import levels_of, switching_levels
from hypothesis import given
from hypothesis import strategies as st

from latentflow.metrics import black_error, identity_error

STEPS = 8


def all_single(images: torch.Tensor, k: int, steps: int = STEPS) -> torch.Tensor:
    return DIGITS.single(images, k, steps)


@given(k=st.sampled_from([0, 1]), t=st.integers(0, STEPS), side=st.sampled_from([16, 28]), seed=st.integers(0, 99))
def test_warps_are_those_of_kornia(k: int, t: int, side: int, seed: int) -> None:
    images = torch.rand(2, side, side, generator=torch.Generator().manual_seed(seed))
    scale, angle = (1 + 0.1 * t, 0.0) if k == 0 else (1.0, 10.0 * t)
    centre = torch.full((2, 2), side / 2)
    matrix = kornia.geometry.get_rotation_matrix2d(centre, torch.full((2,), angle), torch.full((2, 2), scale))
    truth = kornia.geometry.warp_affine(images[:, None], matrix, (side, side), align_corners=True)[:, 0]
    frames = all_single(images, k)
    torch.testing.assert_close(frames[:, t, 0], truth, atol=5e-5, rtol=0)
    assert frames[:, :, 1:].abs().max() == 0  # a digit lives in the red channel


@given(t=st.integers(0, STEPS), seed=st.integers(0, 99))
def test_hues_are_those_of_kornia(t: int, seed: int) -> None:
    images = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(seed))
    red = torch.stack((images, torch.zeros_like(images), torch.zeros_like(images)), 1)
    truth = kornia.enhance.adjust_hue(red, math.radians(20.0 * t))
    torch.testing.assert_close(all_single(images, 2)[:, t], truth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", range(3))
def test_sequences_start_at_the_image_itself(k: int) -> None:
    images = torch.rand(3, 16, 16)
    # Pixel coordinates up to 16 are rounded to float32, and each is off by a few times 1e-6.
    torch.testing.assert_close(all_single(images, k)[:, 0, 0], images, atol=1e-5, rtol=0)


def test_a_switch_applies_the_second_transformation_to_the_first_ones_result() -> None:
    images = torch.rand(2, 16, 16)
    first, second = torch.tensor([0, 2]), torch.tensor([1, 0])
    frames = render(images, switching_levels(first, second, STEPS, 3))
    alone = render(images, levels_of(first, STEPS, 3))
    torch.testing.assert_close(frames[:, : STEPS // 2 + 1], alone[:, : STEPS // 2 + 1])
    # Rotating by 40 degrees at size 1.4, from the image in one warp.
    both = torch.tensor([[[4.0, 4.0, 0.0]], [[4.0, 0.0, 4.0]]])
    torch.testing.assert_close(frames[:, -1:], render(images, both))


@pytest.mark.parametrize(("degrees", "step"), [(160, 20), (340, 42.5)])
def test_hues_of_the_code_and_of_the_text(degrees: float, step: float) -> None:
    frames = moving_digits(degrees).single(torch.ones(1, 4, 4), 2, 8)[0, :, :, 2, 2]
    truth = [colorsys.hsv_to_rgb(step * t / 360, 1, 1) for t in range(9)]
    torch.testing.assert_close(frames, torch.tensor(truth), rtol=0, atol=1e-5)


def test_digits_are_split_once_and_for_all() -> None:
    training, held_out = digits()
    assert training.shape == (1437, 16, 16)
    assert held_out.shape == (360, 16, 16)
    assert training.min() >= 0
    assert training.max() <= 1
    assert torch.equal(held_out, digits()[1])
    gaps = (held_out[:, None] - training[None]).abs().amax((2, 3))
    assert (gaps.amin(1) > 0).all(), "a held-out digit is also in the training set"


@pytest.mark.skipif(not (data_folder() / "mnist").is_dir(), reason="no MNIST in $LATENTFLOW_DATA")
def test_floors_of_mnist() -> None:
    """Of all eight steps, and of the seven that the released evaluation sums."""
    _, test = mnist(download=False)
    found = torch.zeros(2, 2, 3)
    for k in range(3):
        for part in test.split(1000):
            x = all_single(part, k)
            for n, floor in enumerate((identity_error, black_error)):
                for m, last in enumerate((8, 7)):
                    found[n, m, k] += floor(x[:, : last + 1]).sum() / len(test)
    identity, black = found
    close = functools.partial(torch.testing.assert_close, atol=0.05, rtol=0)
    close(identity, torch.tensor([[1333.77, 895.94, 1246.70], [1075.41, 756.56, 969.65]]))
    close(black, torch.tensor([[1616.54, 831.02, 1246.70], [1351.27, 727.14, 1073.54]]))
    assert len(DIGITS.names) == 3
