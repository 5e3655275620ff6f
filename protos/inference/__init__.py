"""The Open Inference Protocol, version 2: ``grpc_predict_v2.proto`` and its stubs, made by ``make protos``."""
