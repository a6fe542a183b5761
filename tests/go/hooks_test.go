package garden_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"
)

// hooks is a folder with a script that every container's hooks run, with the container's state on stdin.
func hooks(t *testing.T, script string) string {
	t.Helper()
	folder := folder(t)
	file, err := json.Marshal(map[string]any{
		"version": "1.0.0", "when": map[string]bool{"always": true}, "stages": []string{"createRuntime", "poststop"},
		"hook": map[string]any{"path": "/bin/sh", "args": []string{"sh", "-c", script}, "env": []string{"PATH=" + os.Getenv("PATH")}},
	})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(folder, "hook.json"), file, 0o600))
	return folder
}

func TestHooks(t *testing.T) {
	long(t, "are run with a container's state when it has its root, and when it is gone", func(t *testing.T) {
		notes := filepath.Join(folder(t), "notes")
		seen := `pid=$(sed 's/.*"pid":\([0-9]*\).*/\1/'); [ $pid = 0 ] && echo gone >>%[1]s || ls /proc/$pid/root/bin/busybox >>%[1]s`
		on := own(t, "--pool-size", "0", "--oci-hooks-dir", hooks(t, fmt.Sprintf(seen, notes)))
		asked := spec(t)
		createOn(t, on, asked)
		if said, err := os.ReadFile(notes); err != nil || !strings.HasSuffix(string(said), "/root/bin/busybox\n") {
			t.Errorf("the hook saw %q, %v", said, err)
		}
		must(t, on.Destroy(asked.Handle))
		eventually(t, patience, func() error {
			if said, err := os.ReadFile(notes); err != nil || !strings.HasSuffix(string(said), "gone\n") {
				return fmt.Errorf("the hook of its end saw %q, %w", said, err)
			}
			return nil
		})
	})
	long(t, "that fail fail the create with what they said", func(t *testing.T) {
		on := own(t, "--pool-size", "0", "--oci-hooks-dir", hooks(t, "echo no room >&2; exit 3"))
		_, err := on.Create(spec(t))
		if err == nil || !strings.Contains(err.Error(), "hook /bin/sh ended with status 3: no room") {
			t.Errorf("a create whose hook fails: %v", err)
		}
		all, err := on.Containers(garden.Properties{})
		must(t, err)
		if len(all) > 0 {
			t.Errorf("%d containers are left", len(all))
		}
	})
}
