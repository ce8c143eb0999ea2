"""In flows: where they start, what acts, which networks see which samples, and how they are followed."""

from __future__ import annotations

from .error import Error, errors_in

_times = errors_in("latentflow/times.py", "posterior", "solvers")
_euler = errors_in("latentflow/euler.py", "posterior", "solvers")
_ode = errors_in("latentflow/ode.py", "posterior", "solvers", "solver_settings")
_inverse = errors_in("latentflow/euler.py", "inverse")
_substeps = errors_in("latentflow/euler.py", "logdet", "density", "posterior")
_posterior = errors_in("latentflow/posterior.py", "logdet", "density", "posterior")
_path = errors_in("latentflow/path.py", "logdet", "density", "posterior")
_initial = errors_in("latentflow/initial.py", "posterior")
_acting = errors_in("latentflow/acting.py", "acting", "inverse", "solvers")
_states = errors_in("latentflow/states.py", "rollout_changes")
_layout = errors_in("latentflow/layout.py", "layout", "written_out")
_groups = errors_in("latentflow/groups.py", "layout")
_stack = errors_in("latentflow/stack.py", "layout", "written_out", "rollout")
_traced = errors_in("latentflow/contexts.py", "layout")
_counted = errors_in("latentflow/contexts.py", "rollout_changes")
_finite = errors_in("latentflow/finite.py", "hard_cases")

ERRORS = (
    Error(
        "an inverse is only half as precise without gradients",
        "latentflow/euler.py",
        "return _to_within_rounding(gradient, hessian, y, x, residual, factor)",
        "return x, factor",
        ("inverse",),
    ),
    Error(
        "an inverse carries the tangents of its search as well",
        "latentflow/euler.py",
        "(found.detach() for found in _minimise(gradient, hessian, value, y, step))",
        "(found for found in _minimise(gradient, hessian, value, y, step))",
        ("inverse",),
    ),
    Error(
        "the refinement of an ODE's inverse carries tangents",
        "latentflow/ode.py",
        "start + (refined - start).detach()",
        "start + (refined - start.detach())",
        ("inverse",),
    ),
    Error(
        "gradients are lost in a solver without any",
        "latentflow/ode.py",
        'if method != "scipy_solver":',
        "if True:",
        ("inverse",),
    ),
    Error(
        "the batch of a path's weights is not looked at",
        "latentflow/path.py",
        "if weights[0] not in (1, z[0]):",
        "if False:",
        ("bad_input", "prior"),
    ),
    _inverse("the last step is taken wherever it leads", "taken = (info == 0) & (", "taken = (info == 0) | ("),
    _finite("what is singular gets a gradient", "folds is not None and not log_det.requires_grad", "folds is not None"),
    _times("off by one in t", 'offset = 1 if label == "end" else 0', 'offset = 0 if label == "end" else 1'),
    _euler(
        "a substep is as long as a step",
        "divided(derivatives.gradient(potential, z, t, what.at(substep // substeps)), substeps)",
        "derivatives.gradient(potential, z, t, what.at(substep // substeps))",
    ),
    _ode(
        "the Laplacian is integrated along a path that stands still",
        "else (motion, divergence(state[0], t, step))",
        "else (motion, divergence(z, t, step))",
    ),
    _inverse(
        "preimages are not verified",
        "~(residual.norm(dim=1) <= allowed)",
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
    _substeps(
        "the sum of the log-determinants of substeps is their mean",
        "value.view(per_step).sum(2)",
        "value.view(per_step).mean(2)",
    ),
    _substeps("folds in all substeps count, not in any", "folds.view(per_step).any(2)", "folds.view(per_step).all(2)"),
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
    _traced(
        "a graph that is traced writes in place of what it needs a gradient of",
        "return torch._C._len_torch_dispatch_stack() == 0",
        "return True",
    ),
    _groups(
        "labels that are not read pay for all networks",
        "return None if transformed() else of_unread(labels, num)",
        "return None",
    ),
    _stack("the gradient of one network goes to another", "k, num - k - 1", "0, num - 1"),
    _stack("of a network in parts the first is learned from", "else x.sum(0, keepdim=True)", "else x[:1]"),
    _stack("of two groups of a network one is learned from", ".index_add_(", ".index_copy_("),
    _counted("what was written to is taken for what it was", "0 if x.is_inference() else x._version", "0"),
    _states("parameters that learn again are taken for those that did not", "x.requires_grad,", "True,"),
    _states("other numbers in the same parameter are not noticed", "x.data_ptr() if not wrapped", "0 if not wrapped"),
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
        "a path of other lengths than its weights is taken",
        "latentflow/path.py",
        "not z[1] == weights[1] + 1 == times[0]",
        "False",
        ("constraint",),
    ),
    _states("what a fused optimiser has written is not noticed", "_optimised if isinstance", "0 if isinstance"),
    _counted("what vmap counts at the bottom is not looked at", "count += x._version", "count += 0"),
    Error(
        "a copy of what was written to is noted as if it had been so",
        "latentflow/acting.py",
        "        if self.is_of(self.weights, self.times):\n",
        "        if True:\n",
        ("acting", "rollout_changes"),
    ),
    Error(
        "what is written under inference mode is not thought of",
        "latentflow/acting.py",
        "self.state == now and (repeats or not weights.is_inference())",
        "self.state == now",
        ("rollout_changes",),
    ),
    Error(
        "labels are taken to repeat a row under inference mode",
        "latentflow/acting.py",
        "(repeats or not weights.is_inference())",
        "(isinstance(self.k, int) or self.constant or not weights.is_inference())",
        ("rollout_changes",),
    ),
    Error(
        "a path keeps the users' own weights, whatever they write to them",
        "latentflow/acting.py",
        "weights.to(z, copy=True)",
        "weights.to(z)",
        ("rollout_changes",),
    ),
    _ode(
        "the step size has a gradient, which samples at rest do not have",
        "x.detach().reshape(len(x), -1).square().mean(1).max() for x in state]).max().sqrt()",
        "x.reshape(len(x), -1).square().mean(1).sqrt().max() for x in state]).max()",
    ),
    _ode(
        "many samples at rest excuse one that is far off",
        '"norm": _of_the_worst_sample, **given',
        "**given",
    ),
    _ode(
        "an adaptive solver steps beyond the end and interpolates",
        "torch.cat((steps, end))",
        "steps",
    ),
    _ode(
        "a norm of the user's does not count",
        '{"norm": _of_the_worst_sample, **given, ',
        '{**given, "norm": _of_the_worst_sample, ',
    ),
    Error(
        "settings of a solver that are changed later do nothing",
        "latentflow/posterior.py",
        "options = ode.checked_options(self.solver, self.substeps, given, log_det, self.label)",
        "options = {}",
        ("solver_settings",),
    ),
    Error(
        "substeps that are set later are not checked",
        "latentflow/posterior.py",
        '        positive_integer("substeps", self.substeps)\n',
        "",
        ("solver_settings",),
    ),
    Error(
        "what acts are the users' own labels, whatever they write to them",
        "latentflow/acting.py",
        "dtype=torch.int64, copy=True)",
        "dtype=torch.int64)",
        ("rollout_changes",),
    ),
)
