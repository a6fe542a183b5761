package inside

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/gardend/gardend/tests/go/peer"
)

// patience bounds what is waited for in a connection that is there.
const patience = 20 * time.Second

// network does what the words name over the container's network.
func network(words []string) error {
	switch verb := words[0]; {
	case verb == "reach" && len(words) > 3:
		milliseconds, err := strconv.Atoi(words[1])
		if err != nil {
			return err
		}
		reach(time.Duration(milliseconds)*time.Millisecond, words[2], words[3:])
		return nil
	case verb == "serve" && len(words) > 1:
		if err := peer.Serve(func(text, from string) { fmt.Printf("heard %q from %s\n", text, from) }, words[1:]...); err != nil {
			return err
		}
		fmt.Println("serving")
		select {}
	case verb == "talk" && len(words) == 3:
		return peer.Talk(words[1], words[2], 50*time.Millisecond, patience, func(line string) { fmt.Println(line) })
	case verb == "drum" && len(words) == 3:
		return peer.Drum(words[1], words[2], 5*time.Millisecond)
	case verb == "transfer" && len(words) == 4:
		bytes, err := strconv.ParseInt(words[3], 10, 64)
		if err != nil {
			return err
		}
		took, err := peer.Transfer(words[1], words[2], bytes, patience)
		fmt.Println(took)
		return err
	case verb == "forge" && len(words) == 4:
		return peer.Forge(words[1], words[2], words[3])
	}
	return os.ErrInvalid
}

// reach tries all ends at the same time and tells of each.
func reach(patience time.Duration, text string, names []string) {
	var group sync.WaitGroup
	outcomes := make([]string, len(names))
	for index, name := range names {
		group.Go(func() { outcomes[index] = peer.Reach(name, text, patience) })
	}
	group.Wait()
	for index, name := range names {
		fmt.Printf("%s: %s\n", name, outcomes[index])
	}
}
