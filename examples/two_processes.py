"""DOT on several processes: the model stays unwrapped, the optimizer averages both gradient sets.

    torchrun --nproc-per-node=2 examples/two_processes.py

Each process learns from its share of every batch. At the end all of them hold the same student to the last
bit, and rank 0 shows that it is the student that one process makes of whole batches.
"""

import copy
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parameters_to_vector

from dotkd import DOT, Distiller, load_digits
from dotkd.data import ImageData


def distill(distiller: Distiller, data: ImageData, group: dist.ProcessGroup | None) -> None:
    """Train the student on this process's share of each batch, or on whole batches without a group."""
    rank, world = (dist.get_rank(group), dist.get_world_size(group)) if group else (0, 1)
    # False: independent of the other processes. (None, the default, is an error where there are others.)
    opt = DOT(distiller.trainable_parameters(), lr=0.05, weight_decay=5e-4, process_group=group or False)
    order = torch.Generator().manual_seed(0)  # the same everywhere, so that the shares are disjoint
    for _ in range(10):
        # Batches of one size: the mean over equal shares is the mean over the batch.
        for batch in data.batches(128, generator=order, drop_last=True):
            losses = distiller(batch.images[rank::world], batch.labels[rank::world])
            opt.backward(task=losses.task, distill=losses.distill)
            opt.step()  # one all_reduce for both gradient sets
            opt.zero_grad()


def main() -> None:
    """Distil on all processes, then on one, and compare."""
    torch.set_num_threads(1)  # so small are the networks
    torch.manual_seed(int(os.environ["RANK"]))  # the students start as different as they do without a seed
    data = load_digits().train
    teacher, student = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, n), nn.ReLU(), nn.Linear(n, 10)) for n in (128, 32)
    )
    sgd = torch.optim.SGD(teacher.parameters(), lr=0.1, momentum=0.9)
    for batch in (batch for _ in range(10) for batch in data.batches(128)):
        sgd.zero_grad()
        nn.functional.cross_entropy(teacher(batch.images), batch.labels).backward()  # type: ignore[no-untyped-call]
        sgd.step()
    # After the first optimizer: that imports parts of torch that would keep the group, and with it threads
    # which abort the process now and then, to the very end of Python.
    dist.init_process_group("gloo")
    # Averaged gradients keep alike only what starts alike.
    for tensor in (*teacher.state_dict().values(), *student.state_dict().values()):
        dist.broadcast(tensor, src=0)
    alone = copy.deepcopy(student)
    distill(Distiller(student, teacher, "kd"), data, dist.group.WORLD)

    ours = parameters_to_vector(student.parameters()).detach()
    replicas = [torch.empty_like(ours) for _ in range(dist.get_world_size())]
    dist.all_gather(replicas, ours)
    assert all(torch.equal(replica, ours) for replica in replicas)
    if dist.get_rank() == 0:
        distill(Distiller(alone, teacher, "kd"), data, None)
        one = parameters_to_vector(alone.parameters()).detach()
        apart = float((ours - one).norm() / one.norm())
        print(f"{len(replicas)} identical students, {apart:.0e} (relative) from one process on whole batches")
        assert apart < 1e-5  # float32, summed in another order
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
