"""The agent's hold on the container runtime: images, sandboxes, containers, logs, exec.

`interface` is the contract; `containerd` speaks to the real thing, `fake` is an in-memory one with the same promises.
"""
