// Package examples holds programs to run and to read: each folder below is a
// main package that shows the client at work, for instance
//
//	go run ./examples/payments
//
// They are a module of their own, so that an example may import what the
// library itself must not depend on. The folder faults is a module of its own
// again: it tests a client that has nothing to do with ours.
package examples
