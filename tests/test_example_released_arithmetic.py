"""Each error of the released scripts is found by the kit, and nothing is found in the library's own arithmetic."""

import re

import pytest
import released_arithmetic as example

SAID = (
    r"your time derivative: got .* by autograd",
    r"your Hamilton-Jacobi residual: got .* by finite differences",
    r"your Laplacian: got shape \(1, 2\), expected \(1,\)",
    r"your log-determinant: got 0\.81\d*, expected -0\.28\d* by the Jacobian",
    r"your Hamilton-Jacobi penalty: got .* by finite differences",
    r"state: got the same result from other parameters and buffers",
    r"your KL: got 0\.01\d*, expected 5\.80\d* in closed form",
    r"your initial term: got .* by finite differences",
    r"your initial term: got 0, expected .*",
    r"your KL of the index: got .* by the sum over k",
    r"your equivariance error: got .* by adding up all 5 steps of potential 0",
    r"your equivariance error: got .* by adding up all 5 steps of potential 1",
    r"your equivariance error: got .* by adding up all 5 steps of potential 0",
    r"sequence 0: got a change of factor 1 from 2 to 3 in frame 3, expected changes of factor 2 only",
)


@pytest.mark.parametrize(
    ("case", "said"), list(zip(example.CASES, SAID, strict=True)), ids=lambda x: getattr(x, "error", "")
)
def test_is_found_in_the_scripts_and_not_in_the_library(case, said):
    verdict = case.verdict(case.released)
    assert verdict is not None
    assert re.match(said, verdict), verdict
    assert case.verdict(case.ours) is None


def test_prints_the_verdicts(capsys):
    assert example.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("found")]) == 14
    assert lines[-1] == "14 errors of the scripts found, none in the library"


def test_a_wrong_verdict_is_counted(capsys, monkeypatch):
    case = example.CASES[0]
    monkeypatch.setattr(example, "CASES", (example.Case("right", case.judge, None, case.released),))
    assert example.main() == 2
    out = capsys.readouterr().out
    assert out.startswith("not found right\n")
    assert "but so it says of the library: your time derivative: got" in out
