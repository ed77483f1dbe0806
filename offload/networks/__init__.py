"""The exits of a network as edge and worker compute them, their cache, and the choice of threads."""
