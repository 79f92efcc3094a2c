"""Training on several processes and machines, by torch.distributed."""
