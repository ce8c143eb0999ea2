"""The list of `planted.py`: mistakes that somebody could make, and the tests that have to notice.

An error is a text that occurs exactly once in a file, what it is replaced by, and the test files that have to notice. If a
refactoring takes the text away, the script and tests/test_planted.py say so; an error never quietly stops being planted.
"""

from __future__ import annotations

from typing import NamedTuple


class Error(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # the quickest first

    def planted_in(self, text: str) -> str:
        """The file's text with the error in it."""
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: got {text.count(self.old)} times {self.old!r} in {self.file}, expected once; write it anew"
            )
        return text.replace(self.old, self.new)


def _in(file: str, *tests: str):
    """The errors of a file that the same tests have to notice."""
    return lambda name, old, new: Error(name, file, old, new, tests)


_closed_form = _in("latentflow/closed_form.py", "derivatives", "logdet")
_derivatives = _in("latentflow/derivatives.py", "derivatives", "acting", "posterior", "rollout")
_potential = _in("latentflow/potential.py", "potential", "derivatives")
_solvers = _in("latentflow/solvers.py", "posterior", "solvers")
_inverse = _in("latentflow/solvers.py", "inverse")
_posterior = _in("latentflow/posterior.py", "logdet", "density", "posterior")
_path = _in("latentflow/path.py", "logdet", "density", "posterior")
_volume = _in("latentflow/volume.py", "logdet", "solvers")
_rollout = _in("latentflow/rollout.py", "rollout", "constraint")
_sweep = _in("latentflow/sweep.py", "written_out", "rollout", "constraint")
_penalty = _in("latentflow/penalty.py", "written_out", "rollout", "constraint")
_stack = _in("latentflow/stack.py", "layout", "written_out", "rollout")
_layout = _in("latentflow/layout.py", "layout", "written_out")
_groups = _in("latentflow/groups.py", "layout")
_hessian_product = _in("latentflow/hessian_product.py", "logdet", "derivatives", "rollout")
_hutchinson = _in("latentflow/hutchinson.py", "written_out", "rollout")
_hamilton_jacobi = _in("latentflow/hamilton_jacobi.py", "written_out", "rollout", "constraint")
_time_branch = _in("latentflow/time_branch.py", "potential", "derivatives", "written_out")
_values = _in("latentflow/values.py", "written_out", "rollout")
_written_out = _in("latentflow/written_out.py", "written_out", "example_train")
_precision = _in("latentflow/precision.py", "written_out", "example_train")
_traced = _in("latentflow/written_out.py", "layout")
_product = _in("latentflow/product.py", "written_out", "rollout")
_trajectory = _in("latentflow/trajectory.py", "written_out", "rollout")
_trajectory_adjoint = _in("latentflow/trajectory_adjoint.py", "written_out", "rollout")
_compiled = _in("latentflow/trajectory_adjoint.py", "compile")
_validate = _in("latentflow/validate.py", "derivatives")
_constraint = _in("latentflow/constraint.py", "constraint")
_prior = _in("latentflow/prior.py", "prior", "state")
_heat = _in("latentflow/heat.py", "prior", "state", "written_out")
_selector = _in("latentflow/selector.py", "selector", "state")
_errors = _in("latentflow/metrics/errors.py", "metrics")
_likelihoods = _in("latentflow/metrics/likelihoods.py", "metrics")
_evidence = _in("latentflow/metrics/evidence.py", "metrics", "metrics_evidence")
_interventions = _in("latentflow/metrics/interventions.py", "metrics_codes")
_codes = _in("latentflow/metrics/codes.py", "metrics_codes")
_variation = _in("latentflow/metrics/variation.py", "metrics_variation")
_logdet = _in("latentflow/logdet.py", "logdet")
_curvature = _in("latentflow/curvature.py", "logdet", "rollout")
_objective = _in("latentflow/objective.py", "objective", "metrics_evidence", "density")
_initial = _in("latentflow/initial.py", "posterior")
_forward_mode = _in("latentflow/written_out.py", "logdet")
_states = _in("latentflow/states.py", "rollout")
_acting = _in("latentflow/acting.py", "acting", "inverse", "solvers")

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
    _hutchinson(
        "the adjoint of the Hessian product takes the wrong slope of the second layer",
        "by_gate.lerp_(through_tanh(by_gate, second), 3)",
        "by_gate.lerp_(through_tanh(by_gate, second), 2)",
    ),
    _hutchinson(
        "the adjoint of the estimate forgets how the bend of the output tanh changes",
        "by_value = (6 * value.square() - 2) * turned * tilt",
        "by_value = torch.zeros_like(tilt)",
    ),
    _hessian_product(
        "the bend of the output tanh has the wrong sign",
        "return slope, -2 * value * slope",
        "return slope, 2 * value * slope",
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
        "local.log_det(weights, substeps)",
        "local.log_det(weights)",
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
    _written_out(
        "an input made of another one sends its gradient on to that",
        "x.view_as(x) if isinstance(x, Tensor) else x for x in inputs",
        "x for x in inputs",
    ),
    _potential("the force pushes upwards", "return -(root if", "return (root if"),
    _potential(
        "parameters are drawn from a narrower range",
        "-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)",
        "-1 / fan_in, 1 / fan_in",
    ),
    _solvers("off by one in t", 'offset = 1 if label == "end" else 0', 'offset = 0 if label == "end" else 1'),
    _solvers(
        "a substep is as long as a step",
        "z = z + field(z, t, substep // substeps) / substeps",
        "z = z + field(z, t, 0)",
    ),
    _solvers(
        "the Laplacian is integrated along a path that stands still",
        "else (motion, divergence(state[0], t, step))",
        "else (motion, divergence(z, t, step))",
    ),
    _inverse(
        "preimages are not verified",
        "~(residual.norm(dim=1) <= tolerance)",
        "torch.zeros_like(info, dtype=torch.bool)",
    ),
    _inverse("a preimage is any stationary point, folded or not", "unfinished = folded | wrong", "unfinished = wrong"),
    _path(
        "sign of the log-determinant along the path",
        "torch.cat((start[:, None], -log_det), 1).cumsum(1)",
        "torch.cat((start[:, None], log_det), 1).cumsum(1)",
    ),
    _posterior("sign of the log-determinant in log_prob", "z0) - log_det.sum(1)", "z0) + log_det.sum(1)"),
    _path(
        "each density takes the log-determinant of its own step only",
        "torch.cat((start[:, None], -log_det), 1).cumsum(1)",
        "torch.cat((start[:, None], start[:, None] - log_det), 1)",
    ),
    _posterior(
        "the sum of the log-determinants of substeps is their mean",
        "value.view(per_step).sum(2)",
        "value.view(per_step).mean(2)",
    ),
    _posterior("folds in all substeps count, not in any", "folds.view(per_step).any(2)", "folds.view(per_step).all(2)"),
    _volume(
        "the Hessian of a substep of any potential is that of a whole step",
        "derivatives.log_det(*here, substeps=substeps)",
        "derivatives.log_det(*here)",
    ),
    _volume(
        "the divergence of an ODE is estimated of what acts in its first step",
        "derivatives.hessian_product(potential, z, t, what.at(step), probe)",
        "derivatives.hessian_product(potential, z, t, what.at(0), probe)",
    ),
    _volume(
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
    _groups(
        "rows of other samples come back",
        "place[sample] = row",
        "place[sample] = len(labels) - 1 - row if len(rows) == len(labels) else row",
    ),
    _groups(
        "the second group of a label is moved by the next network",
        "networks += [label] * groups",
        "networks += [(label + n) % len(counts) for n in range(groups)]",
    ),
    _groups(
        "rows of other samples come back where labels are even",
        "_integers(rows).view(-1, size)",
        "_integers(rows).view(size, -1).T",
    ),
    _groups(
        "a group of labels that are read is filled up with samples of others",
        "rows += [samples[start]] * (groups * size - count)",
        "rows += [samples[0]] * (groups * size - count)",
    ),
    _groups(
        "labels that are not read find no room where all are unlike but one",
        "(batch + min(num, batch) * (size - 1)) // size",
        "(batch + (min(num, batch) - 1) * (size - 1)) // size",
    ),
    _groups("a group takes the network of the one before", "[:, None] >= end", "[:, None] > end"),
    _groups(
        "a group is filled up with samples of others",
        "sample.minimum(last_sample[networks][:, None])",
        "sample.clamp_max(batch - 1)",
    ),
    _layout(
        "log-determinants of a network in parts come back in another order",
        ".transpose(0, 1).reshape(1, -1, x.shape[-1])",
        ".reshape(1, -1, x.shape[-1])",
    ),
    _layout(
        "gradients of even labels come back to other samples",
        "by.index_select(0, self.place)",
        "by[self.rows.flatten()]",
    ),
    _layout(
        "gradients of even labels go to rows of other samples",
        "by.index_select(0, self.rows.flatten())",
        "by[self.place]",
    ),
    _layout(
        "of a sample in several rows all learn from what one has said",
        "by.new_zeros(self.rows.numel(), *by.shape[1:]).index_copy(0, self.place, by)",
        "by[self.rows.flatten()]",
    ),
    _layout(
        "of a sample in several rows the last alone is learned from",
        ".index_add(0, self.rows.flatten(), by)",
        ".index_copy(0, self.rows.flatten(), by)",
    ),
    _written_out(
        "what is to be differentiated once more goes past autograd",
        "return torch._C._AutoDispatchBelowADInplaceOrView() if unrecorded() else nullcontext()",
        "return torch._C._AutoDispatchBelowADInplaceOrView()",
    ),
    _traced(
        "a graph that is traced writes in place of what it needs a gradient of",
        "return torch._C._len_torch_dispatch_stack() == 0",
        "return True",
    ),
    _layout("labels that are not read pay for all networks", "if unread is not None:", "if False:"),
    _stack("the gradient of one network goes to another", "k, num - k - 1", "0, num - 1"),
    _stack("of a network in parts the first is learned from", "else x.sum(0, keepdim=True)", "else x[:1]"),
    _stack("of two groups of a network one is learned from", ".index_add_(", ".index_copy_("),
    _product("what a product is added to is lost", "return x.baddbmm_(left, right)", "return torch.bmm(left, right)"),
    _sweep(
        "a gradient that others hold is written to",
        "by_first = by_first.clone(memory_format=torch.contiguous_format)",
        "by_first = by_first.contiguous()",
    ),
    _sweep(
        "the initial term is a mean over dimensions",
        "squared[:, :size], left, log_det",
        "squared[:, :size] / rows.shape[2], left, log_det",
    ),
    _sweep(
        "each network of a mixture is held to the equation of the whole",
        "of_steps = squared[:, size:] if each is None else each.square().sum(-1)",
        "of_steps = found.gradients[:, size:].square().sum(-1)",
    ),
    _sweep(
        "the equation of a mixture's networks forgets how their output tanh changes",
        "by_value = torch.addcmul(by_value, value, (by_p * p).sum(-1, keepdim=True), value=-2)",
        "pass",
    ),
    _rollout("the potentials change as they did a step before", "rates[1:]", "rates[:-1]"),
    _penalty(
        "the initial term of a mixture takes the weights of the last step",
        "(at_0 * weights[:, 0])",
        "(at_0 * weights[:, -1])",
    ),
    _penalty(
        "the force pulls where it is evaluated with the path",
        "residual = torch.addcmul(left, root, root)",
        "residual = torch.addcmul(left, root, root, value=-1)",
    ),
    _penalty(
        "the price on the force is paid but not learned from",
        "by_square = by_left if price == 0 else torch.add(by_left, by_each, alpha=price)",
        "by_square = by_left",
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
    _states("what was written to is taken for what it was", "0 if x.is_inference() else x._version", "0"),
    _states("parameters that learn again are taken for those that did not", "x.requires_grad,", "True,"),
    _states("other numbers in the same parameter are not noticed", "x.data_ptr() if not wrapped", "0 if not wrapped"),
    _derivatives(
        "a force is taken for ours whatever its hooks say",
        "isinstance(force, NegativeForce) and _is_bare(force, NegativeForce)",
        "isinstance(force, NegativeForce)",
    ),
    _evidence(
        "a frame that is forgotten is not missed",
        "yield path, _of_frames(log_likelihood(path.z), path)",
        "yield path, log_likelihood(path.z)",
    ),
    _rollout(
        "a path is taken for what it was before it was written to",
        "states(*potential.tensors(), z)",
        "self.state[:-1] + states(z)",
    ),
    _rollout(
        "a path is taken for that of parameters that have changed since",
        "return self.state == states(",
        "return True or self.state == states(",
    ),
    _trajectory_adjoint(
        "the adjoint forgets what later steps say",
        "y = torch.addcmul(y, add_product(",
        "y = torch.addcmul(torch.zeros_like(y), add_product(",
    ),
    _trajectory_adjoint(
        "half of the gradient of A Aᵀ is missing",
        ".add_(coupling.motion(by_moved[:, size:]))",
        ".add_(0)",
    ),
    _trajectory_adjoint(
        "time 0 hears what the first step says of its gradient",
        "torch.cat((by.squared_at_0, by.squared), 1)",
        "torch.cat((by.squared[:, :size], by.squared), 1)",
    ),
    _trajectory_adjoint("of few rows the second layer hears nothing of the time", "at_times(first, tau))", "first)"),
    _trajectory_adjoint(
        "later latents of the path send nothing back",
        "block.add_(later)",
        "pass",
    ),
    _product(
        "of few rows the first is forgotten",
        "return functools.reduce(torch.add, x.unbind(2))",
        "return functools.reduce(torch.add, x.unbind(2)[-2:])",
    ),
    _trajectory_adjoint(
        "the first tanh hears nothing of time 0 through the second",
        " + at_second(0, through_q_0, at_2_0)",
        "",
    ),
    _trajectory_adjoint(
        "the first tanh hears nothing of time 0 directly",
        "y = torch.addcmul(y, by_p_0, known[0].bend_1, value=-2)",
        "pass",
    ),
    _trajectory(
        "step 2 starts from how time 0 would move",
        "both.transpose(0, 1).flatten(1, 2), active)[:, size:]",
        "both.transpose(0, 1).flatten(1, 2), active)[:, :size]",
    ),
    _compiled(
        "an encoder hears nothing of the last latent where the loss is compiled",
        "return starts.sum(1) + end,",
        "return starts.sum(1),",
    ),
    _trajectory_adjoint(
        "where the force pulls sends nothing back",
        "if by_starts is not None:",
        "if False:",
    ),
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
        'self.register_buffer("temperature", torch.tensor(self.start))',
        'self.register_buffer("temperature", torch.tensor(self.start), persistent=False)',
    ),
    _selector("the temperature has no minimum", "max(self.minimum, self.start *", "max(0.0, self.start *"),
    _selector("the straight-through gradient is missing", "_one_hot(soft) + (soft - soft.detach())", "_one_hot(soft)"),
    _selector("sign of the KL of the choice", "(log_probability + math.log", "(-log_probability - math.log"),
    _selector("the KL of the choice is an entropy", "(log_probability + math.log(logits.shape[1]))", "log_probability"),
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
    _evidence(
        "the estimate of a frame has the authors' sign", 'if estimator == "authors"', 'if estimator != "authors"'
    ),
    _evidence("the mean of weights for the logarithm of their mean", 'if estimator == "iwae" else', "if False else"),
    _interventions("all factors but one are held", "== which[:, None, None]", "!= which[:, None, None]"),
    _interventions("variances are not compared with those of all settings", " / overall[active]", ""),
    _interventions(
        "votes are judged by themselves", "votes(train).argmax(0), votes(test)", "votes(test).argmax(0), votes(test)"
    ),
    _interventions(
        "points are judged by themselves",
        "model.score(*(x.numpy() for x in judged))",
        "model.score(*(x.numpy() for x in learned))",
    ),
    _codes("the gap to the worst dimension", "best[-1] - best[-2]", "best[-1] - best[0]"),
    _codes("the information is not a share of the entropy", "_gap(found) / entropy", "_gap(found)"),
    _codes(
        "disentanglement for completeness",
        "_one_sided(importance), _one_sided(importance.mT)",
        "_one_sided(importance.mT), _one_sided(importance)",
    ),
    _codes("accuracy of what was learned", "model.score(test_x, test_factor)", "model.score(x, factor)"),
    _variation("judged by what was learned", "seen, labels, test)", "seen, labels, train)"),
    _variation("the network sees the first image only", "first - last if", "first if"),
    _variation("the last accuracy for the best", "max(accuracies), accuracies[-1]", "accuracies[-1], max(accuracies)"),
    _errors("T-1 steps in the error", "(target - decoded)[:, 1:]", "(target - decoded)[:, 1:-1]"),
    _errors("mean for sum over the pixels", ".abs().flatten(1).sum(1)", ".abs().flatten(2).mean(2).sum(1)"),
    _evidence(
        "sign of the KL in the bound",
        "of_frames(log_likelihood, path).sum(1) - flow_kl",
        "of_frames(log_likelihood, path).sum(1) + flow_kl",
    ),
    _evidence(
        "the mean of the samples' bounds, not their logarithmic sum",
        ".logsumexp(0) - math.log(len(samples))",
        ".mean(0)",
    ),
    _evidence("the bound over samples lacks log S", ".logsumexp(0) - math.log(len(samples))", ".logsumexp(0)"),
    _likelihoods(
        "missing factor ½ in the likelihood", "- 0.5 * (target - decoded).square()", "- (target - decoded).square()"
    ),
    _initial("the variance of q0 for its standard deviation", "(mean, std, noise)", "(mean, std.square(), noise)"),
    _initial("the density of the noise for that of z_0", "std.log(), alpha=2", "std.log(), alpha=0"),
    _initial("the generator of q0 is not used", "normal_(generator=generator)", "normal_()"),
    _initial(
        "q0 is drawn with torch's generator, which stays changed",
        "with torch.random.fork_rng(devices=range(torch.cuda.device_count())):",
        "if True:",
    ),
    _acting("switching is ignored", "return self.weights[:, step]", "return self.weights[:, 0]"),
    _acting("labels that switch are taken from the first step", "self.k[:, step]", "self.k[:, 0]"),
    Error(
        "factors carry into other factors",
        "examples/data/factors.py",
        "torch.where(runs[:, None], torch.arange(states)[:, None], values[:, None])",
        "values[:, None] + torch.where(runs[:, None], torch.arange(states)[:, None], 0)",
        ("example_factors",),
    ),
    Error(
        "learned indices are matched to the true ones that they are least often",
        "examples/evaluate.py",
        "linear_sum_assignment(-confusion.numpy())",
        "linear_sum_assignment(confusion.numpy())",
        ("example_evaluation",),
    ),
    Error(
        "the latent never moves in the evaluation",
        "examples/evaluate.py",
        "z, _ = model.flow.transport(q0.mean, steps=steps, **what)",
        "z = q0.mean[:, None].expand(-1, steps + 1, -1)",
        ("example_evaluation",),
    ),
    Error(
        "a potential that forgets an axis of its times is taken",
        "latentflow/derivatives.py",
        "if of_one != of_two:",
        "if False:",
        ("bad_settings",),
    ),
    Error(
        "an inverse is only half as precise without gradients",
        "latentflow/solvers.py",
        "for _ in range(2):  # two",
        "for _ in range(2 * torch.is_grad_enabled()):  # two",
        ("inverse",),
    ),
    Error(
        "the way back waits for the device",
        "latentflow/logdet.py",
        "if may_read(factor):",
        "if True:",
        ("validate",),
    ),
    Error(
        "a path of other lengths than its weights is taken",
        "latentflow/path.py",
        "not z[1] == weights[1] + 1 == times[0]",
        "False",
        ("constraint",),
    ),
    Error(
        "a force that pushes up is taken",
        "latentflow/constraint.py",
        "~(force > 0),",
        "force == force,",
        ("bad_settings",),
    ),
    Error(
        "a steep potential is taken for one with a kink",
        "latentflow/testing/potentials.py",
        "for pieces in (1, 4, 16, 64):",
        "for pieces in (1,):",
        ("testing",),
    ),
    Error(
        "extrapolation counts the steps that were trained",
        "examples/evaluate.py",
        "torch.cat((z[:, :1], z[:, steps + 1 :]), 1), torch.cat((x[:, :1], x[:, steps + 1 :]), 1)",
        "z, x",
        ("example_evaluation",),
    ),
)
