"""Everything around a network: data, losses, figures, the training loop. See docs/architecture.md."""
