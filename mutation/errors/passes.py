"""In the written-out passes."""

from __future__ import annotations

from .error import errors_in

_hutchinson = errors_in("latentflow/hutchinson.py", "written_out", "rollout")
_written_out = errors_in("latentflow/written_out.py", "written_out", "example_train")
_contexts = errors_in("latentflow/contexts.py", "written_out", "example_train")
_product = errors_in("latentflow/product.py", "written_out", "rollout")
_sweep = errors_in("latentflow/sweep.py", "written_out", "rollout", "constraint")
_rollout = errors_in("latentflow/rollout.py", "rollout", "rollout_changes", "constraint")
_penalty = errors_in("latentflow/penalty.py", "written_out", "rollout", "constraint")
_trajectory = errors_in("latentflow/trajectory.py", "written_out", "rollout")
_trajectory_adjoint = errors_in("latentflow/trajectory_adjoint.py", "written_out", "rollout")
_compiled = errors_in("latentflow/trajectory_adjoint.py", "compile")

ERRORS = (
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
    _written_out(
        "an input made of another one sends its gradient on to that",
        "x.view_as(x) if isinstance(x, Tensor) else x for x in inputs",
        "x for x in inputs",
    ),
    _contexts(
        "what is to be differentiated once more goes past autograd",
        "return torch._C._AutoDispatchBelowADInplaceOrView() if unrecorded() else nullcontext()",
        "return torch._C._AutoDispatchBelowADInplaceOrView()",
    ),
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
)
