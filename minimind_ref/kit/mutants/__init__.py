"""Wrong implementations, one file a component: each breaks one clause and nothing else that it need not break."""
