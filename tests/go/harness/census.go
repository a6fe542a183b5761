package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// host is what can be counted on the machine and does not carry a server's name.
type host struct {
	namedNamespaces []string
	mounted         int
	network         network
}

// look looks at the machine, and at the network that the server runs in.
func (s *Server) look() (host, error) {
	network, err := s.network()
	return host{namedNamespaces: names("/run/netns"), mounted: mountedNamespaces(), network: network}, err
}

func names(folder string) []string {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	found := make([]string, 0, len(entries))
	for _, entry := range entries {
		found = append(found, entry.Name())
	}
	return found
}

var ourID = regexp.MustCompile(`\b[0-9a-f]{32}\b`)

// Census waits until the server holds nothing but its blank places (it may keep `blank` of them at most), and
// reports what is left over: places, inits, shims, mounts, cgroups, spools, layers, and in the network links, rules,
// routes, namespaces, and what the packet filter holds. Call it when all containers were destroyed.
func (s *Server) Census(blank int, deadline time.Duration) error {
	end := time.Now().Add(deadline)
	for {
		leftovers := s.leftovers(blank)
		if len(leftovers) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("left over %v after the last destroy:\n  %s", deadline, strings.Join(leftovers, "\n  "))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// CensusSince is a census of what came since another of its gardends was ready: its containers outlive it.
func (s *Server) CensusSince(earlier *Server, blank int, deadline time.Duration) error {
	s.before = earlier.before
	return s.Census(blank, deadline)
}

func (s *Server) leftovers(blank int) []string {
	var found []string
	report := func(format string, arguments ...any) { found = append(found, fmt.Sprintf(format, arguments...)) }

	places := names(filepath.Join(s.RunDir(), "places"))
	if len(places) > blank {
		report("%d places where at most %d blank ones belong: %v", len(places), blank, places)
	}
	for what, folder := range map[string]string{
		"spool": filepath.Join(s.RunDir(), "spool"),
		"layer": filepath.Join(s.StateDir(), "layers"),
	} {
		if kept := names(folder); len(kept) > 0 {
			report("%d of the kind %s: %v", len(kept), what, kept)
		}
	}

	inits, shims := s.processes()
	if inits > len(places) {
		report("%d garden-init processes for %d places", inits, len(places))
	}
	if shims > len(places) {
		report("%d shims for %d places", shims, len(places))
	}
	for _, point := range mounts() {
		if !strings.HasPrefix(point, s.Folder) {
			continue
		}
		if id := ourID.FindString(point); id == "" || !slices.Contains(places, id) {
			report("mount %s", point)
		}
	}
	for _, group := range s.cgroups() {
		if !slices.Contains(places, ourID.FindString(group)) {
			report("cgroup %s", group)
		}
	}
	after, err := s.look()
	if err != nil {
		report("the network cannot be looked at: %v", err)
	}
	for _, name := range after.namedNamespaces {
		if !slices.Contains(s.before.namedNamespaces, name) {
			report("network namespace %s", name)
		}
	}
	if after.mounted > s.before.mounted {
		report("%d namespaces kept by a mount", after.mounted-s.before.mounted)
	}
	if held := heldNamespaces(s.Pid()); held > len(places)+1 {
		report("%d network namespaces held open by gardend", held)
	}
	return append(found, after.network.more(s.before.network)...)
}

// processes counts the inits and the shims that belong to this server.
func (s *Server) processes() (inits, shims int) {
	shim := map[int]bool{}
	var running []int
	for _, name := range names("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil || parentOf(pid) == 0 {
			continue
		}
		command, _ := os.ReadFile(filepath.Join("/proc", name, "cmdline"))
		switch comm := commOf(pid); {
		case comm == "garden-init":
			running = append(running, pid)
		case strings.HasPrefix(comm, "containerd-shim") && strings.Contains(string(command), s.RunDir()+"/"):
			shim[pid] = true
		}
	}
	// One whose shim died is nobody's child any more; its cgroup still tells whose it is.
	mark := "/gardend/" + s.Owner() + "/"
	for _, pid := range running {
		groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if shim[parentOf(pid)] || strings.Contains(string(groups), mark) {
			inits++
		}
	}
	return inits, len(shim)
}

// mounts are the mount points of this mount namespace.
func mounts() []string {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var points []string
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			points = append(points, fields[4])
		}
	}
	return points
}

// MountsBelow are the mount points of the host at or below a folder.
func MountsBelow(folder string) []string {
	var found []string
	for _, point := range mounts() {
		if point == folder || strings.HasPrefix(point, folder+"/") {
			found = append(found, point)
		}
	}
	return found
}

// cgroups are all groups of this server's places, and what was made below them.
func (s *Server) cgroups() []string {
	var found []string
	for _, top := range append(glob("/sys/fs/cgroup/gardend/"+s.Owner()), glob("/sys/fs/cgroup/*/gardend/"+s.Owner())...) {
		_ = filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() && path != top {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
}

// Owner is how the server marks what it shares a place with others for (src/node/containerd/labels.rs, OwnerMark).
func (s *Server) Owner() string {
	state, stateErr := filepath.EvalSymlinks(s.StateDir())
	run, runErr := filepath.EvalSymlinks(s.RunDir())
	if stateErr != nil || runErr != nil {
		return "its folders are gone"
	}
	sum := sha256.Sum256([]byte(state + "\x00" + run))
	return hex.EncodeToString(sum[:8])
}

func glob(pattern string) []string {
	found, _ := filepath.Glob(pattern)
	return found
}
