module github.com/go-resilient/resilient/examples/faults

go 1.26.0

replace github.com/go-resilient/resilient => ../../

require github.com/go-resilient/resilient v0.0.0
