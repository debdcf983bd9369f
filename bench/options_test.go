package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhoAsksForHelpIsToldOfTheProgramAlone(t *testing.T) {
	var help bytes.Buffer
	_, err := options([]string{"-h"}, &help)
	require.ErrorIs(t, err, flag.ErrHelp)
	require.Contains(t, help.String(), "-out directory")
	require.Contains(t, help.String(), "some minutes")
	require.NotContains(t, help.String(), "test.")
}

func TestWhatCannotEndWellIsRefusedBeforeItBegins(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "page")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for want, args := range map[string][]string{
		`"docs" is not understood; a directory goes behind -out`: {"docs"},
		"flag provided but not defined: -output; -h explains":    {"-output", dir},
		"-out: stat " + dir + "/none: no such file or directory": {"-out", dir + "/none"},
		"-out: " + file + " is not a directory":                  {"-out", file},
	} {
		_, err := options(args, io.Discard)
		require.EqualError(t, err, want)
	}
	out, err := options([]string{"-out", dir}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, dir, out)
}

func TestARunThatCannotWriteAllLeavesWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "comparison.md")
	require.NoError(t, os.WriteFile(page, []byte("before"), 0o600))
	require.Error(t, replace(dir, map[string]string{"comparison.md": "after", "none/picture.svg": ""}))
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, "before", string(text))
	require.NoError(t, replace(dir, map[string]string{"comparison.md": "after"}))
	text, err = os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, "after", string(text))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
}
