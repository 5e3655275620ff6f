"""Record a span of every call for OpenTelemetry, joined to the caller's span if the caller sent one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from crossmedia.errors import BadInput

SERVICE = "crossmedia-imgserver"
ENVIRONMENT = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")


@contextmanager
def tracing(wanted: bool) -> Iterator[list[Any]]:
    """Interceptors for a gRPC server; none if spans go nowhere. The last spans are sent at the end.

    Args:
        wanted: send spans; otherwise they are sent when the environment says where and the extra is installed.

    Raises:
        BadInput: they are wanted, and the extra is not installed or the exporter is unknown.
    """
    by_environment = any(os.environ.get(name) for name in ENVIRONMENT)
    off = os.environ.get("OTEL_TRACES_EXPORTER") == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or not (wanted or (by_environment and find_spec("opentelemetry"))):
        yield []
        return
    try:
        from opentelemetry.instrumentation.grpc import filters, server_interceptor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter()
    except ImportError as error:
        raise BadInput(
            f"Spans need OpenTelemetry ({error.name} is missing). Install it with: pip install 'crossmedia[otel]'"
        ) from error
    named = os.environ.get("OTEL_SERVICE_NAME")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield [server_interceptor(provider, filters.negate(filters.health_check()))]  # type: ignore[no-untyped-call]
    finally:
        provider.shutdown()


def _exporter() -> Any:
    """What ``OTEL_TRACES_EXPORTER`` names: OTLP over gRPC, or standard output."""
    name = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if name != "otlp":
        raise BadInput(f"OTEL_TRACES_EXPORTER is {name!r}; this server knows otlp, console and none.")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
