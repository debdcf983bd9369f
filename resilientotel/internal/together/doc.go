// Package together holds no code but tests: package resilientotel beside otelhttp,
// and what it exports against the dashboard, the alerts and a Prometheus. It is a
// module of its own, so that nobody else is given their requirements.
package together
