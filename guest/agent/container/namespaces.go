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
// have, with paths.
func (s *Set) join(wanted []specs.LinuxNamespace) ([]specs.LinuxNamespace, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	namespaces := append([]specs.LinuxNamespace{}, wanted...)
	for i := range namespaces {
		namespace := &namespaces[i]
		if namespace.Path == "" {
			continue
		}
		var err error
		if namespace.Path, err = s.find(namespace.Type, namespace.Path); err != nil {
			return nil, err
		}
	}
	return namespaces, nil
}

// find finds what a word means for a type of namespace. s.mu is held.
func (s *Set) find(kind specs.LinuxNamespaceType, word string) (string, error) {
	if word == protocol.PodNamespace {
		if s.pod == nil {
			return "", fmt.Errorf("the pod's %s namespace: this machine has no pod: %w", kind, errdefs.ErrFailedPrecondition)
		}
		return s.pod.Namespace(kind)
	}
	id, ok := strings.CutPrefix(word, protocol.ContainerNamespacePrefix)
	if !ok {
		return "", fmt.Errorf("%s namespace %.*q: want %q or %q: %w", kind, maxID, word, protocol.PodNamespace,
			protocol.ContainerNamespacePrefix+"ID", errdefs.ErrInvalidArgument)
	}
	owner := s.containers[id]
	switch {
	case owner == nil:
		return "", fmt.Errorf("the %s namespace of container %.*q: %w", kind, maxID, id, errdefs.ErrNotFound)
	case owner.init == nil || !owner.init.running():
		return "", fmt.Errorf("the %s namespace of container %s: it does not run: %w", kind, id, errdefs.ErrFailedPrecondition)
	}
	return pod.NamespacePath(owner.init.child.Pid(), kind)
}
