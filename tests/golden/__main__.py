"""Compare with the golden values, or write them anew."""

import argparse
import json
import sys

import torch
from safetensors.torch import save_model
from torch import nn

from tests.golden import CHECKPOINT, TOLERANCE, VALUES, Model, differences, known, measured, restored


def write() -> None:
    """Weights well away from their tame initialisation, so that every formula shows."""
    torch.manual_seed(0)
    model = Model()
    for name, parameter in model.named_parameters():
        nn.init.uniform_(parameter, 0.1, 0.4) if name == "prior.raw" else nn.init.uniform_(parameter, -0.9, 0.9)
    model.selector.anneal(20_000)
    save_model(model, str(CHECKPOINT))
    values = {name: value.tolist() for name, value in measured(restored(), torch.float64).items()}
    rows = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items())
    VALUES.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def main() -> int:
    parser = argparse.ArgumentParser("tests.golden", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write checkpoint and values anew")
    if parser.parse_args().write:
        write()
    wrong = {
        str(dtype): differences(measured(restored(), dtype), known(), tolerance)
        for dtype, tolerance in TOLERANCE.items()
    }
    for dtype, names in wrong.items():
        print(f"{dtype}: {', '.join(names) or 'as it was'}")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
