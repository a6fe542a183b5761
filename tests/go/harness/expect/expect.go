// Package expect is what tests by the Garden client check with: each fails its test at the caller's line, and says what
// was got and what was wanted.
package expect

import (
	"strings"
	"testing"
)

// Must fails on an error.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Equal fails unless what was got is what was wanted.
func Equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %#v, want %#v", what, got, want)
	}
}

// Holds fails unless a text holds all the parts.
func Holds(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Fatalf("%q is not in %q", part, text)
		}
	}
}

// Refused fails unless there is an error that the client could read and that names all the parts.
func Refused(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("was not refused (expected an error with %q)", parts)
	}
	if strings.HasPrefix(err.Error(), "bad response") || strings.HasPrefix(err.Error(), "Backend error") {
		t.Fatalf("the client could not read the error: %v", err)
	}
	Holds(t, err.Error(), parts...)
}
