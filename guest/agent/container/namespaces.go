package container

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/agent/pod"
	"github.com/limpet-run/limpet/guest/protocol"
)

// pidSpace is a PID namespace, which may be that of several containers: who may trace in one of them may trace in all. Guarded by set.mu.
type pidSpace struct {
	mayTrace bool // a process in it has, or had, CAP_SYS_PTRACE
}

// MakePod makes the namespaces that the containers of a pod share. It is done once, before the first container is prepared.
func (s *Set) MakePod(ctx context.Context, m protocol.Pod) error {
	s.making.Lock()
	defer s.making.Unlock()
	s.mu.Lock()
	made, late, stopping := s.pod != nil, len(s.containers) > 0, s.stopping
	s.mu.Unlock()
	switch {
	case stopping:
		return errStopping
	case made:
		return fmt.Errorf("make the pod's namespaces: %w", errdefs.ErrAlreadyExists)
	case late:
		return fmt.Errorf("make the pod's namespaces: there are containers already: %w", errdefs.ErrFailedPrecondition)
	}
	holder, err := pod.Start(ctx, s.Reaper, m)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.pod = holder
	s.mu.Unlock()
	go func() {
		<-holder.Done()
		s.Logger.Error("the process that held the pod's namespaces has ended: no container can be started in them")
	}()
	return nil
}

// join finds the namespaces of others that a container's specification asks for, by their words. It returns all that the container is to
// have, with paths, and whose processes it sees.
func (s *Set) join(wanted []specs.LinuxNamespace) ([]specs.LinuxNamespace, *pidSpace, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	namespaces := append([]specs.LinuxNamespace{}, wanted...)
	space := &pidSpace{}
	for i := range namespaces {
		namespace := &namespaces[i]
		if namespace.Path == "" {
			continue
		}
		path, owner, err := s.find(namespace.Type, namespace.Path)
		if err != nil {
			return nil, nil, err
		}
		namespace.Path = path
		if namespace.Type == specs.PIDNamespace {
			space = owner
		}
	}
	return namespaces, space, nil
}

// find finds what a word means for a type of namespace. s.mu is held.
func (s *Set) find(kind specs.LinuxNamespaceType, word string) (string, *pidSpace, error) {
	if word == protocol.PodNamespace {
		if s.pod == nil {
			return "", nil, fmt.Errorf("the pod's %s namespace: this machine has no pod: %w", kind, errdefs.ErrFailedPrecondition)
		}
		path, err := s.pod.Namespace(kind)
		return path, &s.podSpace, err
	}
	id, ok := strings.CutPrefix(word, protocol.ContainerNamespacePrefix)
	if !ok {
		return "", nil, fmt.Errorf("%s namespace %.*q: want %q or %q: %w", kind, maxID, word, protocol.PodNamespace,
			protocol.ContainerNamespacePrefix+"ID", errdefs.ErrInvalidArgument)
	}
	owner := s.containers[id]
	switch {
	case owner == nil:
		return "", nil, fmt.Errorf("the %s namespace of container %.*q: %w", kind, maxID, id, errdefs.ErrNotFound)
	case owner.init == nil || !owner.init.running():
		return "", nil, fmt.Errorf("the %s namespace of container %s: it does not run: %w", kind, id, errdefs.ErrFailedPrecondition)
	}
	path, err := pod.NamespacePath(owner.init.child.Pid(), kind)
	return path, owner.space, err
}
