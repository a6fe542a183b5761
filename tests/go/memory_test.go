package garden_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// memory is what the server's process holds, in bytes.
func memory(t *testing.T) int64 {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.Pid()))
	must(t, err)
	for line := range strings.Lines(string(content)) {
		var kibibytes int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kibibytes); err == nil {
			return kibibytes << 10
		}
	}
	t.Fatalf("no VmRSS in %s", content)
	return 0
}
