package resilientotel_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/go-resilient/resilient"
	"github.com/go-resilient/resilient/faultinject"
	"github.com/go-resilient/resilient/resilientotel"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
)

func TestALineOfTheLogLeadsToItsTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := newRig(t)
		logger := slog.New(resilientotel.LogHandler(slog.NewJSONHandler(&out, nil))).With("service", "shop")
		observed := func(c *resilient.Config) {
			c.Observer = resilient.Observers(r.tel.Observer(), resilient.LogTo(logger))
		}
		require.NoError(t, send(t.Context(), t, r.transport(handled(faultinject.Respond(503)), observed), http.MethodPost, charges))
		span := r.of(trace.SpanKindInternal)[0].SpanContext()
		lines := json.NewDecoder(&out)
		for _, msg := range []string{"attempt failed", "operation answered"} {
			var line map[string]any
			require.NoError(t, lines.Decode(&line))
			require.Equal(t, msg, line["msg"])
			require.Equal(t, span.TraceID().String(), line["trace_id"])
			require.Equal(t, span.SpanID().String(), line["span_id"])
			require.Equal(t, "shop", line["service"])
			require.Len(t, line["key_hash"], 8)
		}
	})
}

func TestALogHandlerAddsNothingWhereThereIsNoTrace(t *testing.T) {
	var out bytes.Buffer
	slog.New(resilientotel.LogHandler(slog.NewTextHandler(&out, nil))).WithGroup("g").Info("hello", "a", 1)
	require.NotContains(t, out.String(), "trace_id")
	require.Contains(t, out.String(), "g.a=1")
	slog.New(resilientotel.LogHandler(nil)).Info("dropped")
}
