"""In potentials, their derivatives and log-determinants."""

from __future__ import annotations

from .error import Error, errors_in

_closed_form = errors_in("latentflow/closed_form.py", "derivatives", "logdet")
_derivatives = errors_in("latentflow/derivatives.py", "derivatives", "acting", "posterior", "rollout_changes")
_potential = errors_in("latentflow/potential.py", "potential", "derivatives")
_force = errors_in("latentflow/force.py", "potential")
_answers = errors_in("latentflow/answers.py", "potential", "derivatives")
_tanh = errors_in("latentflow/tanh.py", "logdet", "derivatives", "rollout")
_hessian_product = errors_in("latentflow/hessian_product.py", "logdet", "derivatives", "rollout")
_time_branch = errors_in("latentflow/time_branch.py", "potential", "derivatives", "written_out")
_validate = errors_in("latentflow/validate.py", "derivatives")
_values = errors_in("latentflow/values.py", "written_out", "rollout")
_logdet = errors_in("latentflow/logdet.py", "logdet")
_curvature = errors_in("latentflow/curvature.py", "logdet", "rollout")
_euler = errors_in("latentflow/euler.py", "logdet", "solvers")
_ode = errors_in("latentflow/ode.py", "solvers", "solver_settings", "logdet")
_forward_mode = errors_in("latentflow/contexts.py", "logdet")
_precision = errors_in("latentflow/precision.py", "written_out", "example_train")

ERRORS = (
    _closed_form(
        "the Laplacian is made of the row sums of the Hessian",
        "trace = (outer * self._layers(weight).square().sum(-1)).sum(-1)",
        "trace = (outer * self._layers(weight).sum(-1).square()).sum(-1)",
    ),
    _closed_form(
        "many Hessians have the second layer transposed",
        "middle.mT[..., None] * basis[:, :, None]",
        "middle[..., None] * basis[:, :, None]",
    ),
    _derivatives(
        "the Laplacian of a user's potential is made of the row sums of the Hessian",
        ".diagonal(dim1=-2, dim2=-1).sum(-1)",
        ".sum((-2, -1))",
    ),
    _closed_form(
        "the time derivative is summed over the batch",
        "return derivative if self.slope is None else self.slope.squeeze(-1) * derivative",
        "return derivative.sum(1, keepdim=True).expand_as(derivative)",
    ),
    _derivatives(
        "the time derivative of a user's potential is summed over the batch",
        "time_derivatives = torch.stack([rate for _, rate in pulled], 1)",
        "time_derivatives = torch.stack([rate.sum().expand_as(rate) for _, rate in pulled], 1)",
    ),
    _closed_form(
        "a Hessian block is transposed",
        "scaled = middle[:, None] *",
        "scaled = middle.mT[:, None] *",
    ),
    _hessian_product(
        "a block of the Hessian product is transposed",
        "bent = torch.bmm(inner, hidden_weight.mT)",
        "bent = torch.bmm(inner, hidden_weight)",
    ),
    _tanh(
        "the bend of the output tanh has the wrong sign",
        "return slope, -2 * y * slope",
        "return slope, 2 * y * slope",
    ),
    _closed_form(
        "a Hessian of substeps is not divided by their number",
        "scale = self.first.new_full((), 1 / substeps) if scale is None else scale / substeps",
        "scale = scale",
    ),
    _derivatives(
        "labels take the weights of another column",
        "return u.gather(1, active[:, None]).squeeze(1)",
        "return u.gather(1, (active[:, None] + 1) % u.shape[1]).squeeze(1)",
    ),
    _derivatives(
        "the log-determinant of a substep of any module is that of a whole step",
        "logdet.exact(hessian(potential, z, t, active) / substeps)",
        "logdet.exact(hessian(potential, z, t, active))",
    ),
    _potential(
        "the log-determinant of a substep is that of a whole step",
        "answers.local.log_det(answers.weights, substeps)",
        "answers.local.log_det(answers.weights)",
    ),
    _validate(
        "labels out of range are taken for others",
        "if low < 0 or high >= num:",
        "if high > num:",
    ),
    _validate(
        "weights of as many numbers are taken for those of other latents",
        "if not broadcasts(active.shape, shape) or",
        "if active.numel() % (num if weighted else 1) or",
    ),
    _time_branch(
        "the time embedding's derivative lacks the frequencies",
        "torch.cat((halves * cos, -halves * sin), -1)",
        "torch.cat((0.5 * cos, -0.5 * sin), -1)",
    ),
    _time_branch(
        "the derivative of GELU lacks its second half",
        "excess = torch.addcmul(error, pre, decay, value=1.1283791670955126)",
        "excess = error",
    ),
    _time_branch(
        "the slope of GELU changes as the density does",
        "square[:, count - rated :], value=-1)",
        "square[:, count - rated :], value=-2)",
    ),
    _time_branch(
        "the first bias of the time branch forgets that it is scaled",
        "by_pre.sum(1) * 0.7071067811865476",
        "by_pre.sum(1)",
    ),
    _values(
        "the adjoint of the values leaves the output tanh out",
        "by_values = by_values * slope_of(found)",
        "by_values = by_values * 1",
    ),
    _precision(
        "a backward pass runs in half precision", "return torch.autocast(device, enabled=False)", "return nullcontext()"
    ),
    _answers(
        "each group takes the time of the first latent",
        "own = layout.rows[..., None]",
        "own = (layout.rows * 0)[..., None]",
    ),
    _force("the force pushes upwards", "return -(root if", "return (root if"),
    _potential(
        "derivatives ask another embedding than the values",
        "Answers.of(self.embedding(t)",
        "Answers.of(Potential.embedding(self, t)",
    ),
    _potential(
        "parameters are drawn from a narrower range",
        "-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)",
        "-1 / fan_in, 1 / fan_in",
    ),
    _euler(
        "the Hessian of a substep of any potential is that of a whole step",
        "derivatives.log_det(*here, substeps=substeps)",
        "derivatives.log_det(*here)",
    ),
    _ode(
        "the divergence of an ODE is estimated of what acts in its first step",
        "derivatives.hessian_product(potential, z, t, what.at(step), probe)",
        "derivatives.hessian_product(potential, z, t, what.at(0), probe)",
    ),
    _ode(
        "the probe along an ODE does not come from the generator",
        "logdet.rademacher(z0, generator)",
        "logdet.rademacher(z0)",
    ),
    _logdet("folds are not seen", "folds = info != 0", "folds = info > info"),
    _logdet(
        "missing factor ½ in the second-order expansion", "torch.sub(probe, product, alpha=0.5)", "(probe - product)"
    ),
    _logdet("eq. 10 takes the absolute value first", "(1 + trace).abs().log()", "trace.abs().log1p()"),
    _logdet(
        "probes are Gaussian, not Rademacher",
        "found = top.bitwise_or_(0x3F800000).view(torch.float32)",
        "found = torch.randn(top.shape)",
    ),
    _logdet(
        "folded samples get the log-determinant of a neighbour",
        "_through_qr(matrices.index_select(0, folded))",
        "_through_qr(matrices.index_select(0, folded)).flip(0)",
    ),
    _curvature(
        "missing factor 2 in the gradient of the log-determinant",
        "by_basis = 2 * torch.matmul(weighted, basis[..., None]).squeeze(-1)",
        "by_basis = torch.matmul(weighted, basis[..., None]).squeeze(-1)",
    ),
    _closed_form(
        "second derivatives of a log-determinant are those of a fixed basis",
        "if reduced and torch.is_grad_enabled() and not torch.compiler.is_compiling():",
        "if False:",
    ),
    _closed_form(
        "inside of torch.func a basis is taken to be fixed",
        "reduced = smaller and not transformed()",
        "reduced = smaller",
    ),
    _curvature(
        "many gradients at once are written to where one is",
        "unrecorded() and not more_is_asked((grad[..., 0],))",
        "unrecorded()",
    ),
    _forward_mode(
        "forward mode is not seen", "not torch.compiler.is_compiling() and forward_ad._current_level >= 0", "False"
    ),
    _derivatives(
        "a force is taken for ours whatever its hooks say",
        "isinstance(force, NegativeForce) and _is_bare(force, NegativeForce)",
        "isinstance(force, NegativeForce)",
    ),
    Error(
        "a potential that forgets an axis of its times is taken",
        "latentflow/derivatives.py",
        "if of_one.shape[1] != before.shape[1]:",
        "if False:",
        ("bad_settings",),
    ),
    Error(
        "a Hessian under autocast is one of half precision",
        "latentflow/potential.py",
        "    @in_own_precision\n    def hessian(",
        "    def hessian(",
        ("potential",),
    ),
    Error(
        "a potential that answers at random is taken",
        "latentflow/derivatives.py",
        "(before - after).abs() >",
        "(before - before).abs() >",
        ("wrong_objects",),
    ),
    Error(
        "a potential that answers in another precision is taken",
        "latentflow/derivatives.py",
        "if u.dtype != rows.dtype:",
        "if not u.is_floating_point():",
        ("wrong_objects",),
    ),
    Error(
        "the way back waits for the device",
        "latentflow/logdet.py",
        "if may_read(factor):",
        "if True:",
        ("validate",),
    ),
    _derivatives(
        "a subclass keeps its closed form whatever part of it is replaced",
        "(type(module) is kind or not _changes(type(module), kind))",
        "type(module).forward is kind.forward",
    ),
    Error(
        "nobody may write to the log-determinant of a narrow network",
        "latentflow/closed_form.py",
        "return value.clone()",
        "return value.view_as(value)",
        ("rollout_changes",),
    ),
)
