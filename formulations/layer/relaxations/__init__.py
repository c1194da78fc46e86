"""What bounds the nodes of a branch and bound on a layer problem."""
