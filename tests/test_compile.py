"""A whole loss compiles without a graph break, a new batch size does not recompile it, and the transport exports."""

import copy

import pytest
import torch
from torch.distributions import Independent, Normal

from latentflow import DiffusionPrior, FlowPosterior, HJConstraint, LatentPath, NegativeForce, flow_kl, layout, rollout
from tests.problems import make_potential, rand, randn

DIM, NUM, STEPS = 4, 3, 3
pytestmark = [
    # torch.compile itself instantiates autograd functions, which torch says not to do.
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.no_cover,  # to watch the compiler's own lines go by takes as long as the compiler
]


class Loss(torch.nn.Module):
    """The part of a training step that is ours; noise comes from outside so that two runs can be compared."""

    def __init__(self, log_det):
        super().__init__()
        potential = make_potential(DIM, NUM)
        self.flow = FlowPosterior(potential, log_det)
        self.hj = HJConstraint(potential, NegativeForce(DIM, NUM).double())
        self.prior = DiffusionPrior(NUM).double()

    def forward(self, mean, k=None, weights=None):
        q0 = Independent(Normal(mean, torch.full_like(mean, 1e-9), validate_args=False), 1, validate_args=False)
        path = self.flow(q0, k, weights=weights, steps=STEPS)
        bound = "initial" if self.flow.log_det is None else "marginal"
        log_q0 = 0.0 if path.log_q is None else path.log_q[:, 0].detach().sum()  # of the noise, not of the flow
        return (flow_kl(path, self.prior, bound=bound) + self.hj(path)).sum() - log_q0


def acting(kind, batch):
    if kind == "int":
        return {"k": 1}
    if kind == "labels":
        return {"k": torch.arange(batch) % NUM}
    return {"weights": torch.rand(batch, NUM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("log_det", ["exact", "laplacian", None])
@pytest.mark.parametrize("kind", ["int", "labels", "weights"])
def test_a_whole_loss_compiles_into_one_graph_with_the_gradients_of_eager_mode(kind, log_det, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch.distributions.kl, "_KL_MEMOIZE", {})  # as in a new process
    eager = Loss(log_det)
    compiled_module = copy.deepcopy(eager)
    graphs, traced = [], 0

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(compiled_module, fullgraph=True, dynamic=True, backend=backend)
    for batch in (5, 7, 11):
        mean = torch.randn(batch, DIM, dtype=torch.float64)
        losses, means = [], [mean.clone().requires_grad_() for _ in range(2)]
        for module, start in zip((compiled, eager), means, strict=True):
            torch.manual_seed(0)
            losses.append(module(start, **acting(kind, batch)))
            losses[-1].backward()
        torch.testing.assert_close(*losses, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(
            *(start.grad for start in means), rtol=1e-6, atol=1e-6
        )  # what an encoder learns from
        traced = traced or len(graphs)  # more than once where a number turns out to be a constant
    assert len(graphs) == traced, "a new batch size has recompiled the graph"
    called = {getattr(node.target, "__module__", None) for node in graphs[-1].graph.nodes if callable(node.target)}
    # The frontend takes each of these for one operation: it would have every name in there looked up in each call.
    densities = {"latentflow.prior", "latentflow.objective"} if log_det is not None else set()
    assert {"latentflow.initial", "latentflow.rollout", "latentflow.penalty", *densities} <= called
    for (name, ours), truth in zip(compiled_module.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, truth.grad, rtol=1e-6, atol=1e-6, msg=name)


def test_the_particle_prior_compiles_too():
    torch._dynamo.reset()
    z, weights = randn(5, STEPS + 1, DIM, seed=0), rand(5, STEPS, NUM, seed=1)
    gradients = []
    for compiled in (False, True):
        prior = DiffusionPrior(NUM, 0.3, form="particle", dtype=torch.float64)

        def log_prob(z, prior=prior):
            return prior.log_prob(LatentPath(z, None, None, None, weights, torch.arange(STEPS + 1), None))

        way = torch.compile(log_prob, fullgraph=True, backend="aot_eager") if compiled else log_prob
        gradients.append(torch.autograd.grad(way(z).square().sum(), prior.raw)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("log_det", ["exact", "hutchinson", "laplacian", None])
@pytest.mark.parametrize("kind", ["int", "labels"])
def test_compiled_for_a_known_batch_networks_in_parts_and_groups_learn_what_they_do_in_eager_mode(
    kind, log_det, monkeypatch
):
    torch._dynamo.reset()
    parts_of, seen = rollout.parts_of, []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(layout, "PART", 1)
    monkeypatch.setattr(rollout, "parts_of", lambda z: seen.append(parts_of(z)) or seen[-1])
    eager = Loss(log_det)
    modules, losses = (copy.deepcopy(eager), eager), []
    means = [torch.linspace(-1, 1, 6 * DIM, dtype=torch.float64).view(6, DIM).requires_grad_() for _ in modules]
    ways = torch.compile(modules[0], fullgraph=True, dynamic=False, backend="aot_eager"), eager
    for way, parts, mean in zip(ways, (3, 1), means, strict=True):
        seen.clear()
        torch.manual_seed(0)
        losses.append(way(mean, **acting(kind, 6)))
        losses[-1].backward()
        assert set(seen) == ({parts} if kind == "int" else set())
    torch.testing.assert_close(*losses, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(*(mean.grad for mean in means), rtol=1e-6, atol=1e-6)
    for (name, ours), truth in zip(modules[0].named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, truth.grad, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("log_det", ["exact", "hutchinson", "laplacian"])
@pytest.mark.parametrize("kind", ["int", "labels"])
def test_a_batch_that_turns_out_to_be_a_number_while_it_is_compiled_keeps_its_order(kind, log_det, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(layout, "PART", 1)
    module = Loss(log_det)

    def loss(mean, k):
        path = module.flow(Independent(Normal(mean, torch.full_like(mean, 1e-9)), 1), k, steps=STEPS)
        said = torch.cat((path.z.flatten(1), path.log_det, module.hj(path)[:, None]), 1)
        return said * torch.arange(6)[:, None]  # which says so

    mean, results = torch.randn(6, DIM, dtype=torch.float64), []
    for way in (torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager"), loss):
        torch.manual_seed(0)
        start = mean.clone().requires_grad_()
        found = way(start, **acting(kind, 6))
        results.append((found, *torch.autograd.grad(found.sum(), [start, *module.flow.parameters()])))
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-6, atol=1e-6)


def test_a_batch_whose_size_depends_on_numbers_compiles_with_labels():
    torch._dynamo.reset()
    flow = FlowPosterior(make_potential(DIM, NUM))
    z0, k = torch.randn(6, DIM, dtype=torch.float64), torch.arange(6) % NUM

    def of_some(z0, k):
        chosen = (k > 0).nonzero()[:, 0]
        return flow.transport(z0[chosen], k[chosen], steps=2)[0]

    with torch.no_grad(), torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        found = torch.compile(of_some, fullgraph=True, backend="aot_eager")(z0, k)
    torch.testing.assert_close(found, of_some(z0, k), rtol=1e-12, atol=1e-12)


def test_written_out_backward_passes_are_not_less_precise_where_a_loss_is_compiled_inside_of_autocast():
    torch._dynamo.reset()
    module = Loss("hutchinson").float()
    compiled, mean = copy.deepcopy(module), torch.randn(5, DIM)
    losses = []
    for each in (torch.compile(compiled, fullgraph=True, backend="aot_eager"), module):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(each(mean, k=1))
        losses[-1].backward()
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    for (name, ours), truth in zip(compiled.named_parameters(), module.parameters(), strict=True):
        scale = truth.grad.abs().max().item()
        torch.testing.assert_close(ours.grad, truth.grad, rtol=1e-4, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("log_det", ["exact", "hutchinson", None])
@pytest.mark.parametrize("kind", ["int", "weights"])
def test_the_transport_exports_with_a_dynamic_batch(kind, log_det):
    class Transport(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = FlowPosterior(make_potential(DIM, NUM), log_det)

        def forward(self, z0, weights):
            act = {"k": 1} if kind == "int" else {"weights": weights}
            return self.flow.transport(z0, steps=STEPS, **act)

    module = Transport().eval()
    z0, weights = torch.randn(5, DIM, dtype=torch.float64), torch.rand(5, NUM, dtype=torch.float64)
    batch = torch.export.Dim("batch", min=2)
    shapes = {"z0": {0: batch}, "weights": {0: batch}}
    exported = torch.export.export(module, (z0, weights), dynamic_shapes=shapes).module()
    z0, weights = torch.randn(9, DIM, dtype=torch.float64), torch.rand(9, NUM, dtype=torch.float64)
    ours, truth = exported(z0, weights), module(z0, weights)
    torch.testing.assert_close(ours[0], truth[0], rtol=1e-12, atol=1e-12)
    if log_det == "exact":
        torch.testing.assert_close(ours[1], truth[1], rtol=1e-10, atol=1e-10)
