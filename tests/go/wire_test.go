package garden_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
)

// wire is one connection, spoken to by hand where the client cannot say what is to be tested.
type wire struct {
	t *testing.T
	net.Conn
	reader *bufio.Reader
}

func dial(t *testing.T) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", server.Address)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	return &wire{t: t, Conn: conn, reader: bufio.NewReader(conn)}
}

// says writes text as it is.
func (w *wire) says(format string, arguments ...any) {
	w.t.Helper()
	_, err := fmt.Fprintf(w.Conn, format, arguments...)
	must(w.t, err)
}

// asks writes a request with a JSON body.
func (w *wire) asks(method, path, body string) {
	w.t.Helper()
	w.says("%s %s HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
}

// hears reads one answer with its whole body.
func (w *wire) hears() (*http.Response, string) {
	w.t.Helper()
	response, err := http.ReadResponse(w.reader, nil)
	must(w.t, err)
	body, err := io.ReadAll(response.Body)
	must(w.t, err)
	return response, string(body)
}

// answer is what one request on one connection gets.
func answer(t *testing.T, method, path, body string) (*http.Response, string) {
	t.Helper()
	conn := dial(t)
	conn.asks(method, path, body)
	return conn.hears()
}

// wireError is Garden's error, as it stands on the wire.
type wireError struct{ Type, Message, Handle, ProcessID, Binary string }

// errorOf fails unless an answer is an error of Garden's that a client can read on a connection that it reuses.
func errorOf(t *testing.T, response *http.Response, body string) wireError {
	t.Helper()
	if response.StatusCode < 400 {
		t.Fatalf("status %d, %s", response.StatusCode, body)
	}
	equal(t, "type of the body", response.Header.Get("Content-Type"), "application/json")
	equal(t, "end of the body", strings.HasSuffix(body, "\n"), true)
	var failure wireError
	if err := json.Unmarshal([]byte(body), &failure); err != nil {
		t.Fatalf("%v: %q", err, body)
	}
	if failure.Message == "" {
		t.Fatalf("an error that says nothing: %q", body)
	}
	return failure
}

func quote(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(quoted)
}

func TestWire(t *testing.T) {
	behaviour(t, "answers are JSON and end in a newline", func(t *testing.T) {
		response, body := answer(t, "GET", "/ping", "")
		equal(t, "status", response.StatusCode, 200)
		equal(t, "type", response.Header.Get("Content-Type"), "application/json")
		equal(t, "body", body, "{}\n")
	})
	behaviour(t, "a connection serves one request after the other", func(t *testing.T) {
		conn := dial(t)
		for range 3 {
			conn.asks("GET", "/ping", "")
			response, body := conn.hears()
			equal(t, "answer", fmt.Sprint(response.StatusCode, body), "200{}\n")
			conn.asks("DELETE", "/containers/"+unique("unknown"), "")
			response, body = conn.hears()
			equal(t, "status", response.StatusCode, 404)
			equal(t, "type", errorOf(t, response, body).Type, "ContainerNotFoundError")
		}
	})
	behaviour(t, "requests that were sent ahead are answered in order", func(t *testing.T) {
		conn := dial(t)
		for _, path := range []string{"/ping", "/capacity", "/ping"} {
			conn.says("GET %s HTTP/1.1\r\nHost: api\r\n\r\n", path)
		}
		for _, part := range []string{"{}", "max_containers", "{}"} {
			_, body := conn.hears()
			holds(t, body, part)
		}
	})
	behaviour(t, "a client of HTTP/1.0 is answered", func(t *testing.T) {
		conn := dial(t)
		conn.says("GET /ping HTTP/1.0\r\n\r\n")
		_, body := conn.hears()
		equal(t, "body", body, "{}\n")
	})
	behaviour(t, "an error before a hijack has a length and leaves the connection open", func(t *testing.T) {
		container := create(t, spec(t))
		conn := dial(t)
		conn.asks("GET", "/containers/"+container.Handle()+"/processes/none", "")
		response, body := conn.hears()
		equal(t, "status", response.StatusCode, 404)
		failure := errorOf(t, response, body)
		equal(t, "type", failure.Type, "ProcessNotFoundError")
		equal(t, "process", failure.ProcessID, "none")
		equal(t, "length", response.ContentLength, int64(len(body)))
		equal(t, "closed", response.Close, false)
	})
	behaviour(t, "an empty list is a list", func(t *testing.T) {
		_, body := answer(t, "GET", "/containers?"+unique("nobody")+"=x", "")
		equal(t, "body", strings.TrimSpace(body), `{"Handles":[]}`)
	})
	behaviour(t, "what is no JSON is refused and makes nothing", func(t *testing.T) {
		handle := unique("c")
		for _, body := range []string{`{"handle":"` + handle + `"`, `{"handle":"` + handle + `",}`, `not json`, `[]`, `"text"`, ``, "\xff\xfe"} {
			response, said := answer(t, "POST", "/containers", body)
			errorOf(t, response, said)
		}
		equal(t, "listed", listed(t, handle), false)
		equal(t, "ping", gard.Ping(), nil)
	})
	behaviour(t, "a field of the wrong type is refused by its name", func(t *testing.T) {
		for field, body := range map[string]string{
			"handle":     `{"handle":5}`,
			"grace_time": `{"grace_time":"soon"}`,
			"privileged": `{"privileged":"yes"}`,
			"env":        `{"env":"A=b"}`,
			"mode":       `{"bind_mounts":[{"src_path":"/tmp","dst_path":"/x","mode":"RO"}]}`,
			"properties": `{"properties":["a"]}`,
			"uri":        `{"image":{"uri":{}}}`,
		} {
			response, said := answer(t, "POST", "/containers", body)
			holds(t, errorOf(t, response, said).Message, field)
		}
		container := create(t, spec(t))
		for field, body := range map[string]string{
			"args": `{"path":"true","args":"x"}`, "nofile": `{"path":"true","rlimits":{"nofile":"many"}}`,
			"columns": `{"path":"true","tty":{"window_size":{"columns":"wide","rows":1}}}`, "path": `{"path":["true"]}`,
		} {
			response, said := answer(t, "POST", "/containers/"+container.Handle()+"/processes", body)
			holds(t, errorOf(t, response, said).Message, field)
		}
	})
	behaviour(t, "a run that names no program is refused", func(t *testing.T) {
		container := create(t, spec(t))
		response, said := answer(t, "POST", "/containers/"+container.Handle()+"/processes", `{}`)
		holds(t, errorOf(t, response, said).Message, "path")
	})
	behaviour(t, "fields that gardend does not know are ignored", func(t *testing.T) {
		asked := spec(t)
		t.Cleanup(func() { destroyOn(t, gard, asked.Handle) })
		response, said := answer(t, "POST", "/containers", fmt.Sprintf(
			`{"handle":%s,"image":{"uri":%s,"new":{}},"from_the_future":[1,{"x":null}],"network":null}`, quote(asked.Handle), quote(asked.Image.URI)))
		equal(t, said, response.StatusCode, 200)
		equal(t, "listed", listed(t, asked.Handle), true)
	})
	behaviour(t, "an unknown path and a wrong method are Garden errors too", func(t *testing.T) {
		for _, request := range [][2]string{
			{"GET", "/"}, {"GET", "/no/such/path"}, {"PATCH", "/ping"}, {"PUT", "/containers"}, {"GET", "/containers/x/processes/y/z"},
		} {
			response, said := answer(t, request[0], request[1], "")
			errorOf(t, response, said)
		}
	})
	behaviour(t, "a request that is no HTTP gets an error or the end, and hurts nobody", func(t *testing.T) {
		for _, text := range []string{"\x00\x01\x02\r\n\r\n", "GET\r\n\r\n", "GET /ping HTTP/9.9\r\n\r\n", "GET /ping HTTP/1.1\r\nContent-Length: -5\r\n\r\n"} {
			conn := dial(t)
			conn.says("%s", text)
			if response, err := http.ReadResponse(conn.reader, nil); err == nil && response.StatusCode < 400 {
				t.Fatalf("%q was answered with %d", text, response.StatusCode)
			}
		}
		must(t, gard.Ping())
	})
	behaviour(t, "headers without an end are refused", func(t *testing.T) {
		conn := dial(t)
		conn.says("GET /ping HTTP/1.1\r\nHost: api\r\n")
		line := "X-Filler: " + strings.Repeat("x", 8<<10) + "\r\n"
		for range 256 {
			if _, err := io.WriteString(conn, line); err != nil {
				return
			}
		}
		if response, err := http.ReadResponse(conn.reader, nil); err == nil && response.StatusCode < 400 {
			t.Fatalf("answered with %d", response.StatusCode)
		}
	})
	behaviour(t, "a body beyond the limit is refused before it is read, in words", func(t *testing.T) {
		conn := dial(t)
		conn.says("POST /containers HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{\"handle\":\"", 10<<30)
		response, said := conn.hears()
		errorOf(t, response, said)
	})
	behaviour(t, "a client that sends a body beyond the limit to its end still reads the error", func(t *testing.T) {
		conn := dial(t)
		size := 24 << 20
		conn.says("POST /containers HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", size)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			chunk := []byte(strings.Repeat("x", mebibyte))
			for range size / mebibyte {
				if _, err := conn.Write(chunk); err != nil {
					return
				}
			}
		}()
		<-sent
		response, said := conn.hears()
		errorOf(t, response, said)
	})
	behaviour(t, "a slow client is served, and holds up nobody", func(t *testing.T) {
		conn := dial(t)
		for _, letter := range "GET /ping HTTP/1.1\r\nHost: api\r\n\r\n" {
			conn.says("%c", letter)
			time.Sleep(10 * time.Millisecond)
			must(t, gard.Ping())
		}
		_, body := conn.hears()
		equal(t, "body", body, "{}\n")
	})
	behaviour(t, "a chunked body is understood", func(t *testing.T) {
		asked := spec(t)
		t.Cleanup(func() { destroyOn(t, gard, asked.Handle) })
		conn := dial(t)
		conn.says("POST /containers HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n")
		for _, part := range []string{`{"handle":`, quote(asked.Handle), `,"rootfs":`, quote(asked.Image.URI), `}`} {
			conn.says("%x\r\n%s\r\n", len(part), part)
		}
		conn.says("0\r\n\r\n")
		response, said := conn.hears()
		equal(t, said, response.StatusCode, 200)
		holds(t, said, asked.Handle)
	})
	behaviour(t, "a create whose client goes away leaves nothing and its handle is free", func(t *testing.T) {
		asked := spec(t)
		body := fmt.Sprintf(`{"handle":%s,"rootfs":%s}`, quote(asked.Handle), quote(asked.Image.URI))
		for round := range 20 {
			conn := dial(t)
			conn.asks("POST", "/containers", body)
			time.Sleep(time.Duration(round) * time.Millisecond)
			must(t, conn.Close())
		}
		// The answer of the one or the other was on its way already: then that container is there.
		eventually(t, patience, func() error {
			err := gard.Destroy(asked.Handle)
			if err == nil || errors.As(err, new(garden.ContainerNotFoundError)) {
				_, err = gard.Create(asked)
			}
			return err
		})
		must(t, gard.Destroy(asked.Handle))
	})
	behaviour(t, "a client that goes away in the middle of its request leaves nothing", func(t *testing.T) {
		asked := spec(t)
		body := fmt.Sprintf(`{"handle":%s,"rootfs":%s}`, quote(asked.Handle), quote(asked.Image.URI))
		for cut := 0; cut < len(body); cut += 7 {
			conn := dial(t)
			conn.says("POST /containers HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:cut])
			must(t, conn.Close())
		}
		time.Sleep(100 * time.Millisecond)
		equal(t, "listed", listed(t, asked.Handle), false)
		create(t, asked)
	})
	behaviour(t, "escaped paths name what they stand for", func(t *testing.T) {
		asked := spec(t)
		asked.Handle = unique("with space+plus")
		container := create(t, asked)
		path := "/containers/" + url.PathEscape(asked.Handle) + "/properties/"
		for _, key := range []string{"a/b", "a?b", "a%2Fb", "a b+c", "ü", "."} {
			escaped := path + strings.ReplaceAll(url.PathEscape(key), ".", "%2E")
			response, said := answer(t, "PUT", escaped, `{"value":`+quote("of "+key)+`}`)
			equal(t, key+": "+said, response.StatusCode, 200)
			_, said = answer(t, "GET", escaped, "")
			equal(t, key, strings.TrimSpace(said), `{"value":`+quote("of "+key)+`}`)
			properties, err := container.Properties()
			must(t, err)
			equal(t, "value of "+key, properties[key], "of "+key)
			response, said = answer(t, "DELETE", escaped, "")
			equal(t, key+": "+said, response.StatusCode, 200)
		}
		response, said := answer(t, "GET", "/containers/%2e%2e/info", "")
		errorOf(t, response, said)
	})
	behaviour(t, "the grace time is a bare number of nanoseconds", func(t *testing.T) {
		container := create(t, spec(t))
		response, said := answer(t, "PUT", "/containers/"+container.Handle()+"/grace_time", "3600000000000\n")
		equal(t, said, fmt.Sprint(response.StatusCode, said), "200{}\n")
		response, said = answer(t, "PUT", "/containers/"+container.Handle()+"/grace_time", `"1h"`)
		errorOf(t, response, said)
	})
	behaviour(t, "bulk info with commas only and with empty parts is answered", func(t *testing.T) {
		container := create(t, spec(t))
		response, said := answer(t, "GET", "/containers/bulk_info?handles=", "")
		equal(t, said, fmt.Sprint(response.StatusCode, strings.TrimSpace(said)), "200{}")
		response, said = answer(t, "GET", "/containers/bulk_info?handles="+container.Handle()+",", "")
		equal(t, said, response.StatusCode, 200)
		holds(t, said, `"`+container.Handle()+`"`, `"Info"`)
	})
}

// hijacked starts a process and returns its connection after the head, and the first message.
func hijacked(t *testing.T, container garden.Container, body string) (*wire, map[string]any) {
	t.Helper()
	conn := dial(t)
	conn.asks("POST", "/containers/"+container.Handle()+"/processes", body)
	var head []string
	for {
		line, err := conn.reader.ReadString('\n')
		must(t, err)
		if line == "\r\n" {
			break
		}
		head = append(head, strings.TrimSpace(line))
	}
	equal(t, "status line", head[0], "HTTP/1.1 201 Created")
	lower := strings.ToLower(strings.Join(head[1:], "\n"))
	holds(t, lower, "content-type: application/json", "transfer-encoding: chunked")
	if strings.Contains(lower, "connection: close") || strings.Contains(lower, "content-length") {
		t.Fatalf("the Go client cannot hijack after %q", head)
	}
	return conn, conn.message()
}

// message reads one message of a process connection.
func (w *wire) message() map[string]any {
	w.t.Helper()
	line, err := w.reader.ReadString('\n')
	if err != nil {
		w.t.Fatalf("%v after %q", err, line)
	}
	var message map[string]any
	if err := json.Unmarshal([]byte(line), &message); err != nil {
		w.t.Fatalf("%v: %q", err, line)
	}
	return message
}

// stream fetches one output of a process to its end.
func (w *wire) stream(container garden.Container, first map[string]any, which string) string {
	w.t.Helper()
	conn := dial(w.t)
	conn.says("GET /containers/%s/processes/%s/attaches/%s/%s HTTP/1.1\r\nHost: api\r\n\r\n",
		container.Handle(), first["process_id"], first["stream_id"], which)
	for {
		line, err := conn.reader.ReadString('\n')
		must(w.t, err)
		if line == "\r\n" {
			break
		}
	}
	content, err := io.ReadAll(conn.reader)
	must(w.t, err)
	return string(content)
}

func TestProcessConnection(t *testing.T) {
	behaviour(t, "the first message names the process and the stream, the last the status, and then it ends", func(t *testing.T) {
		container := create(t, spec(t))
		conn, first := hijacked(t, container, `{"id":"mine","path":"/bin/sh","args":["-c","echo out; echo err >&2; exit 3"]}`)
		equal(t, "process", first["process_id"], any("mine"))
		if id, is := first["stream_id"].(string); !is || id == "" || url.PathEscape(id) != id {
			t.Fatalf("stream id %v", first["stream_id"])
		}
		equal(t, "stdout", conn.stream(container, first, "stdout"), "out\n")
		equal(t, "stderr", conn.stream(container, first, "stderr"), "err\n")
		last := conn.message()
		equal(t, "process", last["process_id"], any("mine"))
		equal(t, "status", last["exit_status"], any(3.0))
		_, err := conn.reader.ReadByte()
		equal(t, "end", err, io.EOF)
	})
	behaviour(t, "an exit status of zero is said", func(t *testing.T) {
		conn, _ := hijacked(t, create(t, spec(t)), `{"path":"true"}`)
		equal(t, "status", conn.message()["exit_status"], any(0.0))
	})
	behaviour(t, "a stream can be fetched after the process connection has ended", func(t *testing.T) {
		container := create(t, spec(t))
		conn, first := hijacked(t, container, `{"path":"echo","args":["late"]}`)
		equal(t, "status", conn.message()["exit_status"], any(0.0))
		must(t, conn.Close())
		time.Sleep(300 * time.Millisecond)
		equal(t, "stdout", conn.stream(container, first, "stdout"), "late\n")
	})
	behaviour(t, "an unknown stream id is answered, and ends at once", func(t *testing.T) {
		container := create(t, spec(t))
		conn, first := hijacked(t, container, `{"path":"sleep","args":["1000"]}`)
		first["stream_id"] = "no-such-stream"
		equal(t, "stdout", conn.stream(container, first, "stdout"), "")
	})
	behaviour(t, "input after its end is discarded, and signals and sizes after it still work", func(t *testing.T) {
		container := create(t, spec(t))
		conn, first := hijacked(t, container,
			`{"path":"/bin/sh","args":["-c","trap 'echo asked; exit 5' TERM; cat; echo end; while :; do sleep 0.05; done"]}`)
		conn.says(`{"source":0,"data":"text\n"}` + "\n" + `{"source":0}` + "\n" + `{"source":0,"data":"too late"}` + "\n" + `{"source":0}` + "\n")
		conn.says(`{"tty":{"window_size":{"columns":10,"rows":10}}}` + "\n")
		time.Sleep(200 * time.Millisecond)
		conn.says(`{"signal":0}` + "\n")
		equal(t, "status", conn.message()["exit_status"], any(5.0))
		equal(t, "stdout", conn.stream(container, first, "stdout"), "text\nend\nasked\n")
	})
	behaviour(t, "messages may come with the request, in one piece and in many", func(t *testing.T) {
		container := create(t, spec(t))
		conn := dial(t)
		body := `{"path":"cat"}`
		conn.says("POST /containers/%s/processes HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n%s%s", container.Handle(), len(body), body,
			`{"source":0,"data":"ahead\n"}`+"\n")
		for {
			line, err := conn.reader.ReadString('\n')
			must(t, err)
			if line == "\r\n" {
				break
			}
		}
		first := conn.message()
		for _, letter := range `{"source":0,"data":"in pieces\n"}` + "\n" + `{"source":0}` + "\n" {
			conn.says("%c", letter)
		}
		equal(t, "status", conn.message()["exit_status"], any(0.0))
		equal(t, "stdout", conn.stream(container, first, "stdout"), "ahead\nin pieces\n")
	})
	behaviour(t, "nonsense on a process connection ends that connection at most", func(t *testing.T) {
		container := create(t, spec(t))
		conn, first := hijacked(t, container, `{"path":"sleep","args":["1000"]}`)
		conn.says("this is not json\n{\"signal\":\"x\"}\n\x00\xff\n")
		info, err := container.Info()
		must(t, err)
		equal(t, "processes", len(info.ProcessIDs), 1)
		attached, err := container.Attach(first["process_id"].(string), garden.ProcessIO{})
		must(t, err)
		must(t, attached.Signal(garden.SignalKill))
		equal(t, "status", wait(t, attached), 137)
	})
	behaviour(t, "a message without an end takes no memory without bound", func(t *testing.T) {
		needsOwnServer(t)
		conn, _ := hijacked(t, create(t, spec(t)), `{"path":"sleep","args":["1000"]}`)
		before := memory(t)
		_, _ = io.WriteString(conn, `{"source":0,"data":"`)
		chunk := strings.Repeat("x", mebibyte)
		for range 256 {
			if _, err := io.WriteString(conn, chunk); err != nil {
				break
			}
		}
		if grown := memory(t) - before; grown > 128<<20 {
			t.Fatalf("grew by %d MiB", grown>>20)
		}
	})
}
