//go:build windows || plan9 || js || wasip1

package wal

// syncDir does nothing where a directory cannot be synced: there a rename is as
// durable as the file system makes it.
func syncDir(string) error { return nil }
