package main

import (
	"fmt"
	"slices"
	"strings"
)

// Feature is what clients do about one matter, read in their sources.
type Feature struct {
	Name  string
	Cells map[string]Cell // by the peer's name
}

// Cell is what one client does, and where in its project that is written: in a
// file, by a name there.
type Cell struct{ Does, Basis string }

// featured are the peers of the table; the rest are others put together.
func featured(peers []Peer) []Peer {
	return slices.DeleteFunc(slices.Clone(peers), func(p Peer) bool {
		return p.Name == failsafeBreaker.Name || p.Name == unbounded || p.Name == handWritten.Name
	})
}

var features = []Feature{
	{"a POST without a key is sent again", map[string]Cell{
		bare:               {"no; with a key header, on a reused connection", "request.go: isReplayable"},
		retryable.Name:     {"yes", "client.go: baseRetryPolicy"},
		failsafeRetry.Name: {"yes", "failsafehttp/policy.go: NewRetryPolicyBuilder"},
		restyPeer.Name:     {"no, unless SetRetryAllowNonIdempotent", "request.go: Request.SetRetryAllowNonIdempotent"},
		rehttpPeer.Name:    {"yes, unless RetryHTTPMethods says no", "rehttp.go: RetryHTTPMethods"},
		httpretryPeer.Name: {"yes", "retry.go: RetryPolicy"},
		heimdallPeer.Name:  {"yes", "httpclient/client.go: Client.Do"},
		azurePeer.Name:     {"yes", "runtime/policy_retry.go: retryPolicy.Do"},
		awsPeer.Name:       {"yes", "aws/retry/middleware.go: Attempt.handleAttempt"},
		stripePeer.Name:    {"under a key of its own", "stripe.go: BackendImplementation.NewRequest"},
		ours:               {"only if it cannot have arrived", "judge.go: judge"},
	}},
	{"keys are made", map[string]Cell{
		awsPeer.Name:    {"tokens, for operations modelled so", "rand/uuid.go: UUIDIdempotencyToken"},
		stripePeer.Name: {"for each write", "params.go: NewIdempotencyKey"},
		ours:            {"for POST and PATCH", "keys.go: mintsFor"},
	}},
	{"an error says whether the server can have acted", map[string]Cell{
		failsafeRetry.Name: {"of the last attempt, where its breaker refused it", "circuitbreaker/circuitbreaker.go: ErrOpen"},
		restyPeer.Name:     {"of the last attempt, where its breaker refused it", "circuit_breaker.go: ErrCircuitBreakerOpen"},
		ours:               {"NotSent or Unknown, of all attempts", "verdict.go: NotSent"},
	}},
	{"attempts, told with the result", map[string]Cell{
		retryable.Name:     {"their number, in a text; each to hooks", "client.go: Client.ResponseLogHook"},
		failsafeRetry.Name: {"the last; each to listeners", "retrypolicy/retry.go: ExceededError"},
		restyPeer.Name:     {"their number; each to hooks", "request.go: Request.Attempt"},
		rehttpPeer.Name:    {"no; each to RetryFn", "rehttp.go: Attempt"},
		heimdallPeer.Name:  {"their errors, in a text; each to plugins", "httpclient/client.go: valkyrie.MultiError"},
		azurePeer.Name:     {"no; each to the log", "runtime/policy_retry.go: EventRetryPolicy"},
		awsPeer.Name:       {"each, with its error", "aws/retry/metadata.go: AttemptResults"},
		stripePeer.Name:    {"no; each to the log", "stripe.go: BackendImplementation.requestWithRetriesAndTelemetry"},
		ours:               {"each, net/http's own included", "operation.go: OperationOf"},
	}},
	{"the last answer, where all were refused", map[string]Cell{
		bare:               {"is returned", ""},
		retryable.Name:     {"is closed, and an error returned, unless PassthroughErrorHandler", "client.go: PassthroughErrorHandler"},
		failsafeRetry.Name: {"an error is returned, unless ReturnLastFailure", "retrypolicy/retryexecutor.go: executor.OnFailure"},
		restyPeer.Name:     {"is returned", "request.go: Request.Execute"},
		rehttpPeer.Name:    {"is returned", "rehttp.go: Transport.RoundTrip"},
		httpretryPeer.Name: {"is returned", "roundtripper.go: RetryRoundtripper.RoundTrip"},
		heimdallPeer.Name:  {"is returned, perhaps with an error", "httpclient/client.go: Client.Do"},
		azurePeer.Name:     {"is returned", "runtime/policy_retry.go: retryPolicy.Do"},
		awsPeer.Name:       {"is an error", "aws/retry/middleware.go: MaxAttemptsError"},
		stripePeer.Name:    {"is an error", "stripe.go: BackendImplementation.ResponseToError"},
		ours:               {"is returned, its body readable", "answer.go: setAside"},
	}},
	{"a limit on retries over all operations", map[string]Cell{
		failsafeRetry.Name: {"a share of those under way, if asked for", "budget/budget.go: Budget"},
		awsPeer.Name:       {"500 tokens for each client", "aws/retry/standard.go: DefaultRetryRateTokens"},
		ours:               {"10, and 10 % of operations, for each host", "budget.go: budget"},
	}},
	{"a circuit breaker", map[string]Cell{
		failsafeRetry.Name: {"if composed, one for all hosts", "circuitbreaker/circuitbreakerbuilder.go: Builder"},
		restyPeer.Name:     {"if set, one for all hosts", "circuit_breaker.go: NewCircuitBreakerRatio"},
		heimdallPeer.Name:  {"by hystrix-go, by name of command", "hystrix/hystrix_client.go: Client.Do"},
		ours:               {"for each host", "breaker.go: trips"},
	}},
	{"a second request before the first is answered (hedging)", map[string]Cell{
		failsafeRetry.Name: {"if composed", "hedgepolicy/hedge.go: HedgePolicy"},
		restyPeer.Name:     {"if set, of methods that only read", "hedging.go: NewHedging"},
	}},
	{"a limit on rate, or on requests at once", map[string]Cell{
		bare:               {"on connections", "transport.go: MaxConnsPerHost"},
		failsafeRetry.Name: {"on both, fixed or adaptive, if composed", "adaptivelimiter/adaptivelimiter.go: AdaptiveLimiter"},
		restyPeer.Name:     {"on rate, if set", "rate_limiter.go: RateLimiter"},
		heimdallPeer.Name:  {"on requests at once, by hystrix-go", "hystrix/options.go: WithMaxConcurrentRequests"},
		awsPeer.Name:       {"on rate, by NewAdaptiveMode", "aws/retry/adaptive.go: NewAdaptiveMode"},
	}},
	{"request bodies", map[string]Cell{
		bare:               {"by GetBody", "request.go: isReplayable"},
		retryable.Name:     {"read whole into memory by StandardClient; else may seek", "client.go: FromRequest"},
		failsafeRetry.Name: {"read whole into memory, unless they seek", "failsafehttp/client.go: bodyReader"},
		restyPeer.Name:     {"kept whole in memory; files seek", "request.go: Request.resetFileReaders"},
		rehttpPeer.Name:    {"read whole into memory", "rehttp.go: Transport.RoundTrip"},
		httpretryPeer.Name: {"by GetBody, else read whole", "roundtripper.go: RetryRoundtripper.RoundTrip"},
		heimdallPeer.Name:  {"read whole into memory", "httpclient/client.go: Client.Do"},
		azurePeer.Name:     {"must seek", "runtime/policy_retry.go: retryableRequestBody"},
		awsPeer.Name:       {"must seek", "transport/http/request.go: Request.RewindStream"},
		stripePeer.Name:    {"bytes, anew for each attempt", "stripe.go: resetBodyReader"},
		ours:               {"by GetBody or by section; streams kept up to 1 MiB", "client.go: MaxReplayBytes"},
	}},
}

// Features is the table, its notes below it: where each cell was read.
func (r *Report) Features() string {
	peers := featured(r.Peers)
	var b, notes strings.Builder
	n := 0
	var head []string
	for _, p := range peers {
		head = append(head, strings.TrimSpace(p.Name+" "+p.Version()))
	}
	fmt.Fprintf(&b, "| | %s |\n|---%s|\n", strings.Join(head, " | "), strings.Repeat("|---", len(peers)))
	for _, f := range features {
		fmt.Fprintf(&b, "| %s |", f.Name)
		for _, p := range peers {
			cell := f.Cells[p.Name]
			switch {
			case cell.Does == "":
				b.WriteString(" – |")
			case cell.Basis == "":
				fmt.Fprintf(&b, " %s |", cell.Does)
			default:
				n++
				fmt.Fprintf(&b, " %s [%d] |", cell.Does, n)
				fmt.Fprintf(&notes, "[%d] %s, `%s`. ", n, short(p.Name), cell.Basis)
			}
		}
		b.WriteString("\n")
	}
	return b.String() + "\n" + strings.TrimSpace(notes.String()) + "\n"
}

// short is a peer's name without what it is set up with.
func short(name string) string {
	name, _, _ = strings.Cut(name, ",")
	return name
}
