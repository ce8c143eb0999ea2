"""Two processes on gloo, each with half of a batch, give the gradients that one process has of the whole."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from latentflow import DiffusionPrior, FlowPosterior, HJConstraint, NegativeForce, Potential, flow_kl
from tests.problems import Drawn, randn

BATCH, STEPS, DIM, NUM, PIXELS, PROCESSES = 6, 3, 4, 2, 5, 2


class Model(nn.Module):
    """All terms of the objective in one forward, as DistributedDataParallel needs it."""

    def __init__(self, log_det: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(PIXELS, 2 * DIM), nn.Linear(DIM, PIXELS)
        potential = Potential(DIM, NUM)
        self.flow, self.hj = FlowPosterior(potential, log_det), HJConstraint(potential, NegativeForce(DIM, NUM))
        self.prior = DiffusionPrior(NUM, 0.3)
        self.double()

    def forward(self, x: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x[:, 0]).chunk(2, -1)
        path = self.flow(Drawn(mean, (0.5 * log_variance).exp(), noise), k, steps=STEPS)
        reconstruction = F.binary_cross_entropy_with_logits(self.decoder(path.z), x, reduction="sum") / len(x)
        return reconstruction + (flow_kl(path, self.prior) + self.hj(path)).mean()


def data() -> tuple[Tensor, Tensor, Tensor]:
    return randn(BATCH, STEPS + 1, PIXELS, seed=1).sigmoid(), torch.arange(BATCH) % NUM, randn(BATCH, DIM, seed=2)


def one_of_two(rank: int, folder: str, log_det: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    model = DistributedDataParallel(Model(log_det))
    model(*(part.chunk(PROCESSES)[rank] for part in data())).backward()
    torch.save({name: p.grad for name, p in model.module.named_parameters()}, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("log_det", ["exact", "laplacian"])
def test_two_processes_give_the_gradients_of_one(log_det: str, tmp_path: Path) -> None:
    mp.spawn(one_of_two, (str(tmp_path), log_det), nprocs=PROCESSES)
    model = Model(log_det)
    model(*data()).backward()
    whole = {name: p.grad for name, p in model.named_parameters()}
    assert all(gradient.abs().sum() > 0 for gradient in whole.values())
    for rank in range(PROCESSES):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-11, atol=1e-12)
