"""Identities: the cluster's CA, the certificates of members, users and nodes, and the tokens that let nodes join."""
