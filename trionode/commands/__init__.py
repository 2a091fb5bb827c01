"""The commands that look after a storage folder, with or without a node that runs on it."""
