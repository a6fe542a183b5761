package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gardend/gardend/tests/go/harness"
)

// floor is what nobody who uses containerd and an OCI runtime can go below: a container made and started, a process
// executed in it, all of it deleted, without images, networks and streams.
type floor struct {
	client  *containerd.Client
	root    string
	mapped  string
	runtime string
	cgroup  string
	next    int
}

// newFloor measures on the containerd of a gardend, in a namespace of its own; its cgroups go when the gardend's do.
// Of its two root file systems the host's root owns the one, and the root of a user namespace the other.
func newFloor(on *harness.Server, root, mapped string) (*floor, error) {
	client, err := containerd.New(filepath.Join(on.RunDir(), "containerd", "containerd.sock"))
	if err != nil {
		return nil, err
	}
	runtime := os.Getenv("GARDEND_RUNTIME")
	if runtime == "" {
		runtime = "runc"
	}
	return &floor{client: client, root: root, mapped: mapped, runtime: runtime, cgroup: "/gardend/" + on.Owner()}, nil
}

func (f *floor) close() { _ = f.client.Close() }

// life measures create + start, exec to its exit, and delete; with a user namespace, as every unprivileged container
// has it, or without.
func (f *floor) life(ctx context.Context, userNamespace bool, record func(string, time.Duration)) error {
	ctx = namespaces.WithNamespace(ctx, "floor")
	f.next++
	id := fmt.Sprintf("floor-%d", f.next)
	root, kind := f.root, ""
	kindOf := func(context.Context, oci.Client, *containers.Container, *oci.Spec) error { return nil }
	if userNamespace {
		root, kind = f.mapped, ", user namespace"
		kindOf = oci.WithUserNamespace(
			[]specs.LinuxIDMapping{{ContainerID: 0, HostID: harness.MappedRoot, Size: 1}, {ContainerID: 1, HostID: 1, Size: 65535}},
			[]specs.LinuxIDMapping{{ContainerID: 0, HostID: harness.MappedRoot, Size: 1}, {ContainerID: 1, HostID: 1, Size: 65535}},
		)
	}

	begin := time.Now()
	container, err := f.client.NewContainer(ctx, id,
		containerd.WithRuntime("io.containerd.runc.v2", &options.Options{BinaryName: f.runtime}),
		containerd.WithNewSpec(oci.WithRootFSPath(root), oci.WithProcessArgs("/bin/sleep", "1000"),
			oci.WithCgroup(f.cgroup+"/"+id), kindOf, oldSpec),
	)
	if err != nil {
		return err
	}
	task, err := container.NewTask(ctx, cio.NullIO)
	if err != nil {
		return err
	}
	if err := task.Start(ctx); err != nil {
		return err
	}
	record("floor: create + start"+kind, time.Since(begin))

	begin = time.Now()
	spec, err := container.Spec(ctx)
	if err != nil {
		return err
	}
	exec := *spec.Process
	exec.Args = []string{"/bin/true"}
	executed, err := task.Exec(ctx, "exec", &exec, cio.NullIO)
	if err != nil {
		return err
	}
	ended, err := executed.Wait(ctx)
	if err != nil {
		return err
	}
	if err := executed.Start(ctx); err != nil {
		return err
	}
	if status := <-ended; status.Error() != nil || status.ExitCode() != 0 {
		return fmt.Errorf("exec: %d, %w", status.ExitCode(), status.Error())
	}
	record("floor: exec"+kind, time.Since(begin))

	begin = time.Now()
	if _, err := executed.Delete(ctx); err != nil {
		return err
	}
	gone, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	if err := task.Kill(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	<-gone
	if _, err := task.Delete(ctx); err != nil {
		return err
	}
	if err := container.Delete(ctx); err != nil {
		return err
	}
	record("floor: delete"+kind, time.Since(begin))
	return nil
}

// oldSpec calls the spec by a version that every runtime takes: nothing in it is newer.
func oldSpec(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
	if !strings.HasPrefix(spec.Version, "1.0.") {
		spec.Version = "1.0.2"
	}
	return nil
}
