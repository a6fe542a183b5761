package garden_test

import (
	"bytes"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/garden/client"
	"code.cloudfoundry.org/garden/client/connection"
	"code.cloudfoundry.org/lager/v3"
	"golang.org/x/sys/unix"

	"github.com/gardend/gardend/tests/go/harness"
)

const goarch = runtime.GOARCH

func getxattr(path, name string, value []byte) (int, error) { return unix.Getxattr(path, name, value) }

func killPid(text string) error {
	pid, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// output is what a process wrote, where it could be run.
func output(container garden.Container, spec garden.ProcessSpec) (string, error) {
	var stdout bytes.Buffer
	process, err := container.Run(spec, garden.ProcessIO{Stdout: &stdout})
	if err != nil {
		return "", err
	}
	_, err = waited(process, patience)
	return stdout.String(), err
}

// cut begins to answer and breaks the connection after so many bytes.
func cut(w http.ResponseWriter, r *http.Request, after int) {
	source, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	fake, _ := source.Handler.(*harness.FakeRegistry)
	fake.ServePlain(&cutter{ResponseWriter: w, left: after}, r)
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(data []byte) (int, error) {
	if len(data) <= c.left {
		c.left -= len(data)
		return c.ResponseWriter.Write(data)
	}
	_, _ = c.ResponseWriter.Write(data[:c.left])
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

// ReadFrom hides the response's own, which would pass by.
func (c *cutter) ReadFrom(source io.Reader) (int64, error) {
	buffer := make([]byte, 32<<10)
	var total int64
	for {
		n, err := source.Read(buffer)
		if n > 0 {
			_, _ = c.Write(buffer[:n])
			total += int64(n)
		}
		if err != nil {
			return total, nil //nolint:nilerr // the end
		}
	}
}

// scissors are a client and what cuts it off.
type scissors struct {
	client client.Client
	dialer *harness.Dialer
}

func cutClient(server *harness.Server) scissors {
	dialer := harness.NewDialer(server)
	return scissors{client.New(connection.NewWithDialerAndLogger(dialer.Dial, lager.NewLogger("test"))), dialer}
}

// serveHub lets a registry answer below /hub.
func serveHub(registry *harness.FakeRegistry) {
	registry.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		path, found := strings.CutPrefix(r.URL.Path, "/hub")
		if !found {
			harness.Refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "not below /hub")
			return true
		}
		r.URL.Path = path
		registry.ServePlain(w, r)
		return true
	})
}
