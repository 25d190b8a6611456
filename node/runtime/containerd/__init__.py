"""Stubs of the containerd calls that the agent makes, generated from `proto/node/runtime/containerd/`."""
