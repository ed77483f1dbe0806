"""Read packets from captures and interfaces."""
