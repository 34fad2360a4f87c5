package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
)

// Trace exporters: the values of OTEL_TRACES_EXPORTER.
const (
	NoTraces = "none"
	OTLP     = "otlp"
	Console  = "console"
)

// StartTracing exports spans until stop is called. Exporter is one of the constants above; with NoTraces, nothing is exported. It sets the global
// propagator, error handler and tracer provider of OpenTelemetry. Console is the writer of the console exporter. The SDK reads the other settings,
// such as the endpoint, the sampling and the resource, from the OTEL_* variables:
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
func StartTracing(ctx context.Context, exporter, service, instance string, console io.Writer, log *slog.Logger) (stop func(context.Context) error, err error) {
	otel.SetTextMapPropagator(propagation.TraceContext{})
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", "error", err) }))
	var spans sdktrace.SpanExporter
	switch exporter {
	case NoTraces:
		return func(context.Context) error { return nil }, nil
	case OTLP:
		spans, err = otlptracehttp.New(ctx)
	case Console:
		spans, err = stdouttrace.New(stdouttrace.WithWriter(console))
	}
	if err != nil {
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER %s: %w", exporter, err)
	}
	// Resource attributes from the environment take precedence over the service name and instance id given here.
	ours := resource.NewSchemaless(semconv.ServiceName(service), semconv.ServiceInstanceID(instance))
	env, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	merged, err := resource.Merge(ours, env)
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans), sdktrace.WithResource(merged))
	otel.SetTracerProvider(provider)
	return provider.Shutdown, nil
}
