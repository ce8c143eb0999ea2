"""What all readers have in common: files in the real formats, values that there are not, other sizes, and nothing at all."""

from pathlib import Path

import pytest
import torch
from data.files import DataError
from hypothesis import given
from hypothesis import strategies as st

from tests.data_files import WRITTEN, said


@pytest.mark.parametrize(
    ("name", "j"),
    [
        pytest.param(name, j, id=f"{name} {f.names[j]}")
        for name, (_, _, f) in WRITTEN.items()
        for j in range(len(f.sizes))
    ],
)
@given(data=st.data())
def test_the_images_of_a_sequence_show_its_factor_running_and_no_other(
    name: str, j: int, written: Path, data: st.DataObject
) -> None:
    _, reader, factors = WRITTEN[name]
    images = reader(written / name, factors=factors)
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(factors) - 1), min_size=1, max_size=4)))
    before = factors.values(index)
    shown = said(images.images(factors.sequences(before, j, factors.sizes[j]).flatten(0, 1)), factors)
    shown = shown.unflatten(0, (len(index), -1))
    others = [i for i in range(len(factors.sizes)) if i != j]
    assert (shown[..., j] == torch.arange(factors.sizes[j])).all()
    assert (shown[..., others] == before[:, None, others]).all()


@pytest.mark.parametrize("name", WRITTEN)
def test_readers_are_found_in_the_data_folder_and_have_all_images(
    name: str, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_DATA", str(written))
    _, reader, factors = WRITTEN[name]
    source = reader(factors=factors)
    values = factors.values(torch.arange(len(factors)).flip(0))
    images = source.images(values)
    assert images.shape == (len(factors), 3, source.side, source.side)
    assert torch.equal(said(images, source.factors), values)
    if name == "dsprites":
        assert (images == images[:, :1]).all()
        assert images.unique().tolist() == [0, 255]
    else:
        assert images.amax((0, 2, 3)).tolist() == [255, 100, 50], "channels in another order"


@pytest.mark.parametrize("name", WRITTEN)
def test_values_that_there_are_not_are_refused(name: str, written: Path) -> None:
    _, reader, factors = WRITTEN[name]
    with pytest.raises(ValueError, match=f"{factors.names[0]}: got value {factors.sizes[0]}, expected 0 to"):
        reader(written / name, factors=factors).images(
            torch.tensor([[factors.sizes[0]] + [0] * (len(factors.sizes) - 1)])
        )


@pytest.mark.parametrize("name", WRITTEN)
def test_of_a_small_file_it_is_said_that_it_is_not_the_data_set(name: str, written: Path) -> None:
    """The real sizes are what is expected unless a test says otherwise."""
    with pytest.raises(DataError, match=rf"{name}.*: got .*expected .*(480000|233280|737280)"):
        WRITTEN[name][1](written / name)


@pytest.mark.parametrize("name", WRITTEN)
def test_where_there_is_nothing_it_is_said_what_is_missing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"got no .* in .*expected .*set LATENTFLOW_DATA"):
        WRITTEN[name][1]()


@pytest.mark.parametrize("name", ["shapes3d", "falcor3d", "isaac3d"])
def test_the_second_time_nothing_is_decoded(
    name: str, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, reader, factors = WRITTEN[name]
    values = factors.values(torch.arange(len(factors)))
    first = reader(written / name, factors=factors, store=tmp_path).images(values)
    again = reader(written / name, factors=factors, store=tmp_path)
    monkeypatch.setattr(again._store, "_read", None)
    assert torch.equal(again.images(values), first)
