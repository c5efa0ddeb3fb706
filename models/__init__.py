"""Networks and their parts: torch and torchvision only; no files, no flags, no printing."""
