"""Where each stage leaves what the next ones read, relative to the root of the repository."""

from pathlib import Path

PARAMS = Path("params.yaml")
SCHEMA = Path("params.schema.json")
PREPARED = Path("data/prepared")
WEIGHTS = Path("models/vae.safetensors")
CHECKPOINTS = Path("checkpoints")
CURVES = Path("results/train")
METRICS = Path("results/evaluate/metrics.json")
DIMENSIONS = Path("results/evaluate/dimensions.csv")
FIGURES = Path("results/plot")
