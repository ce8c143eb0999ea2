"""In the terms of the objective."""

from __future__ import annotations

from .error import Error, errors_in

_constraint = errors_in("latentflow/constraint.py", "constraint")
_hamilton_jacobi = errors_in("latentflow/hamilton_jacobi.py", "written_out", "rollout", "constraint")
_prior = errors_in("latentflow/prior.py", "prior", "state")
_heat = errors_in("latentflow/heat.py", "prior", "state", "written_out")
_selector = errors_in("latentflow/selector.py", "selector", "state")
_objective = errors_in("latentflow/objective.py", "objective", "metrics_evidence", "density", "bad_settings")

ERRORS = (
    _constraint(
        "mean for sum in the gradient's square",
        "left = rate + 0.5 * gradients.square().sum(-1)",
        "left = rate + 0.5 * gradients.square().mean(-1)",
    ),
    _hamilton_jacobi(
        "missing factor ½ in the Hamilton-Jacobi equation",
        "torch.add(derivative, squared, alpha=0.5)",
        "torch.add(derivative, squared)",
    ),
    _constraint("missing factor ½ in the residual", "rate + 0.5 * gradients.square()", "rate + gradients.square()"),
    _constraint(
        "sum for mean over the steps", "(weights * penalty).sum((1, 2)) / z.shape[1]", "(weights * penalty).sum((1, 2))"
    ),
    _constraint(
        "the residual of the mixture, not the mixture of the residuals",
        "(weights * penalty).sum((1, 2)) / z.shape[1]",
        "(weights * penalty.sqrt()).sum(2).square().sum(1) / z.shape[1]",
    ),
    _constraint(
        "the initial term keeps the last potential only",
        "torch.add(total, initial.sum(-1), alpha",
        "torch.add(total, initial[..., -1], alpha",
    ),
    _constraint(
        "sign of the force",
        "        return left - force, force\n\n    def _initial",
        "        return left + force, force\n\n    def _initial",
    ),
    _constraint(
        "sign of the price on the force",
        "torch.sub(penalty, force, alpha",
        "torch.add(penalty, force, alpha",
    ),
    _constraint("times are drawn from the step after", "t = path.times[1:] - cell", "t = path.times[1:] + cell"),
    _prior(
        "shared weights share a gradient inside of two transforms",
        "not (weights.requires_grad or transformed())",
        "not weights.requires_grad",
    ),
    _prior(
        "D is not registered",
        "self.raw = nn.Parameter(start.expand(num).clone())",
        "self.raw = start.expand(num).clone()",
    ),
    _heat(
        "D at 0 receives no gradient",
        "torch.where(raw < 0, grad.clamp_max(0), grad)",
        "torch.where(raw > 0, grad, torch.zeros_like(grad))",
    ),
    _heat("D may become negative", "diffusion = projected(raw)", "diffusion = raw"),
    _heat("missing factor 2 in the heat equation's variance", "time + time)", "time)"),
    _heat(
        "the logarithm of the variance counts once, not in each dimension",
        "variance.log() + 1.8378770664093453, alpha=dim)",
        "variance.log() / dim + 1.8378770664093453, alpha=dim)",
    ),
    _heat(
        "the variance is taken for the standard deviation",
        "ratio = z.square().sum(-1) / widened",
        "ratio = z.square().sum(-1) / widened**2",
    ),
    _heat(
        "D learns from the last step only", "by_acting.flatten()", "by_acting[..., -1:].expand_as(by_acting).flatten()"
    ),
    _selector("Gumbel noise at evaluation", "if not self.training:", "if False:"),
    _selector("sign of the Gumbel noise", "scores = logits + gumbel", "scores = logits - gumbel"),
    _selector(
        "the temperature is not saved",
        'self.register_buffer("temperature", torch.tensor(self.start, device=device, dtype=dtype))',
        'self.register_buffer("temperature", torch.tensor(self.start, device=device, dtype=dtype), persistent=False)',
    ),
    _selector("the temperature has no minimum", "max(self.minimum, self.start *", "max(0.0, self.start *"),
    _selector(
        "the straight-through gradient is missing", "_one_hot(scores) + (soft - soft.detach())", "_one_hot(scores)"
    ),
    _selector("rounding at a huge temperature chooses", "_one_hot(scores) +", "_one_hot(soft) +"),
    _selector("sign of the KL of the choice", "(log_probability + math.log", "(-log_probability - math.log"),
    _selector("the KL of the choice is an entropy", "(log_probability + math.log(logits.shape[1]))", "log_probability"),
    _objective(
        "the shape of a prior's answer is not looked at",
        'require_shape("prior.log_prob(path)", log_p, path.z.shape[:2]',
        'require_shape("prior.log_prob(path)", log_p, log_p.shape',
    ),
    _objective("sign of the KL along the flow", "_finite((log_q - log_p).sum(1))", "_finite((log_p - log_q).sum(1))"),
    _objective(
        "the KL along the flow leaves out the start",
        "(log_q - log_p).sum(1)",
        "(log_q - log_p)[:, 1:].sum(1)",
    ),
    _objective(
        "the KL of q0 is reversed",
        "normal.loc.square() + normal.scale.square() - 1, normal.scale.log(), alpha=-2",
        "(1 + normal.loc.square()) / normal.scale.square() - 1, normal.scale.log(), alpha=2",
    ),
    Error(
        "a force that pushes up is taken",
        "latentflow/constraint.py",
        "~(force > 0),",
        "force == force,",
        ("bad_settings",),
    ),
    Error(
        "a hook on the latents does not see the constraint",
        "latentflow/constraint.py",
        "and not watched(path.z)",
        "and True",
        ("rollout_changes",),
    ),
    Error(
        "all latents share the force of the first one",
        "latentflow/constraint.py",
        "k = k.expand(z.shape[:2]) if isinstance(k, Tensor) else k",
        "k = k",
        ("constraint",),
    ),
)
