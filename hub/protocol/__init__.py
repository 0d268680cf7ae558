"""The wire protocol ``agenthub.v1``: frames, their codec and limits, the session's state table.

Pure: bytes and events in, values and transitions out. It knows nothing of sockets, clocks,
permissions or what a method does. ``README.md`` beside this file is the contract it keeps.
"""
