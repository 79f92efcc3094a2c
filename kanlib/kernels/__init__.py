"""The operation behind every layer, and who does it: plain PyTorch, the CPU, the GPU."""
