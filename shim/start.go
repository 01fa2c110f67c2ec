package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/cgroup"
)

// Annotations by which CRI says what a container is in a pod.
const (
	annotationContainerType = "io.kubernetes.cri.container-type"
	annotationSandboxID     = "io.kubernetes.cri.sandbox-id"
	containerTypeContainer  = "container"
)

// start is the verb that containerd calls in a new bundle: it makes the socket, leaves a server behind that serves it, and writes its
// address to stdout. On success nothing else is written: containerd reads stdout and stderr as one.
func (c command) start(stdin io.Reader, stdout io.Writer) error {
	data, err := readAtMost(stdin)
	if err != nil {
		return err
	}
	input, err := parseBootstrapInput(data, c.namespace, c.id)
	if err != nil {
		return err
	}
	options, err := decodeOptions(input.options)
	if err != nil {
		return err
	}
	annotations, err := readAnnotations(c.bundle)
	if err != nil {
		return err
	}
	if sandbox, member := sandboxOf(annotations, c.id); member {
		path, err := socketPath(input.socketDir, c.address, c.namespace, sandbox)
		if err != nil {
			return err
		}
		if !served(path) {
			return fmt.Errorf("container %s: sandbox %s, to which it belongs, does not run: %w", c.id, sandbox, errdefs.ErrFailedPrecondition)
		}
		return writeBootstrapAnswer(stdout, "unix://"+path)
	}
	path, err := socketPath(input.socketDir, c.address, c.namespace, c.id)
	if err != nil {
		return err
	}
	switch err := c.startServer(path, options); {
	case errors.Is(err, errServed):
	case err != nil:
		return err
	}
	return writeBootstrapAnswer(stdout, "unix://"+path)
}

// sandboxOf returns the sandbox of a container that is not its sandbox's first.
func sandboxOf(annotations map[string]string, id string) (string, bool) {
	sandbox := annotations[annotationSandboxID]
	return sandbox, annotations[annotationContainerType] == containerTypeContainer && sandbox != "" && sandbox != id
}

// readAnnotations reads the annotations of a bundle's spec. A bundle made for a sandbox, not for a container, has no spec.
func readAnnotations(bundle string) (map[string]string, error) {
	path := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("%s is not an OCI spec: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return spec.Annotations, nil
}

// startServer listens on path and has a server serve it, one of the pool's or else one that it starts. Its identity is in the bundle when
// this returns.
func (c command) startServer(path string, options RuntimeOptions) (err error) {
	listener, err := listen(path)
	if err != nil {
		return fmt.Errorf("shim socket: %w", err)
	}
	defer listener.Close()
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	socket, err := listener.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	if err := writeOptionsRecord(c.bundle, options); err != nil {
		return err
	}

	c.stages.add(verbStart)
	pid, ok := c.fromPool(path, options, socket)
	if !ok {
		if pid, err = c.forkServer(path, options, socket); err != nil {
			return err
		}
		raiseOOMScore(pid)
	}
	defer func() {
		if err != nil {
			unix.Kill(pid, unix.SIGKILL) // it is ours, and serves nobody yet
		}
	}()
	process, err := runtime.DescribeProcess("the shim's server", pid)
	if err != nil {
		return err
	}
	return writeServerRecord(c.bundle, serverRecord{process, path})
}

// forkServer starts a server for the socket.
func (c command) forkServer(path string, options RuntimeOptions, socket *os.File) (pid int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	stages, err := c.stages.text()
	if err != nil {
		return 0, err
	}
	arguments := []string{"-namespace", c.namespace, "-id", c.id, "-address", c.address, "-socket", path, "-stages", stages}
	if c.debug {
		arguments = append(arguments, "-debug")
	}
	server := exec.Command(self, append(arguments, verbServe)...)
	server.Dir = c.bundle
	server.ExtraFiles = []*os.File{socket} // becomes descriptor socketDescriptor
	server.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := startInCgroup(server, options.ShimCgroup); err != nil {
		return 0, fmt.Errorf("start server: %w", err)
	}
	return server.Process.Pid, nil
}

// startInCgroup starts a command in a cgroup that is there already, or for an empty path in this process's own.
func startInCgroup(cmd *exec.Cmd, path string) error {
	if path == "" {
		return cmd.Start()
	}
	place, err := cgroup.ThisHost().Load(path)
	if err != nil {
		return fmt.Errorf("the runtime options' shim_cgroup: %w", err)
	}
	return place.Start(cmd)
}

// raiseOOMScore lets the host kill a shim before it kills containerd, from which the shim inherits its score. Where that is not
// permitted the shim is as good as containerd, which is no reason not to start.
func raiseOOMScore(pid int) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || score >= 1000 { // the largest
		return
	}
	os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(score+1)), 0)
}
