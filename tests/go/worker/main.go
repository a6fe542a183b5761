// Program worker plays a Concourse worker in a pod: it makes volumes that are overlay mounts, in its own mount namespace,
// and has the real Garden client make containers on them, at an address where somebody passes its connections on. It
// prints what it has found, line by line, and fails with what was otherwise.
//
//	worker ADDRESS VOLUMES OVERLAYS ROOT
//
// ROOT is a folder with a static busybox in bin/.
package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/garden/client"
	"code.cloudfoundry.org/garden/client/connection"
)

// nobody is root of an unprivileged container, as the worker's volumes know it.
const nobody = 4294967294

func main() {
	if len(os.Args) != 5 {
		fail(fmt.Errorf("usage: %s ADDRESS VOLUMES OVERLAYS ROOT", os.Args[0]))
	}
	address, volumes, overlays, root := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	garden := client.New(connection.New("tcp", address))
	must(reach(garden))

	rootfs, err := overlay(volumes, overlays, "rootfs", root)
	must(err)
	base := filepath.Join(overlays, "base")
	must(os.MkdirAll(base, 0o755))
	must(os.WriteFile(filepath.Join(base, "file"), []byte("from the worker"), 0o644))
	input, err := overlay(volumes, overlays, "input", base)
	must(err)
	must(build(garden, rootfs, input))

	for _, volume := range []string{rootfs, input} {
		must(unix.Unmount(volume, 0))
	}
	fmt.Println("volumes are unmounted")
}

// reach waits until whoever passes connections on does so.
func reach(server garden.Client) error {
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = server.Ping(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("gardend is not reached: %w", err)
}

// overlay makes a volume above a folder, owned as an unprivileged container sees it.
func overlay(volumes, overlays, name, lower string) (string, error) {
	volume, upper, work := filepath.Join(volumes, name), filepath.Join(overlays, name), filepath.Join(overlays, name+"-work")
	for _, folder := range []string{volume, upper, work} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return "", err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
	if err := unix.Mount("overlay", volume, "overlay", 0, options); err != nil {
		return "", fmt.Errorf("mounting %s: %w", volume, err)
	}
	own := func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	}
	return volume, filepath.WalkDir(volume, own)
}

func build(server garden.Client, rootfs, input string) error {
	container, err := server.Create(garden.ContainerSpec{
		Handle:     "build",
		RootFSPath: "raw://" + rootfs,
		BindMounts: []garden.BindMount{{SrcPath: input, DstPath: "/tmp/build/input", Mode: garden.BindMountModeRW}},
	})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	var output bytes.Buffer
	process, err := container.Run(garden.ProcessSpec{
		Path: "/bin/busybox",
		Args: []string{"sh", "-c", "cd /tmp/build/input && busybox cat file && echo result >result && echo made >/made; exit 3"},
		User: "root",
	}, garden.ProcessIO{Stdout: &output, Stderr: &output})
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	status, err := process.Wait()
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	fmt.Printf("the build ended with %d and said %q\n", status, output.String())

	// What the container wrote is in the worker's volumes.
	for _, path := range []string{filepath.Join(input, "result"), filepath.Join(rootfs, "made")} {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Printf("%s has %q\n", filepath.Base(path), content)
	}
	if err := server.Destroy("build"); err != nil {
		return fmt.Errorf("destroy: %w", err)
	}
	return nil
}

func must(err error) {
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "worker:", err)
	os.Exit(1)
}
