package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/containers/v1"
	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	"github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/limpet-run/limpet/integration/harness"
)

const (
	// restartWorkers start and remove containers at the same time; restarts is how often containerd is killed meanwhile.
	restartWorkers = 8
	restarts       = 3
	// restartContainers is how many they start in all, unless the environment's LIMPET_TEST_RESTART_CONTAINERS has another number.
	restartContainers = 200
	// callAttempts bounds how often a call is made again that containerd's end has cut off: once for each restart would do.
	callAttempts = 2 * restarts
)

// retry makes a call as clients do whose containerd may be started again: when the connection breaks it waits for the next one and makes
// the call once more. An error that says that the broken call had been carried out all the same is none then; there is no answer.
func retry[Request, Answer any](s *scope, call func(context.Context, *Request, ...grpc.CallOption) (*Answer, error), request *Request,
	carriedOut func(error) bool) (answer *Answer, err error) {
	for attempt := range callAttempts {
		answer, err = call(daemon.Context(s.ctx), request, grpc.WaitForReady(true))
		if attempt > 0 && err != nil && carriedOut(err) {
			return nil, nil
		}
		if !errdefs.IsUnavailable(err) {
			break
		}
	}
	return answer, err
}

// load makes containers with containerd's API alone, over its restarts.
type load struct {
	*scope
	template *containers.Container
	spec     specs.Spec
	parent   string // of each container's snapshot
	// deletedTwice has the containers in the deletion of whose task containerd was killed. It tells their exits once more itself when
	// it is asked again, with any runtime: the shim, which has told them, says that there is no such task.
	deletedTwice sync.Map
}

func (s *scope) newLoad() *load {
	s.Helper()
	template := s.create(nil, "true")
	response, err := daemon.Containers.Get(daemon.Context(s.ctx), &containers.GetContainerRequest{ID: template.id})
	s.must(err)
	l := &load{scope: s, template: response.Container}
	s.must(json.Unmarshal(l.template.Spec.Value, &l.spec))
	snapshot, err := daemon.Snapshots.Stat(daemon.Context(s.ctx), &snapshots.StatSnapshotRequest{
		Snapshotter: l.template.Snapshotter, Key: l.template.SnapshotKey,
	})
	s.must(err)
	l.parent = snapshot.Info.Parent
	return l
}

// start makes a container and its task and starts it, with these FIFOs or none. The sandbox is the container in whose sandbox it is;
// empty: one of its own.
func (l *load) start(id, sandbox, stdin, stdout string, command ...string) error {
	spec := l.spec
	process, linux := *spec.Process, *spec.Linux
	process.Args, linux.CgroupsPath = command, filepath.Join("/", daemon.Namespace, id)
	spec.Process, spec.Linux = &process, &linux
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if _, err := retry(l.scope, daemon.Containers.Create, &containers.CreateContainerRequest{Container: &containers.Container{
		ID: id, Image: l.template.Image, Runtime: l.template.Runtime, Sandbox: sandbox,
		Spec:        &anypb.Any{TypeUrl: l.template.Spec.TypeUrl, Value: text},
		Snapshotter: l.template.Snapshotter, SnapshotKey: id,
	}}, errdefs.IsAlreadyExists); err != nil {
		return fmt.Errorf("create container %s: %w", id, err)
	}
	// After the container, so that containerd's garbage collection, which follows a start, sees what it is for.
	if _, err := retry(l.scope, daemon.Snapshots.Prepare, &snapshots.PrepareSnapshotRequest{
		Snapshotter: l.template.Snapshotter, Key: id, Parent: l.parent,
	}, errdefs.IsAlreadyExists); err != nil {
		return fmt.Errorf("prepare snapshot %s: %w", id, err)
	}
	mounts, err := retry(l.scope, daemon.Snapshots.Mounts, &snapshots.MountsRequest{Snapshotter: l.template.Snapshotter, Key: id}, never)
	if err != nil {
		return fmt.Errorf("mounts of %s: %w", id, err)
	}
	if _, err := retry(l.scope, daemon.Tasks.Create, &tasks.CreateTaskRequest{
		ContainerID: id, Rootfs: mounts.Mounts, Stdin: stdin, Stdout: stdout, Stderr: stdout,
	}, errdefs.IsAlreadyExists); err != nil {
		return fmt.Errorf("create task %s: %w", id, err)
	}
	if _, err := retry(l.scope, daemon.Tasks.Start, &tasks.StartRequest{ContainerID: id}, errdefs.IsFailedPrecondition); err != nil {
		return fmt.Errorf("start task %s: %w", id, err)
	}
	return nil
}

func never(error) bool { return false }

// finish waits for the end of a container, which has to be with that status, and removes it.
func (l *load) finish(id string, want uint32) error {
	exit, err := retry(l.scope, daemon.Tasks.Wait, &tasks.WaitRequest{ContainerID: id}, never)
	if err != nil {
		return fmt.Errorf("wait for %s: %w", id, err)
	}
	if exit.ExitStatus != want {
		return fmt.Errorf("wait for %s says %d, want %d", id, exit.ExitStatus, want)
	}
	deleted, err := retry(l.scope, daemon.Tasks.Delete, &tasks.DeleteTaskRequest{ContainerID: id}, errdefs.IsNotFound)
	if err != nil {
		return fmt.Errorf("delete task %s: %w", id, err)
	}
	switch {
	case deleted == nil:
		l.deletedTwice.Store(id, true)
	case deleted.ExitStatus != want:
		return fmt.Errorf("delete of %s says %d, want %d", id, deleted.ExitStatus, want)
	}
	if _, err := retry(l.scope, daemon.Containers.Delete, &containers.DeleteContainerRequest{ID: id}, errdefs.IsNotFound); err != nil {
		return fmt.Errorf("delete container %s: %w", id, err)
	}
	_, err = retry(l.scope, daemon.Snapshots.Remove, &snapshots.RemoveSnapshotRequest{
		Snapshotter: l.template.Snapshotter, Key: id,
	}, errdefs.IsNotFound)
	if err != nil && !errdefs.IsNotFound(err) { // garbage collection may have been faster
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

// householdSize is how many containers share a sandbox: the first one and its lodgers.
const householdSize = 13

// household starts a container, n-1 more in its sandbox one after the other, and removes each.
func (l *load) household(id string, n int, done func()) error {
	if err := l.start(id, "", "", "", "sleep", "1000000"); err != nil {
		return err
	}
	if _, err := retry(l.scope, daemon.Sandboxes.Create, &sandboxapi.StoreCreateRequest{
		Sandbox: &types.Sandbox{SandboxID: id, Runtime: &types.Sandbox_Runtime{Name: runtime}},
	}, errdefs.IsAlreadyExists); err != nil {
		return fmt.Errorf("record sandbox %s: %w", id, err)
	}
	for i := range n - 1 {
		lodger, code := fmt.Sprintf("%s-%d", id, i), uint32(i+1)
		if err := l.start(lodger, id, "", "", "sh", "-c", fmt.Sprintf("exit %d", code)); err != nil {
			return err
		}
		if err := l.finish(lodger, code); err != nil {
			return err
		}
		done()
	}
	if _, err := retry(l.scope, daemon.Tasks.Kill, &tasks.KillRequest{ContainerID: id, Signal: uint32(unix.SIGKILL)},
		errdefs.IsNotFound); err != nil {
		return fmt.Errorf("kill %s: %w", id, err)
	}
	if err := l.finish(id, 128+uint32(unix.SIGKILL)); err != nil {
		return err
	}
	if _, err := retry(l.scope, daemon.Sandboxes.Delete, &sandboxapi.StoreDeleteRequest{SandboxID: id}, errdefs.IsNotFound); err != nil {
		return fmt.Errorf("delete the record of sandbox %s: %w", id, err)
	}
	done()
	return nil
}

// work starts and removes containers with all workers at once. Each one that is gone sends to done, which is closed in the end.
func (l *load) work(total int, done chan<- struct{}) error {
	defer close(done)
	var group errgroup.Group
	for worker := range restartWorkers {
		group.Go(func() error {
			left := total / restartWorkers
			for household := 0; left > 0; household++ {
				n := min(left, householdSize)
				left -= n
				if err := l.household(fmt.Sprintf("w%d-%d", worker, household), n, func() { done <- struct{}{} }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// talker is a container that counts aloud. Who listens sees whether a number is missing or comes twice.
type talker struct {
	container
	pid   uint32
	heard atomic.Int64
	err   chan error
}

func (l *load) talker() *talker {
	l.Helper()
	path := l.fifo()
	output := l.openFIFO(path)
	t := &talker{container: container{l.scope, "talker"}, err: make(chan error, 1)}
	l.must(l.start(t.id, "", "", path,
		"sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"))
	go func() {
		for lines := bufio.NewScanner(output); lines.Scan(); t.heard.Add(1) {
			if want := strconv.FormatInt(t.heard.Load(), 10); lines.Text() != want {
				t.err <- fmt.Errorf("heard %q, not %s", lines.Text(), want)
				return
			}
		}
	}()
	t.pid = t.state().Pid
	return t
}

// state is what containerd knows of the talker's task.
func (t *talker) state() *tasktypes.Process {
	t.Helper()
	response, err := daemon.Tasks.Get(daemon.Context(t.ctx), &tasks.GetRequest{ContainerID: t.id})
	t.must(err)
	return response.Process
}

// goesOn waits until more has been heard, and checks that containerd knows the talker as before.
func (t *talker) goesOn() {
	t.Helper()
	before := t.heard.Load()
	for tick := time.NewTicker(50 * time.Millisecond); t.heard.Load() == before; {
		select {
		case <-tick.C:
		case err := <-t.err:
			t.Fatal(err)
		case <-t.ctx.Done():
			t.Fatalf("nothing was heard after %d", before)
		}
	}
	if state := t.state(); state.Status != tasktypes.Status_RUNNING || state.Pid != t.pid {
		t.Errorf("the talker's task, with pid %d before, is now %v", t.pid, state)
	}
}

// reader is a container that ends with 7 when it has read a line.
type reader struct {
	container
	stdin, stdout *os.File
}

func (l *load) reader() *reader {
	l.Helper()
	stdin, stdout := l.fifo(), l.fifo()
	r := &reader{container: container{l.scope, "reader"}, stdin: l.openFIFO(stdin)}
	var err error
	r.stdout, err = os.OpenFile(stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	l.must(err)
	l.Cleanup(func() { r.stdout.Close() })
	l.must(l.start(r.id, "", stdin, stdout, "sh", "-c", "read line; exit 7"))
	return r
}

// end lets it read its line and waits until its output has ended, which needs no containerd.
func (r *reader) end() {
	r.Helper()
	_, err := r.stdin.WriteString("line\n")
	r.must(err)
	_, err = io.ReadAll(r.stdout)
	r.must(err)
}

// TestRestartUnderLoad kills containerd three times while eight workers start and remove containers. No exit is lost, none is told
// twice, the output of a container that runs all the time goes on, and an exit that happened while containerd was away is there.
//
// containerd's own runtime does not pass: it loses a task whose process ended while containerd was away, and leaves sockets.
func TestRestartUnderLoad(t *testing.T) {
	s := limpetOnly(t)
	total := restartContainers
	if text := os.Getenv("LIMPET_TEST_RESTART_CONTAINERS"); text != "" {
		var err error
		total, err = strconv.Atoi(text)
		s.must(err)
	}
	total -= total % restartWorkers
	s.configure(map[string]any{"timeouts": map[string]any{"boot": "90s"}}) // eight machines boot at once, emulated
	logged := len(daemon.Log())
	recorders := []*harness.Recorder{s.record()}
	l := s.newLoad()
	talker, reader := l.talker(), l.reader()

	began := time.Now()
	done := make(chan struct{}, total)
	worked := make(chan error, 1)
	go func() { worked <- l.work(total, done) }()
	for i := range restarts {
		for range total / (restarts + 1) {
			<-done
		}
		s.must(daemon.Kill())
		if i == 1 {
			reader.end()
		}
		s.must(daemon.Restart(s.ctx))
		recorders = append(recorders, s.record())
		talker.goesOn()
	}
	s.must(<-worked)
	took := time.Since(began)
	s.Logf("%d containers in %s: %.1f a second", total, took.Round(time.Millisecond), float64(total)/took.Seconds())
	s.must(l.finish(reader.id, 7))
	talker.goesOn()
	talker.kill(unix.SIGKILL)
	s.must(l.finish(talker.id, 128+uint32(unix.SIGKILL)))
	l.countExits(recorders, daemon.Log()[logged:], total+2)
}

// countExits compares the exits that shims have told containerd, over all its lives, with the number of those that there were. Its log
// tells of each event, but not of whom. The recorders tell that, but have missed those that came before they were there again.
func (l *load) countExits(recorders []*harness.Recorder, log string, want int) {
	l.Helper()
	told := 0
	for line := range strings.Lines(log) {
		if strings.Contains(line, `msg="event forwarded"`) && strings.Contains(line, " topic=/tasks/exit ") {
			told++
		}
	}
	if told != want {
		l.Errorf("containerd was told of %d exits, there were %d", told, want)
	}
	seen := map[string]int{}
	for _, recorder := range recorders {
		for _, event := range recorder.All() {
			if event.Topic == "/tasks/exit" {
				seen[event.Container()]++
			}
		}
	}
	for id, n := range seen {
		if _, twice := l.deletedTwice.Load(id); n > 1 && !twice {
			l.Errorf("the exit of %s was told %d times", id, n)
		}
	}
	l.Logf("%d of %d exits were seen as events by clients", len(seen), want)
}
