package harness

import (
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
	links           []string
}

func look() host {
	return host{namedNamespaces: names("/run/netns"), links: names("/sys/class/net")}
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
// reports what is left over: places, inits, shims, mounts, cgroups, spools, layers, links. Call it when all
// containers were destroyed.
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
		if id := ourID.FindString(filepath.Base(group)); id != "" && !slices.Contains(places, id) {
			report("cgroup %s", group)
		}
	}
	after := look()
	for _, name := range after.namedNamespaces {
		if !slices.Contains(s.before.namedNamespaces, name) {
			report("network namespace %s", name)
		}
	}
	for _, name := range after.links {
		if !slices.Contains(s.before.links, name) {
			report("network link %s", name)
		}
	}
	return found
}

// processes counts the inits and the shims that belong to this server.
func (s *Server) processes() (inits, shims int) {
	parent := map[int]int{}
	ours := map[int]bool{}
	var init []int
	for _, name := range names("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", name, "stat"))
		if err != nil {
			continue
		}
		end := strings.LastIndexByte(string(stat), ')')
		if end < 0 {
			continue
		}
		fields := strings.Fields(string(stat[end+1:]))
		if len(fields) > 1 && fields[0] != "Z" {
			parent[pid], _ = strconv.Atoi(fields[1])
		}
		command, _ := os.ReadFile(filepath.Join("/proc", name, "cmdline"))
		comm, _ := os.ReadFile(filepath.Join("/proc", name, "comm"))
		if strings.HasPrefix(string(comm), "containerd-shim") && strings.Contains(string(command), s.RunDir()+"/") {
			ours[pid] = true
			shims++
		}
		if strings.TrimSpace(string(comm)) == "garden-init" {
			init = append(init, pid)
		}
	}
	for _, pid := range init {
		if ours[parent[pid]] {
			inits++
		}
	}
	// One whose shim died is nobody's child any more; its place's folder still names it.
	noted, _ := filepath.Glob(filepath.Join(s.RunDir(), "places", "*", "init.pid"))
	for _, path := range noted {
		text, _ := os.ReadFile(path)
		fields := strings.Fields(string(text))
		if len(fields) == 2 {
			if pid, _ := strconv.Atoi(fields[0]); slices.Contains(init, pid) && !ours[parent[pid]] {
				inits++
			}
		}
	}
	return inits, shims
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

// cgroups are all groups below those named gardend, at the top of any hierarchy, that this server's places are in.
// Other servers on the machine have groups there too: only ids that this server's log or folders know are ours.
func (s *Server) cgroups() []string {
	known := map[string]bool{}
	for _, id := range s.knownIDs() {
		known[id] = true
	}
	var found []string
	for _, top := range append(glob("/sys/fs/cgroup/gardend*"), glob("/sys/fs/cgroup/*/gardend*")...) {
		_ = filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() && known[ourID.FindString(entry.Name())] {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
}

func glob(pattern string) []string {
	found, _ := filepath.Glob(pattern)
	return found
}

// knownIDs are the ids in the server's log.
func (s *Server) knownIDs() []string {
	content, err := os.ReadFile(s.LogPath())
	if err != nil {
		return nil
	}
	return ourID.FindAllString(string(content), -1)
}
