"""Other people's libraries under the kit: a file a library, each with `IMPLEMENTATIONS`; PEERS.md has the results."""
