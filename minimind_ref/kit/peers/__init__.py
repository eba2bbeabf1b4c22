"""Other people's libraries under the kit: one file a library, each with its `IMPLEMENTATIONS`; PEERS.md has the results."""
