"""Finding anomalies with autoencoders and variational autoencoders, on PyTorch Lightning."""
