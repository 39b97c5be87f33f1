"""A page that runs an exported model in a browser, from disk: one file, without network."""
