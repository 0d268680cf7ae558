"""Agent runs: who asked for what, which worker drives it, and what it says while it goes."""
