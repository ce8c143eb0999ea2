"""The README's Python blocks run as printed, in order and in one namespace."""

import json
import re
from pathlib import Path

import pytest
import report
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def namespace():
    torch.manual_seed(0)
    names = {"__name__": "readme"}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"README.md, Python block {number}", "exec"), names)
    return names


def test_the_tables_are_those_of_the_committed_demo(capsys):
    results = json.loads((ROOT / "examples" / "results" / "demo.json").read_text(encoding="utf-8"))
    report.show(results)
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    shown = re.search(r"^```text\n(.*?)\n```$", README, flags=re.MULTILINE | re.DOTALL)[1].splitlines()
    assert printed[: len(shown)] == shown
    assert f"which trained for {results['seconds']:.0f} seconds" in README


def test_has_the_users_vae_the_drop_in_the_compositions_and_a_test():
    assert len(BLOCKS) == 4
    assert "latentflow" not in BLOCKS[0].replace("Knows nothing of latentflow", "")


def test_what_it_prints_has_the_shapes_it_says(namespace):
    B, T, K, dim = (namespace[name] for name in ("B", "T", "K", "dim"))
    for name in ("path", "one", "switched", "both"):
        path = namespace[name]
        assert path.z.shape == (B, T + 1, dim)
        assert path.log_q.shape == (B, T + 1)
        assert path.folds.shape == (B, T)
        assert path.weights.shape == (B, T, K)
    assert namespace["frames"].shape == (B, T + 1, 256)
    assert namespace["loss"].shape == ()


def test_switching_and_superposing_do_what_the_comments_say(namespace):
    expected = torch.eye(3)[torch.tensor([0, 0, 0, 0, 2, 2, 2, 2])]
    assert torch.equal(namespace["switched"].weights[5], expected)
    assert torch.equal(namespace["both"].weights[5, 3], torch.tensor([1.0, 0.0, 1.0]))


def test_its_own_test_passes_and_would_not_for_another_gradient(namespace):
    namespace["test_ripple"]()
    wrong = type("Wrong", (namespace["Ripple"],), {"gradients": lambda self, z, t: z.cos()[:, None]})
    with pytest.raises(AssertionError, match=r"Wrong.gradients\(z, t\): got"):
        namespace["check_potential"](wrong(), dim=3)


@pytest.mark.parametrize("part", ["vae.encoder", "vae.decoder", "potential", "hj.force", "prior"])
def test_gradients_reach_every_part(namespace, part):
    module = eval(part, namespace)
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_shared_potential_is_counted_once(namespace):
    names = ("vae", "potential", "prior")
    parts = sum(sum(p.numel() for p in namespace[name].parameters()) for name in names)
    parts += sum(p.numel() for p in namespace["hj"].force.parameters())
    assert sum(p.numel() for p in namespace["model"].parameters()) == parts
