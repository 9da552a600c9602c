"""From a PyTorch model to programs for the machine: trace, fold, place, quantize, schedule."""
