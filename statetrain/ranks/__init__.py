"""Several processes on PyTorch's own engine; see docs/ranks.md.

Launching and restarting are torchrun's, replicating is `DistributedDataParallel`'s. What is here
joins the group, divides the data, carries the ranks' news with the gradients and watches over them.
All that imports `torch.distributed` is in this folder.
"""
