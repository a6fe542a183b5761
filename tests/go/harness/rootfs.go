package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// MappedRoot is the user on the host that a container's root is, where the container is not privileged.
const MappedRoot = 4294967294

const accounts = `root:x:0:0:root:/root:/bin/sh
alice:x:1001:1001:alice:/home/alice:/bin/sh
bob:x:1002:1002:bob:/home/bob:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
`

const groups = `root:x:0:
alice:x:1001:
bob:x:1002:
staff:x:2001:alice,bob
wheel:x:2002:alice
nogroup:x:65534:
`

// Rootfs makes a root file system of busybox with the users root, alice (also in staff and wheel) and bob (also in
// staff), and copies of it.
type Rootfs struct {
	template string
}

// NewRootfs makes the template in a folder that does not exist yet.
func NewRootfs(folder string) (*Rootfs, error) {
	script := filepath.Join(ProjectRoot(), "scripts", "busybox-rootfs.sh")
	if output, err := exec.Command(script, folder).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, output)
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(folder, "etc", "passwd"), []byte(accounts), 0o644),
		os.WriteFile(filepath.Join(folder, "etc", "group"), []byte(groups), 0o644),
	)
	for name, id := range map[string]int{"alice": 1001, "bob": 1002} {
		home := filepath.Join(folder, "home", name)
		err = errors.Join(err, os.Mkdir(home, 0o755), os.Chown(home, id, id))
	}
	return &Rootfs{template: folder}, err
}

// Folder is the template itself, owned by the host's root.
func (r *Rootfs) Folder() string { return r.template }

// Copy copies the template into a folder that does not exist yet; what root owns belongs to `root` in the copy.
func (r *Rootfs) Copy(target string, root int) error {
	return filepath.WalkDir(r.template, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(r.template, path)
		if err != nil {
			return err
		}
		to := filepath.Join(target, relative)
		uid, gid := owner(info)
		if uid == 0 {
			uid, gid = root, root
		}
		switch {
		case entry.IsDir():
			err = errors.Join(os.Mkdir(to, 0o755), os.Lchown(to, uid, gid), os.Chmod(to, info.Mode()))
		case entry.Type()&fs.ModeSymlink != 0:
			var points string
			if points, err = os.Readlink(path); err == nil {
				err = os.Symlink(points, to)
			}
			err = errors.Join(err, os.Lchown(to, uid, gid))
		default:
			var content []byte
			if content, err = os.ReadFile(path); err == nil {
				err = os.WriteFile(to, content, info.Mode().Perm())
			}
			err = errors.Join(err, os.Lchown(to, uid, gid))
		}
		return err
	})
}
