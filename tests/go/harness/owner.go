package harness

import (
	"io/fs"
	"syscall"
)

// owner is the user and the group that a file belongs to.
func owner(info fs.FileInfo) (uid, gid int) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid), int(stat.Gid)
	}
	return 0, 0
}
