"""The reproducible experiment: prepare, train, evaluate, plot; a stage a file, every parameter in params.yaml."""
