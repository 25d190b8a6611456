"""The scheduler: which node each pod runs on.

    watch caches ─► queue ─► decide(nodes, pods) ─► Decision(node | refusals) ─► bindings and conditions, in one batch

`nodes.py` keeps the cluster as NumPy arrays, one row per node. A filter (`filters/`) answers for all nodes at once
which it refuses and why; a score (`scores/`) rates all that are left. `decide.py` puts them together and is pure;
`service.py` is the loop around it. `explain.py` writes a refusal as people read it.

Acted on: resource requests, host ports, nodeName, nodeSelector, node affinity, taints and tolerations, topology spread
constraints, required pod affinity and anti-affinity, spreading of a controller's pods. Not acted on: preferred pod
affinity, image locality, preemption by priority (priority orders the queue).
"""
