package harness

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
)

// network is what can be counted of one namespace: by a name of what it is and where, how often it is there.
type network map[string]int

// network looks at the namespace that the server runs in.
func (s *Server) network() (seen network, err error) {
	err = s.within(func() error {
		seen, err = lookAtNetwork()
		return err
	})
	return seen, err
}

func lookAtNetwork() (network, error) {
	seen := network{}
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		seen["link "+link.Name]++
	}
	if os.Getenv(NetworkOption) == "none" {
		return seen, nil
	}
	for _, arguments := range []string{"-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all"} {
		said, err := command("", "ip", strings.Fields(arguments)...)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(said) {
			seen["ip "+arguments+": "+strings.TrimSpace(line)]++
		}
	}
	return seen, seen.addRuleset()
}

// addRuleset counts the rules of each chain and the elements of each set and map.
func (n network) addRuleset() error {
	said, err := command("", "nft", "-j", "list", "ruleset")
	if err != nil {
		return err
	}
	type object struct {
		Family, Table, Name, Chain string
		Elem                       []json.RawMessage
	}
	var ruleset struct {
		Nftables []map[string]object
	}
	if err := json.Unmarshal([]byte(said), &ruleset); err != nil {
		return fmt.Errorf("what nft says: %w", err)
	}
	for _, entry := range ruleset.Nftables {
		for kind, what := range entry {
			name := fmt.Sprintf("%s of table %s %s", kind, what.Family, what.Table)
			switch kind {
			case "metainfo":
			case "rule":
				n[name+" in chain "+what.Chain]++
			case "set", "map":
				n["element of "+what.Name+" of table "+what.Family+" "+what.Table] += len(what.Elem)
				n[name+": "+what.Name]++
			default:
				n[name+": "+what.Name]++
			}
		}
	}
	return nil
}

// more names what is there more often than before.
func (n network) more(before network) []string {
	var found []string
	for what, count := range n {
		if count > before[what] {
			found = append(found, fmt.Sprintf("%d more of: %s", count-before[what], what))
		}
	}
	slices.Sort(found)
	return found
}

// heldNamespaces is how many network namespaces a process holds open.
func heldNamespaces(pid int) int {
	held := 0
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	for _, name := range names(folder) {
		if target, err := os.Readlink(folder + "/" + name); err == nil && strings.HasPrefix(target, "net:[") {
			held++
		}
	}
	return held
}

// mountedNamespaces is how many namespaces are kept by a mount, of whatever kind.
func mountedNamespaces() int {
	content, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Count(string(content), " - nsfs ")
}
