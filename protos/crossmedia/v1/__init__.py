"""Version 1 of the wire contract: ``image_server.proto`` and its stubs, made by ``make protos``."""
