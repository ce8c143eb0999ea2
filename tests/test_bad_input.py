"""Bad latents, labels, weights and times: each raises at once, and says what was got, what was expected, and the fix."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import Independent, Normal

from latentflow import DiffusionPrior, FlowPosterior, HJConstraint, flow_kl
from tests.problems import Wave, check_message, gaussian, make_potential, rand, randn

P = make_potential(3, 2)
Q = gaussian(4, 3)
Z = randn(4, 3)
FLOW, USER = FlowPosterior(P), FlowPosterior(Wave(3, 2).double())
PATH = FLOW(Q, 0, steps=2)
PRIOR = DiffusionPrior(2, dtype=torch.float64)
NAN = torch.full((4, 2), math.nan)


def spoiled(z, *rows):
    z = z.clone()
    z[list(rows), 0] = math.inf
    return z


def acting(steps=2, **what):
    return lambda: FLOW(Q, steps=steps, **what)


MISTAKES = {
    # what acts
    "neither": (acting(), ValueError, "k, weights: got neither, expected exactly one"),
    "both": (acting(k=0, weights=rand(4, 2)), ValueError, "k, weights: got both"),
    "k too large": (acting(k=2), ValueError, "k: got 2, expected 0, ..., 1"),
    "k negative": (acting(k=-1), ValueError, "k: got -1"),
    "k bool": (acting(k=True), TypeError, "k: got True (bool), expected integers"),
    "k float": (acting(k=1.0), TypeError, "k: got 1.0 (float), expected integers; .* weights="),
    "k list": (acting(k=[0, 1, 0, 1]), TypeError, "k: got [0, 1, 0, 1] (list)"),
    "k floating tensor": (acting(k=torch.zeros(4)), TypeError, "k: got a tensor of torch.float32, .* weights="),
    "k bool tensor": (acting(k=torch.zeros(4).bool()), TypeError, "k: got a tensor of torch.bool"),
    "k complex": (acting(k=torch.zeros(4).cfloat()), TypeError, "k: got a tensor of torch.complex64"),
    "k wrong batch": (acting(k=torch.zeros(3).long()), ValueError, "k: got shape (3,), expected (4,) or (4, 2)"),
    "k wrong steps": (acting(k=torch.zeros(4, 3).long()), ValueError, "k: got shape (4, 3)"),
    "k column": (acting(k=torch.zeros(4, 1).long()), ValueError, "k: got shape (4, 1), .* take k[:, 0]"),
    "labels out of range": (acting(k=torch.tensor([0, 1, 2, 5])), ValueError, "k: got labels from 0 to 5, expected 0"),
    "one label out of range": (
        lambda: FLOW.transport(Z[:1], torch.tensor([5]), 1),
        ValueError,
        "k: got labels from 5 to 5, expected 0",
    ),
    "labels negative": (acting(k=torch.tensor([0, 1, -1, 0])), ValueError, "k: got labels from -1 to 1"),
    "weights integer": (
        acting(weights=torch.ones(4, 2).long()),
        TypeError,
        "weights: got a tensor of torch.int64, .* as k",
    ),
    "weights bool": (acting(weights=torch.ones(4, 2).bool()), TypeError, "weights: got a tensor of torch.bool"),
    "weights array": (
        acting(weights=rand(4, 2).numpy()),
        TypeError,
        "weights: got ndarray, expected a floating tensor; make a tensor of them, torch.as_tensor(weights)",
    ),
    "weights of one sample, with an axis for it": (
        acting(weights=rand(1, 2)),
        ValueError,
        "weights: got shape (1, 2), .* weights.expand(4, -1)",
    ),
    "switches of one sample": (
        acting(k=torch.tensor([0, 1, 1]), steps=3),
        ValueError,
        "k: got shape (3,), .* for the same switches in all samples k.expand(4, -1)",
    ),
    "latents array": (
        lambda: FLOW.transport(Z.numpy(), 0, 1),
        TypeError,
        "z0: got ndarray, expected a floating tensor; make a tensor of it, with torch.as_tensor",
    ),
    "weights list": (
        acting(weights=[0.5, 0.5]),
        TypeError,
        "weights: got list, expected a floating tensor; make a tensor",
    ),
    "logits for weights": (
        acting(weights=randn(4, 2).requires_grad_()),
        ValueError,
        "weights: got values from -.*; of a selector's two results pass the first",
    ),
    "weights negative": (acting(weights=-rand(4, 2)), ValueError, "weights: got values from -"),
    "weights nan": (acting(weights=NAN), ValueError, "weights: got values from nan"),
    "weights inf": (acting(weights=NAN.nan_to_num(math.inf)), ValueError, "weights: got values from inf"),
    "weights wrong K": (
        acting(weights=rand(4, 3)),
        ValueError,
        "weights: got shape (4, 3), expected (4, 2) or (4, 2, 2)",
    ),
    "weights wrong steps": (acting(weights=rand(4, 5, 2)), ValueError, "weights: got shape (4, 5, 2)"),
    "weights unbatched": (acting(weights=rand(2)), ValueError, "weights: got shape (2,)"),
    # steps
    "no steps": (acting(k=0, steps=0), ValueError, "steps: got 0, expected at least 1"),
    "negative steps": (acting(k=0, steps=-1), ValueError, "steps: got -1"),
    "fractional steps": (acting(k=0, steps=2.5), TypeError, "steps: got 2.5 (float), expected an int"),
    "missing steps": (lambda: FLOW.transport(Z, 0), TypeError, "steps: got None"),
    # where it starts
    "q0 a tensor": (lambda: FLOW(Z, 0, steps=2), TypeError, "q0: got Tensor, expected a torch.distributions"),
    "q0 without event dim": (
        lambda: FLOW(Normal(Z, 1.0), 0, steps=2),
        ValueError,
        "q0: got batch shape (4, 3) and event shape (), expected (B,) and (3,); .* Independent(Normal(mu, std), 1)",
    ),
    "q0 without batch": (
        lambda: FLOW(Independent(Normal(Z[0], 1.0), 1), 0, steps=2),
        ValueError,
        "q0: got batch shape () and event shape (3,)",
    ),
    "q0 of another dim": (
        lambda: FLOW(gaussian(4, 5), 0, steps=2),
        ValueError,
        "q0: .* event shape (5,), expected (B,) and (3,)",
    ),
    "q0 of another dim for log_prob": (
        lambda: FLOW.log_prob(Z, gaussian(4, 5), 0, 2),
        ValueError,
        "q0: got batch shape",
    ),
    "q0 two event dims": (
        lambda: USER(Independent(Normal(Z[None], 1.0), 2), 0, steps=2),
        ValueError,
        "q0: got batch shape (1,) and event shape (4, 3), expected (B,) and (dim,)",
    ),
    "q0 of another batch": (
        lambda: FLOW.log_prob(Z, gaussian(5, 3), 0, 2),
        ValueError,
        "q0: got batch shape (5,) for 4 latents",
    ),
    "q0 of another dtype": (
        lambda: FLOW(gaussian(4, 3, dtype=torch.float32), 0, steps=2),
        TypeError,
        "z: got dtype torch.float32, expected torch.float64",
    ),
    "q0 gives nan": (
        lambda: FLOW(
            Independent(Normal(spoiled(Z, 1, 3), 1.0, validate_args=False), 1, validate_args=False), 0, steps=2
        ),
        ValueError,
        "z: got non-finite latents in samples [1, 3], expected .*; q0 gave them",
    ),
    # latents
    "z0 integer": (lambda: FLOW.transport(Z.long(), 0, 2), TypeError, "z0: got dtype torch.int64, expected a floating"),
    "z0 a list": (lambda: FLOW.transport([0.0], 0, 2), TypeError, "z0: got list"),
    "z0 unbatched": (lambda: FLOW.transport(Z[0], 0, 2), ValueError, "z0: got shape (3,), expected (B, 3)"),
    "z0 of another dim": (lambda: FLOW.transport(Z[:, :2], 0, 2), ValueError, "z0: got shape (4, 2), expected (B, 3)"),
    "z0 a path": (lambda: USER.transport(Z[None], 0, 2), ValueError, "z0: got shape (1, 4, 3), expected (B, dim)"),
    "z0 not finite": (
        lambda: FLOW.transport(spoiled(Z, 2), 0, 2),
        ValueError,
        "z0: got 1 non-finite values in samples [2], expected finite numbers",
    ),
    "many not finite": (
        lambda: FLOW.transport(spoiled(randn(20, 3), *range(20)), 0, 2),
        ValueError,
        "z0: got 20 non-finite values in samples [0, 1, 2, 3, 4, 5, 6, 7, ... 20 in all]",
    ),
    "z_T not finite": (lambda: FLOW.inverse(spoiled(Z, 0), 0, 2), ValueError, "z_T: got 1 non-finite"),
    "z_T not finite for log_prob": (lambda: FLOW.log_prob(spoiled(Z, 0), Q, 0, 2), ValueError, "z_T: got 1 non-finite"),
    "path not finite": (
        lambda: PRIOR.log_prob(replaced(z=spoiled(PATH.z, 1))),
        ValueError,
        "path.z: got .* in samples [1]",
    ),
    "z of another dtype": (lambda: P(Z.float(), 1.0), TypeError, "z: got dtype torch.float32, expected torch.float64"),
    "z integer": (lambda: P(Z.long(), 1.0), TypeError, "z: got dtype torch.int64"),
    "z of another dim": (lambda: P(Z[:, :2], 1.0), ValueError, "z: got shape (4, 2), expected (..., 3)"),
    "z without axes": (lambda: P(Z[0, 0], 1.0), ValueError, "z: got shape ()"),
    "z without axes for a user": (
        lambda: HJConstraint(USER.potential).residual(Z[0, 0], 1.0),
        ValueError,
        "z, t: got shapes () and ()",
    ),
    "weights for labels in the first derivatives": (
        lambda: P.first_derivatives(Z, 1.0, rand(4, 2)),
        TypeError,
        "k: got torch.float64, expected an index or labels; weigh",
    ),
    "a switch for an index in the first derivatives": (
        lambda: P.first_derivatives(Z, 1.0, True),
        TypeError,
        "k: got True (bool), expected an index, labels",
    ),
    "a name for an index in the first derivatives": (
        lambda: P.first_derivatives(Z, 1.0, "x"),
        TypeError,
        "k: got 'x' (str), expected an index, labels",
    ),
    "first derivatives at a list": (lambda: P.first_derivatives([1.0], 1.0), TypeError, "z: got list"),
    "no substeps in a log-determinant": (
        lambda: P.log_det(Z, 1.0, 0, substeps=0),
        ValueError,
        "substeps: got 0, expected at least 1",
    ),
    "integer weights of a variance": (
        lambda: PRIOR.variance(torch.ones(4, 2, 2, dtype=torch.int64)),
        TypeError,
        "weights: got dtype torch.int64, expected a floating dtype",
    ),
    "listed weights of a variance": (lambda: PRIOR.variance([[[1.0, 0.0]]]), TypeError, "weights: got list"),
    "residual of a list": (lambda: HJConstraint(P).residual([1.0], 1.0), TypeError, "z: got list"),
    "residual not finite": (
        lambda: HJConstraint(P).residual(spoiled(Z, 3), 1.0),
        ValueError,
        "z: got 1 .* in samples [3]",
    ),
    "initial not finite": (
        lambda: HJConstraint(P).initial(spoiled(Z, 3)[3]),
        ValueError,
        "z: got 1 non-finite values, expected",
    ),
    # time
    "t of another shape": (lambda: P(Z, torch.zeros(3)), ValueError, "t: got shape (3,), expected a scalar or (4,)"),
    "t with too many axes": (lambda: P(Z, torch.zeros(4, 1)), ValueError, "t: got shape (4, 1)"),
    "t of another shape for a user": (
        lambda: HJConstraint(USER.potential).residual(Z, torch.zeros(3)),
        ValueError,
        "z, t: got shapes (4, 3) and (3,)",
    ),
    "flow without steps": (lambda: FLOW(Q, 0), TypeError, "steps: got None"),
    "what a selector returns, not unpacked": (
        acting(weights=(rand(4, 2), rand(4, 2))),
        TypeError,
        "weights: got tuple, expected a floating tensor; unpack what a selector returns",
    ),
    "weights of one sample": (acting(weights=rand(2)), ValueError, "weights: got shape (2,), .* weights.expand(4, -1)"),
}


def replaced(**fields):
    return dataclasses.replace(PATH, **fields)


@pytest.mark.parametrize(
    ("fields", "bound", "said"),
    [
        ({"z": PATH.z[:2]}, "marginal", r"path: got z of 2 samples and weights of 4, expected as many"),
        (
            {"z": PATH.z[:2], "weights": PATH.weights[:2]},
            "marginal",
            r"path.log_q: got shape \(4, 3\), expected \(2, 3\)",
        ),
        ({"log_q": PATH.log_q[:, :2]}, "marginal", r"path.log_q: got shape \(4, 2\), expected \(4, 3\)"),
        (
            {"z": PATH.z[:2], "weights": PATH.weights[:2], "log_q": PATH.log_q[:2]},
            "initial",
            r"path.q0: got shape \(4,\), expected \(2,\); cut or replace it together with path.z",
        ),
    ],
)
def test_what_is_cut_of_a_path_is_cut_of_all_of_it(fields, bound, said):
    with pytest.raises(ValueError, match=said):
        flow_kl(replaced(**fields), PRIOR, bound=bound)
    if "q0" not in said:
        with pytest.raises(ValueError, match=said):
            HJConstraint(P)(replaced(**fields))


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_say_got_expected_and_the_fix(name):
    check_message(*MISTAKES[name])


@pytest.mark.parametrize("substeps", [1, 3])
def test_explosions_name_step_and_samples(substeps):
    class Blast(torch.nn.Module):
        """Only latents beyond 1 explode, and only from the second step on."""

        def forward(self, z, t):
            return (
                (z.clamp_min(1).sum(-1) * torch.where(t > 1, math.inf, 0.0)).nan_to_num(posinf=math.inf).unsqueeze(-1)
            )

    z0 = torch.tensor([[0.0], [2.0], [0.5], [3.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"z: got non-finite latents in samples \[1, 3\].* they appeared in step 2"):
        FlowPosterior(Blast(), None, substeps=substeps).transport(z0, 0, 4)
