package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory is the proportional set size, in bytes, of gardend itself, and of all else that belongs to the server:
// containerd, shims, inits.
func (s *Server) Memory() (own, others int64, err error) {
	if own, err = proportional(s.Pid()); err != nil {
		return 0, 0, err
	}
	parents := map[int]int{}
	var roots []int
	for _, name := range names("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == s.Pid() {
			continue
		}
		command, _ := os.ReadFile(filepath.Join("/proc", name, "cmdline"))
		comm, _ := os.ReadFile(filepath.Join("/proc", name, "comm"))
		if strings.HasPrefix(string(comm), "containerd") && strings.Contains(string(command), s.RunDir()+"/") {
			roots = append(roots, pid)
		}
		parents[pid] = parentOf(pid)
	}
	belongs := map[int]bool{}
	for _, pid := range roots {
		belongs[pid] = true
	}
	for pid := range parents {
		if belongs[pid] || belongs[parents[pid]] && strings.HasPrefix(commOf(pid), "garden-init") {
			size, err := proportional(pid)
			if err == nil {
				others += size
			}
		}
	}
	return own, others, nil
}

func proportional(pid int) (int64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		var kibibytes int64
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &kibibytes); err == nil {
			return kibibytes << 10, nil
		}
	}
	return 0, fmt.Errorf("no Pss of process %d", pid)
}

func commOf(pid int) string {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(comm))
}

// parentOf is a process's parent; 0 where the process is gone or a zombie.
func parentOf(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The command's name, in parentheses, may hold anything.
	end := strings.LastIndexByte(string(stat), ')')
	if end < 0 {
		return 0
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 2 || fields[0] == "Z" {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}
