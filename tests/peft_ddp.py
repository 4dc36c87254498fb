"""Two processes on the CPU (gloo) train each method with DistributedDataParallel: run as a script by test_peft_layers.py.

Prints one line of JSON: method → whether all parameters are the same bits in both processes, and not those of the start.
"""

import json
import os
import sys

import torch
import torch.distributed as dist
from peft_models import METHODS, adapted
from torch import nn


def in_step(method, rank):
    model = adapted(method, init_weights=True)
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(3):
        optimizer.zero_grad()
        wrapped(torch.randn(5, 24, generator=generator)).square().mean().backward()  # other data in each process
        optimizer.step()
    after = [p.detach() for p in model.parameters() if p.requires_grad]
    same = True
    for p in after:
        both = [torch.empty_like(p) for _ in range(2)]
        dist.all_gather(both, p.contiguous())
        same = same and torch.equal(*both)
    return same and not any(torch.equal(a, b) for a, b in zip(after, before, strict=True) if a.numel() > 1)


def worker(rank, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {method: in_step(method, rank) for method in METHODS}
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port,), nprocs=2)
    sys.exit(0)
