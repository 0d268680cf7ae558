"""Conversations as runs see them: the context of a prompt, and the transcript."""
