package harness

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Authority signs certificates for 127.0.0.1.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	// Path is where its own certificate is.
	Path string
}

// NewAuthority makes one that nobody trusts yet.
func NewAuthority(folder string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gardend's tests"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(folder, "ca.pem")
	return &Authority{certificate, key, path}, os.WriteFile(path, pemOf("CERTIFICATE", der), 0o644)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Sign makes a certificate and its key.
func (a *Authority) Sign() (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "127.0.0.1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &private.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", encoded), err
}

// The one who may use a real registry, and the digest of the password that the registry wants to see.
const (
	RegistryUser     = "alice"
	RegistryPassword = "hunter2-is-secret"
	passwordDigest   = "$2a$04$8U6vtvB543eftMzuNJY5kuwg14viwDoJPLvuSpXZIoMW1AdFjfbJW"
)

// Registry is Debian's docker-registry, on loopback with TLS and a password.
type Registry struct {
	// Host is what references begin with.
	Host    string
	command *exec.Cmd
	client  *http.Client
}

// StartRegistry starts one and waits until it answers.
func StartRegistry(folder string, authority *Authority) (*Registry, error) {
	certificate, key, err := authority.Sign()
	if err != nil {
		return nil, err
	}
	// Nobody else takes it in the meantime that it takes to start.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	host := listener.Addr().String()
	config := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}
auth: {htpasswd: {realm: tests, path: %q}}
http: {addr: %q, tls: {certificate: %q, key: %q}}
`, filepath.Join(folder, "store"), filepath.Join(folder, "htpasswd"), host, filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem"))
	err = errors.Join(
		os.WriteFile(filepath.Join(folder, "config.yml"), []byte(config), 0o600),
		os.WriteFile(filepath.Join(folder, "cert.pem"), certificate, 0o600),
		os.WriteFile(filepath.Join(folder, "key.pem"), key, 0o600),
		os.WriteFile(filepath.Join(folder, "htpasswd"), []byte(RegistryUser+":"+passwordDigest+"\n"), 0o600),
		listener.Close(),
	)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(folder, "registry.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.Command("docker-registry", "serve", filepath.Join(folder, "config.yml"))
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("docker-registry: %w (make setup installs it)", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority.certificate)
	registry := &Registry{Host: host, command: command, client: &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: time.Minute,
	}}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		response, err := registry.do(http.MethodGet, "/v2/", "", nil)
		if err == nil && response.StatusCode == http.StatusOK {
			return registry, nil
		}
		if time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("docker-registry does not answer: %v %v: %s", response, err, tail(log.Name())), registry.Stop())
		}
	}
}

// Stop ends it.
func (r *Registry) Stop() error {
	err := r.command.Process.Kill()
	_ = r.command.Wait()
	return err
}

func (r *Registry) do(method, path, kind string, body []byte) (*http.Response, error) {
	url := path
	if strings.HasPrefix(path, "/") {
		url = "https://" + r.Host + path
	}
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth(RegistryUser, RegistryPassword)
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	response, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, response.Body)
	return response, response.Body.Close()
}

// Push puts an image into a repository, under a tag where one is given.
func (r *Registry) Push(repository, tag string, image Image) error {
	for _, child := range image.Children {
		if err := r.Push(repository, child.Manifest.Digest(), child); err != nil {
			return err
		}
	}
	for _, blob := range image.Blobs {
		response, err := r.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/", "", nil)
		if err != nil {
			return err
		}
		location := response.Header.Get("Location")
		join := "?"
		if strings.Contains(location, "?") {
			join = "&"
		}
		response, err = r.do(http.MethodPut, location+join+"digest="+blob.Digest(), "application/octet-stream", blob.Data)
		if err != nil || response.StatusCode != http.StatusCreated {
			return fmt.Errorf("pushing a blob: %v %v", response, err)
		}
	}
	response, err := r.do(http.MethodPut, "/v2/"+repository+"/manifests/"+tag, image.Manifest.MediaType, image.Manifest.Data)
	if err != nil || response.StatusCode != http.StatusCreated {
		return fmt.Errorf("pushing a manifest: %v %v", response, err)
	}
	return nil
}

// FakeRegistry serves images from memory, and does what it is told to do badly.
type FakeRegistry struct {
	// Host is what references begin with.
	Host string

	server    *http.Server
	mutex     sync.Mutex
	manifests map[string]Blob
	blobs     map[string][]byte
	seen      []*http.Request
	wrong     func(w http.ResponseWriter, r *http.Request) bool
}

// NewFakeRegistry starts one that speaks http.
func NewFakeRegistry() (*FakeRegistry, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return serveFake(listener), nil
}

// NewFakeRegistryOverTLS starts one that speaks https.
func NewFakeRegistryOverTLS(authority *Authority) (*FakeRegistry, error) {
	certificate, key, err := authority.Sign()
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return nil, err
	}
	return serveFake(listener), nil
}

func serveFake(listener net.Listener) *FakeRegistry {
	fake := &FakeRegistry{
		Host: listener.Addr().String(), manifests: map[string]Blob{}, blobs: map[string][]byte{},
	}
	fake.server = &http.Server{Handler: fake, ReadHeaderTimeout: time.Minute}
	go func() { _ = fake.server.Serve(listener) }()
	return fake
}

// Misbehave lets somebody answer in its place, who says whether he did. Nil: nobody any more.
func (f *FakeRegistry) Misbehave(wrong func(w http.ResponseWriter, r *http.Request) bool) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.wrong = wrong
}

// Stop ends it.
func (f *FakeRegistry) Stop() { _ = f.server.Close() }

// Push puts an image into a repository, under a tag.
func (f *FakeRegistry) Push(repository, tag string, image Image) {
	for _, child := range image.Children {
		f.Push(repository, child.Manifest.Digest(), child)
	}
	f.mutex.Lock()
	defer f.mutex.Unlock()
	for _, blob := range image.Blobs {
		f.blobs[repository+"/blobs/"+blob.Digest()] = blob.Data
	}
	f.manifests[repository+"/manifests/"+tag] = image.Manifest
	f.manifests[repository+"/manifests/"+image.Manifest.Digest()] = image.Manifest
}

// Seen are the requests whose method and path these are, the path without /v2/ and perhaps in part.
func (f *FakeRegistry) Seen(method, part string) []*http.Request {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	var seen []*http.Request
	for _, request := range f.seen {
		if request.Method == method && strings.Contains(request.URL.Path, part) {
			seen = append(seen, request)
		}
	}
	return seen
}

// ServeHTTP answers.
func (f *FakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mutex.Lock()
	f.seen = append(f.seen, r.Clone(r.Context()))
	wrong := f.wrong
	f.mutex.Unlock()
	if wrong == nil || !wrong(w, r) {
		f.ServePlain(w, r)
	}
}

// ServePlain answers as a registry should.
func (f *FakeRegistry) ServePlain(w http.ResponseWriter, r *http.Request) {
	f.mutex.Lock()
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	manifest, isManifest := f.manifests[path]
	blob, isBlob := f.blobs[path]
	f.mutex.Unlock()
	switch {
	case isManifest:
		w.Header().Set("Content-Type", manifest.MediaType)
		w.Header().Set("Docker-Content-Digest", manifest.Digest())
		w.Header().Set("Content-Length", fmt.Sprint(len(manifest.Data)))
		if r.Method != http.MethodHead {
			_, _ = w.Write(manifest.Data)
		}
	case isBlob:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
	default:
		Refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
	}
}

// Refuse answers as registries refuse.
func Refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}
