"""A path, a prior, a force or a potential in the place of another is named, and a printed path fits a line."""

import warnings

import pytest
import torch
from torch.distributions import Independent, Normal

from latentflow import DiffusionPrior, FlowPosterior, HJConstraint, NegativeForce, Potential, flow_kl, validate_values

POTENTIAL, FORCE, PRIOR = Potential(3, 2), NegativeForce(3, 2), DiffusionPrior(2)
Q0 = Independent(Normal(torch.zeros(4, 3), torch.ones(4, 3)), 1)
PATH = FlowPosterior(POTENTIAL)(Q0, 0, steps=2)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: flow_kl(PRIOR, PATH),
        lambda: flow_kl(PATH.z, PRIOR),
        lambda: HJConstraint(POTENTIAL)(PATH.z),
        lambda: PRIOR.log_prob(PATH.z),
        lambda: FlowPosterior(FORCE),
        lambda: HJConstraint(FORCE, POTENTIAL),
        lambda: HJConstraint(POTENTIAL, POTENTIAL),
        lambda: FlowPosterior(Potential),
        lambda: HJConstraint(POTENTIAL, NegativeForce),
        lambda: HJConstraint(FlowPosterior(POTENTIAL)),
        lambda: FlowPosterior(POTENTIAL)(Q0, torch.zeros(4).long().numpy(), steps=2),
    ],
)
def test_the_wrong_object_is_named(mistake):
    with pytest.raises(TypeError, match=r"got .*expected .*; "):
        mistake()


def test_forces_live_where_their_potentials_do():
    with pytest.raises(ValueError, match="force: got dim=5, num=2, expected dim=3, num=2"):
        HJConstraint(POTENTIAL, NegativeForce(5, 2))


@pytest.mark.parametrize(
    ("shape", "fix"),
    [
        ((3,), "batch axis"),
        ((4, 6), r"\.chunk\(2"),
        ((4, 5), "dim=5"),
        ((4, 2, 3), r"encode the first, x\[:, 0\]"),
        ((4, 3, 1, 1), r"mu\.flatten\(1\)"),
        ((4, 5, 3), r"encode the first, x\[:, 0\]"),
    ],
)
def test_a_posterior_of_the_wrong_shape_is_answered_with_the_likely_fix(shape, fix):
    with pytest.raises(ValueError, match=fix):
        FlowPosterior(POTENTIAL)(Independent(Normal(torch.zeros(shape), torch.ones(shape)), 1), 0, steps=2)


def test_a_path_prints_its_shapes():
    assert repr(PATH) == (
        "LatentPath(z=(4, 3, 3), log_q=(4, 3), log_det=(4, 2), folds=(4, 2), weights=(4, 2, 2), times=(3,), q0=Independent)"
    )


def test_finite_latents_whose_sum_overflows_are_no_mistake():
    huge = torch.full((4, 3), 3e38)
    z, _ = FlowPosterior(POTENTIAL, None).transport(huge, 0, 1)
    assert z.isfinite().all()


@pytest.mark.parametrize("layer", [torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.1)])
def test_potentials_that_are_no_functions_of_one_latent_are_refused_until_they_are(layer):
    class Layered(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, z, t):
            return self.layer(z).square().sum(-1, keepdim=True)

    potential, z0 = Layered(), torch.randn(4, 3)
    flow, hj = FlowPosterior(potential), HJConstraint(potential)
    asked = (
        lambda: flow.transport(z0, 0, 2),
        lambda: flow(Q0, 0, 2),
        lambda: hj.residual(z0, 1.0),
        lambda: hj.initial(z0),
    )
    for ask in asked:
        with pytest.raises(
            ValueError, match=rf"got {type(layer).__name__} in training mode, expected .*call .eval\(\)"
        ):
            ask()
    layer.eval()
    flow.transport(z0, 0, 2)
    hj.initial(z0)


@pytest.mark.parametrize(
    "forward",
    [lambda z, t: torch.cat((z, t), -1), lambda z, t: (z * t).sum(-1, keepdim=True), lambda z, t: z * t[:, 0]],
)
def test_an_error_of_a_potential_comes_with_what_it_was_given(forward):
    class Mistaken(torch.nn.Module):
        def forward(self, z, t):
            return forward(z, t)

    for ask in (FlowPosterior(Mistaken()).transport, lambda z, *_: HJConstraint(Mistaken()).residual(z, 1.0)):
        with pytest.raises((RuntimeError, IndexError)) as caught:
            ask(torch.randn(4, 3), 0, 2)
        assert "z (N, 3) and t (N,), a time for each latent: write t[:, None]" in caught.value.__notes__[0]


@pytest.mark.parametrize("kind", ["dropout", "attention", "spectral norm"])
def test_potentials_that_change_their_mind_are_refused_until_they_do_not(kind):
    """None of them has a module that is called dropout."""
    torch.manual_seed(0)

    class Changing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 8)
            if kind == "spectral norm":
                self.layer = torch.nn.utils.parametrizations.spectral_norm(self.layer)
            self.attention = torch.nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

        def forward(self, z, t):
            x = self.layer(z)
            if kind == "attention":
                others = torch.stack((x, x + 1), 1)
                x = self.attention(x[:, None], others, others)[0][:, 0]
            return torch.nn.functional.dropout(x, 0.1, self.training and kind == "dropout").tanh().sum(-1, keepdim=True)

    potential, z0 = Changing(), torch.randn(4, 3)
    with torch.no_grad():  # as training moves them on, so that the norm is no longer that of the weights
        for parameter in potential.layer.parameters():
            parameter.normal_()
    with pytest.raises(ValueError, match=r"got \S+ and then \S+ for the same latent, .* call \.eval\(\)"):
        FlowPosterior(potential).transport(z0, 0, 2)
    potential.eval()
    flow = FlowPosterior(potential)
    assert torch.equal(flow.transport(z0, 0, 2)[0], flow.transport(z0, 0, 2)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_potential_answers_in_the_precision_it_is_asked_in(dtype):
    class Other(torch.nn.Module):
        def forward(self, z, t):
            return z.to(dtype).square().sum(-1, keepdim=True)

    with pytest.raises(
        TypeError, match=rf"got {dtype}, expected torch.float32 like z; return u.to\(z.dtype\)"
    ) as caught:
        FlowPosterior(Other()).transport(torch.randn(4, 3), 0, 1)
    assert not getattr(caught.value, "__notes__", [])


def test_whether_a_potential_answers_at_random_is_not_asked_where_values_are_not_read():
    asked = []

    class Counting(torch.nn.Module):
        def forward(self, z, t):
            asked.append(len(z))
            return z.square().sum(-1, keepdim=True)

    flow, z0 = FlowPosterior(Counting(), None), torch.randn(4, 3)
    flow.transport(z0, 0, 1)
    assert asked == [1, 8, 8, 4]
    asked.clear()
    with validate_values(False):
        flow.transport(z0, 0, 1)
    assert asked == [1, 8, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.vmap(lambda z: flow.transport(z[None], 0, 2)[0])(z0)


def test_a_potential_that_differentiates_in_its_own_way_is_told_by_whom_it_is_differentiated():
    class Differentiates(torch.nn.Module):
        def forward(self, z, t):
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                (slope,) = torch.autograd.grad(z.square().sum(), z)
            return slope.sum(-1, keepdim=True)

    with pytest.raises(RuntimeError) as caught:
        FlowPosterior(Differentiates()).transport(torch.randn(4, 3), 0, 2)
    assert "differentiated by torch.func: take derivatives inside of it" in caught.value.__notes__[0]


def test_batches_normalised_by_themselves_are_refused_for_good():
    class Layered(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.BatchNorm1d(3, track_running_stats=False)

        def forward(self, z, t):
            return self.layer(z).square().sum(-1, keepdim=True)

    with pytest.raises(ValueError, match="got BatchNorm1d without running statistics, expected"):
        FlowPosterior(Layered().eval()).transport(torch.randn(4, 3), 0, 2)
